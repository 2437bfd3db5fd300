#include "server/mail/rules.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <pthread.h>

#define AT(stage) (1u << (stage))

/* First match wins. Rules that lead to a suppression (inactive, invalid_*) are narrow on purpose: a
 * refusal that is not understood costs one message, a wrong suppression costs all that follow. */
static const struct rule table[] = {
    {.name = "hop_count",
     .pattern =
         "too many hops|hop count exceeded|too many received|mail loop|routing loop|loop detected",
     .class_ = CLASS_PROTOCOL,
     .match = {"Error: too many hops", "Hop count exceeded - possible mail loop ATTR34",
               "Routing loop detected -- too many Received: headers"},
     .miss = {"too many recipients", "hop by later"}},
    {.name = "tls_required",
     .pattern =
         "must issue a starttls|starttls (?:is )?required|requires? (?:tls|starttls)\\b|"
         "(?:encryption|tls) (?:is )?(?:required|needed|mandatory)|session encryption is required|"
         "tls encryption|connection (?:is )?not encrypted",
     .class_ = CLASS_TLS,
     .effect = RULE_DEFER,
     .match = {"Must issue a STARTTLS command first", "TLS required by this server",
               "Session encryption is required", "Encryption needed for this recipient"},
     .miss = {"Authentication required", "STARTTLS not supported"}},
    {.name = "greylisted",
     .pattern =
         "gr[ae]y[- ]?list|(?:please )?come back in \\d|temporarily rejected[.:] try again "
         "later\\b.*unknown sender|"
         "you are being tarpitted|not yet authorized to deliver|try again in \\d+ ?(?:s|sec|min)|"
         "please retry (?:in|after) \\d+ ?(?:s|sec|min)|"
         "policy rejection- please try later|^try again later\\.?$|^service currently "
         "unavailable$|internal resource (?:s )?temporarily unavailable",
     .digit = '4',
     .class_ = CLASS_GREYLISTED,
     .match = {"Recipient address rejected: Greylisted, see "
               "http://postgrey.schweikert.ch/help/example.html",
               "Greylisting in action, please come back in 00:04:59",
               "Temporarily graylisted, try again later",
               "Internal resource temporarily unavailable - "
               "https://community.mimecast.com/docs/DOC-1369#451"},
     .miss = {"Temporary local problem - please try later", "Server busy. Please try again later"}},

    {.name = "sender_verify",
     .pattern = "sender verif(?:y|ication)|callout verification|verification failed for",
     .class_ = CLASS_POLICY,
     .match =
         {"Sender verify failed", "Could not complete sender verify callout",
          "Verification failed for @ The account or domain may not exist, they may be blacklisted"},
     .miss = {"recipient verification failed", "sender is blacklisted"}},

    /* ---- the source address is on a list ---- */
    {.name = "blocklist_named",
     .pattern =
         "spamhaus|spamcop|barracudacentral|sorbs\\.net|uceprotect|abuseat\\.org|psbl\\.surriel|"
         "manitu|nixspam|mailspike|invaluement|dnsbl|\\brbl|rbl\\b|truncate\\.gbudb|senderscore\\.("
         "?:com|org)/block|"
         "backscatterer|blocklist\\.de|hostkarma|zapbl|0spam|s5h\\.net|spamrats|dnswl.*list",
     .class_ = CLASS_BLOCKLIST,
     .match = {"Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
               "JunkMail rejected - mx.example [192.0.2.1]:4 is in an RBL, see "
               "https://www.spamhaus.org/query/",
               "Rejected because 192.0.2.1 is in a black list at b.barracudacentral.org",
               "Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.1"},
     .miss = {"Recipient address rejected: User unknown", "the marble hall is closed"}},
    {.name = "blocklist_words",
     .pattern = "(?:block|black|deny)[- ]?list(?:ed|ing)?\\b|on our block ?list|banned sending ip|"
                "\\(s3140\\)|\\bs3150\\b|\\bbl21\\b|client host .{0,80}\\bblocked\\b|"
                "\\bip\\b.{0,60}\\b(?:is|has been|was) (?:currently |temporarily "
                ")?(?:blocked|banned|blocklisted|listed)|"
                "\\b(?:is|are) (?:currently )?listed (?:in|on|at|by)\\b|_is_blocked|"
                "\\bip\\b.{0,40}\\brejected .{0,20}by (?:our )?list|blocked - see",
     .class_ = CLASS_BLOCKLIST,
     .match = {"Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your "
               "Internet service "
               "provider since part of their network is on our block list (S3140).",
               "Access denied, banned sending IP [192.0.2.1]",
               "Your IP address 192.0.2.1 has been blocked",
               "Message from (192.0.2.1) was blocked: sender is blacklisted"},
     .miss = {"The message was blocked because its content presents a potential security issue",
              "user is not listed", "Recipient blocked you"}},

    /* ---- what the receiver thinks of the source ---- */
    {.name = "reputation_words",
     .pattern =
         "(?:poor|low|bad|negative|insufficient|lack of) .{0,24}reputation|reputation "
         "(?:of|is|score|too)|"
         "due to .{0,40}reputation|senderbase|sender ?score|unsolicited mail originating|"
         "permanently deferred|user complaints|"
         "\\[?tss0[79]\\]?|\\[ts0[34]\\]|\\b(?:sc|dy|ou)-00\\d\\b|\\[cs01\\]|\\[hm08\\]|dt:spm|"
         "tosa@|a problem occurred\\. \\(ask your postmaster|ask your postmaster for help|"
         "suspicious activity|unusual .{0,20}activity from your|network .{0,30}(?:is |has been "
         ")?blocked|csi\\b.*cloudmark|"
         "poor ip|suspected spam source|mail from .{0,60}refused.*abuse",
     .class_ = CLASS_REPUTATION,
     .match = {"Your access to this mail system has been rejected due to the sending MTA's poor "
               "reputation.",
               "Our system has detected that this message is likely suspicious due to the very low "
               "reputation of the sending domain.",
               "[TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will "
               "NOT succeed.",
               "IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact @ "
               "to clarify.)"},
     .miss = {"Mailbox full", "Your message has a good score"}},
    {.name = "no_reverse_name",
     .pattern = "\\bptr\\b|reverse (?:dns|host|hostname|name|lookup|mapping)|cannot find your "
                "(?:reverse )?hostname|"
                "\\brdns\\b|no reverse|does not resolve to your ip|hostname could not be verified|"
                "helo .{0,40}(?:invalid|rejected|mismatch|not resolve)|helo command "
                "rejected|invalid helo|forged helo|"
                "generic (?:rdns|hostname)|dynamic (?:ip|hostname)",
     .class_ = CLASS_REPUTATION,
     .match = {"Client host rejected: cannot find your reverse hostname, [192.0.2.1]",
               "The IP address sending this message does not have a PTR record setup",
               "Helo command rejected: Host not found", "Bad DNS PTR resource record."},
     .miss = {"Sender address rejected: Domain not found", "captured"}},

    /* ---- SPF, DKIM, DMARC ---- */
    {.name = "authentication",
     .pattern =
         "\\bspf\\b|\\bdkim\\b|\\bdmarc\\b|\\barc "
         "validation|unauthenticated|authentication-results|"
         "authentication (?:checks? |level|results?|information).{0,40}(?:fail|not|miss|required)|"
         "required authentication level|sender .{0,20}not authenticated|fails? (?:sender "
         ")?authentication|"
         "anti-?spoofing|spoofed|sender policy framework",
     .class_ = CLASS_AUTHENTICATION,
     .match =
         {"Unauthenticated email from example.com is not accepted due to domain's DMARC policy.",
          "Access denied, sending domain EXAMPLE.COM does not pass DMARC verification and has a "
          "DMARC policy of reject.",
          "SPF check failed for example.com", "Rejected by header based Anti-Spoofing policy"},
     .miss = {"Authentication required", "Authentication credentials invalid"}},

    /* ---- too much, too fast ---- */
    {.name = "too_many_recipients",
     .pattern = "too many recipients?\\b(?! *(?:received|this|per|in|for))|too many rcpt|maximum "
                "(?:number of )?recipients|"
                "recipient limit|recipients? limit exceeded|recipient count",
     .stages = AT(STAGE_RCPT),
     .class_ = CLASS_RATE_LIMITED,
     .effect = RULE_DEFER,
     .is_too_many_recipients = true,
     .match = {"Error: too many recipients", "Too many recipients", "#4.5.3 Too many recipients"},
     .miss = {"Too many recipients received this hour", "Mailbox full"}},
    {.name = "rate_limit_daily",
     .pattern =
         "(?:daily|hourly|sending) .{0,24}(?:quota|limit) (?:is |has been )?(?:exceeded|reached)|"
         "exceeded .{0,40}(?:daily|hourly|sending) .{0,20}(?:quota|limit)|maximum credits exceeded|"
         "maximum sending rate|throttling failure",
     .class_ = CLASS_RATE_LIMITED,
     .effect = RULE_DEFER,
     .match =
         {"Daily user sending limit exceeded. For more information on Gmail sending limits go to",
          "Daily sending quota exceeded.", "Throttling failure: Maximum sending rate exceeded.",
          "Maximum credits exceeded"},
     .miss = {"Mailbox quota exceeded",
              "The email account that you tried to reach is over quota."}},
    {.name = "rate_limit",
     .pattern =
         "rate[- ]?limit|rate limited|unusual rate|too many (?:concurrent |simultaneous |open "
         ")?(?:smtp )?"
         "(?:connections|sessions|messages|mails|emails|transactions|errors)|"
         "maximum number of (?:concurrent )?(?:connections|sessions)|connection limit|"
         "too (?:much|fast|quickly|frequent)|slow down|throttl|unexpected volume|send(?:ing)? "
         "limit exceeded|thread limit|"
         "receiving mail (?:at a rate|too)|exceeded "
         ".{0,30}(?:messages|emails|connections|recipients) per|"
         "server busy|(?:hour|minute|day|rate|connection) (?:limit|rate) exceeded|excessive "
         "(?:rate|message rate)|"
         "too many recipients (?:received "
         ")?(?:this|per|in)|\\[?tss0[456]\\]?|\\brp-00\\d\\b|\\(s77714\\)|"
         "exceeding (?:its|the|your) .{0,20}(?:rate|limit)|quota of "
         "(?:messages|connections)|message submission rate|"
         "too many (?:invalid|unknown) (?:recipients|users)|resources restricted|reached the limit",
     .class_ = CLASS_RATE_LIMITED,
     .match = {"The user you are trying to contact is receiving mail at a rate that prevents "
               "additional messages",
               "[TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume",
               "Too many connections, slow down. OFR004_104 [104]",
               "The maximum number of concurrent connections has exceeded a limit"},
     .miss = {"Too many recipients", "Message size exceeds fixed limit"}},

    /* ---- size, space ---- */
    {.name = "too_large",
     .pattern = "(?:message|mail|size|content|header|attachment).{0,40}(?:too "
                "(?:big|large|long)|exceed.{0,40}(?:size|limit|maximum))|"
                "maximum (?:allowed )?(?:message )?size|size limit|exceeds .{0,30}(?:message "
                "size|maximum size)|"
                "message size .{0,30}(?:exceed|larger|limit)|larger than (?:the "
                ")?(?:maximum|limit|allowed)",
     .digit = '5',
     .class_ = CLASS_TOO_LARGE,
     .match =
         {"Message size exceeds fixed maximum message size", "Message too large",
          "Your message exceeded Google's message size limits.",
          "size limit exceeded: RESOLVER.RST.RecipSizeLimit; message too large for this recipient"},
     .miss = {"Mailbox full", "too many recipients"}},
    {.name = "mailbox_full",
     .pattern =
         "(?:over|exceed\\w*|out of) "
         ".{0,30}quota|overquota|over-quota|quota.{0,20}(?:exceed|full|reached|violation)|"
         "mailbox.{0,30}(?:is |was "
         ")?full\\b|(?:inbox|mailbox|folder|storage|account).{0,40}(?:over quota|out of "
         "(?:storage|space)|is full|exceeded)|"
         "out of storage|exceeded storage allocation|insufficient .{0,20}(?:mailbox|user) |not "
         "enough (?:storage )?space|"
         "mailbox size limit|mailbox for .{0,80}is full|mailbox limit|disk quota|user is over",
     .class_ = CLASS_MAILBOX_FULL,
     .match = {"The email account that you tried to reach is over quota.", "Mailbox full",
               "The recipient's inbox is out of storage space and inactive.",
               "user quota exceeded"},
     .miss = {"Insufficient system storage", "Daily limit"}},

    /* ---- the sender, which would otherwise look like a recipient ---- */
    {.name = "sender_refused",
     .pattern = "sender (?:address |domain )?(?:is "
                ")?(?:rejected|denied|refused|blocked|invalid|unknown|not "
                "(?:allowed|accepted|permitted|verified))|"
                "invalid sender|sender.{0,40}(?:does not exist|domain "
                "not found|must resolve|not exist)|"
                "domain of sender|address is not verified|envelope blocked|from "
                "address.{0,40}(?:not|invalid|reject)|"
                "not (?:allowed|authorized|permitted) to send|send as this sender|no valid "
                "sender|mail from .{0,80}(?:rejected|denied)|"
                "reverse-path|return[- ]path.{0,40}(?:invalid|reject|not)",
     .class_ = CLASS_POLICY,
     .match = {"Sender address rejected: Domain not found", "Invalid sender",
               "Message rejected: Email address is not verified.",
               "Client does not have permissions to send as this sender"},
     .miss = {"Recipient address rejected: User unknown", "No such user"}},

    /* ---- the account is there but off ---- */
    /* "your account" is the client's at a smarthost: no word about the recipient */
    {.name = "inactive",
     .pattern =
         "(?<!your )(?<!sender )(?<!sending )\\b(?:account|mailbox|user|recipient)\\b.{0,60}"
         "\\b(?:disabled|deactivated|inactive|suspended|not active|no longer active|dormant|"
         "frozen)\\b|"
         "(?<!your )\\b(?:account|mailbox) .{0,20}\\b(?:closed|locked|expired)\\b|"
         "\\b(?:disabled|inactive|suspended|deactivated) "
         "(?:account|mailbox|user|recipient|address)|"
         "(?:address|mailbox|account|user) (?:is )?no longer (?:accepts|receives|in use|active|"
         "on server)",
     .stages = AT(STAGE_RCPT) | AT(STAGE_DATA) | AT(STAGE_END),
     .class_ = CLASS_INACTIVE,
     .match = {"The email account that you tried to reach is disabled.",
               "Mailbox disabled, not accepting messages",
               "Recipient address rejected: this account has been deactivated", "Account inactive"},
     .miss = {"Relaying disabled", "Your account has been suspended", "Connection expired"}},

    /* ---- content ---- */
    {.name = "virus_or_content",
     .pattern = "\\bvirus\\b|malware|infected|phish|potential security issue|content "
                "(?:rejected|denied|filter|presents)|"
                "executable|dangerous (?:attachment|content|file)|attachment.{0,30}(?:not "
                "allowed|blocked|rejected|prohibited)|"
                "(?:banned|forbidden|prohibited) (?:attachment|file|content|extension)|"
                "(?:url|link|uri).{0,40}(?:listed|blocked|rejected|malicious)|message content",
     .class_ = CLASS_SPAM_CONTENT,
     .match = {"This message was blocked because its content presents a potential security issue.",
               "Message rejected: virus found", "5.7.1 Content rejected",
               "This message contains malware (Eicar-Test-Signature)"},
     .miss = {"User unknown", "Mailbox full"}},
    {.name = "spam",
     .pattern =
         "\\b(?:spam|junk ?mail|unsolicited|bulk mail|ube|uce)\\b|spammy|anti-?spam|spam-like|"
         "spamassassin|high probability of spam|rejected as spam|\\bspam(?:my)?\\b",
     .class_ = CLASS_SPAM_CONTENT,
     .match = {"This message looks like SPAM to me",
               "Message rejected as spam by Content Filtering.",
               "Our system has detected that this message is likely unsolicited mail.",
               "High probability of spam"},
     .miss = {"User unknown", "No such user here"}},

    /* ---- the recipient's domain ---- */
    {.name = "invalid_domain",
     .pattern = "recipient .{0,60}domain not found|"
                "\\b(?:no such|unknown recipient|invalid recipient|nonexistent) domain\\b|"
                "(?<!sender )(?<!sending )domain (?:does not|doesn't|is not) "
                "(?:exist|accept|hosted|configured|handled|local)|"
                "(?:domain|host|server) (?:\\S+ )?(?:does not|doesn't) accept (?:any )?(?:e-?)?mail"
                "(?! (?:from|messages from))|"
                "dns domain .{0,60}does not exist|\\bnull ?mx\\b",
     .stages = AT(STAGE_RCPT) | AT(STAGE_DATA) | AT(STAGE_END),
     .class_ = CLASS_INVALID_DOMAIN,
     .match = {"Recipient address rejected: Domain not found",
               "Recipient domain does not accept mail (null MX)",
               "DNS domain 'example.invalid' does not exist", "No such domain at this location"},
     .miss = {"Sender address rejected: Domain not found",
              "This server does not accept mail from dynamic addresses",
              "Sender domain does not exist"}},

    /* ---- policy that would otherwise look like an unknown user ---- */
    {.name = "policy_restrictions",
     .pattern =
         "policy restrictions|(?:due to|for|because of|against|by) .{0,30}polic(?:y|ies)|policy "
         "(?:violation|reasons?|rejection)|"
         "violat.{0,30}polic|administrative(?:ly)? (?:prohibi|denied|prohibition)|rejected by "
         ".{0,40}(?:rule|policy|administrator)|"
         "security polic|transport rule|restricted (?:recipient|group|distribution)|"
         "only accepts? (?:messages|mail|email) from|\\bnot rfc ?53?22\\b|rfc 5322|non-?compliant|"
         "(?:missing|multiple|invalid|duplicate|malformed) "
         ".{0,30}(?:header|from|message-id|date)s?\\b",
     .class_ = CLASS_POLICY,
     .match = {"Requested action not taken: mailbox unavailable Reject due to policy restrictions.",
               "Message not accepted for policy reasons.", "Administrative prohibition",
               "Messages missing a valid address in From: header, or having no From: header, are "
               "not accepted."},
     .miss = {"User unknown", "Mailbox full"}},

    /* ---- nobody there ---- */
    {.name = "relay_denied",
     .pattern = "relay(?:ing)? (?:access )?(?:is )?(?:denied|prohibited|not "
                "(?:permitted|allowed)|refused|disabled)|"
                "(?:unable|not permitted|not allowed|cannot|refuse) to relay|we do not relay|relay "
                "not|not a (?:gateway|relay|open relay)|"
                "isn't in my list of allowed rcpthosts|not in my control",
     .class_ = CLASS_POLICY,
     .match = {"Relay access denied", "Unable to relay recipient in non-accepted domain",
               "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
               "relay not permitted"},
     .miss = {"User unknown in relay recipient table", "delayed"}},
    {.name = "invalid_recipient",
     .pattern =
         "\\b(?:user|recipient|mailbox|account|alias)(?: name)? (?:is )?"
         "(?:un(?:known|routeable|deliverable)|"
         "not (?:found|known|valid|exist|recognized|recognised|local|here|exists))|"
         "\\b(?:unknown|no such|invalid|nonexistent|non-existent|bad|undeliverable|unrouteable|"
         "unroutable|incorrect) (?:local )?"
         "(?:user|recipient|mailbox|account|alias|addressee|rcpt|person|local[- ]part)\\b|"
         "\\b(?:no such|undeliverable|unrouteable|unroutable|incorrect) address|"
         "\\b(?:user|recipient|mailbox|account|address|you tried to reach|@) (?:\\S+ )?"
         "(?:does not|doesn'?t|did not|do not) (?:seem to )?(?:exist|have an? .{0,40}account)|"
         "no mailbox (?:here|by that)|mailbox not found|mailbox (?:is )?not available|"
         "recipient(?: address)? (?:was )?rejected: (?:access denied\\. as\\(|recipient|"
         "unverified|user|no such|invalid|unknown|undeliverable|address does not)|"
         "not our customer|destinataire invalide|unbekannter (?:empf|nutzer|user)|"
         "utente (?:sconosciuto|non valido)|recipnotfound|recipientnotfound|"
         "email address could not be found|recipient .{0,20}(?:could not|cannot) be found|"
         "recipient verification failed|verify recipient|invalid mailbox|"
         "not a valid (?:user|mailbox|recipient)|there is no one at this address|mailbox removed|"
         "unknown or illegal alias|p=nosuchuser",
     .stages = AT(STAGE_RCPT) | AT(STAGE_DATA) | AT(STAGE_END),
     .class_ = CLASS_INVALID_RECIPIENT,
     .match = {"@: Recipient address rejected: User unknown in virtual mailbox table",
               "The email account that you tried to reach does not exist. Please try "
               "double-checking",
               "Unrouteable address", "sorry, no mailbox here by that name. (#5.1.1)"},
     .miss = {"Mailbox full", "IP address rejected", "554 no valid recipients"}},
    /* at other stages these are said about content */
    {.name = "invalid_recipient_at_rcpt",
     .pattern = "mailbox unavailable|(?<!ip )(?<!client )(?<!sender )address rejected\\b(?!:)|"
                "user not local|address (?:is )?(?:invalid|unknown)",
     .stages = AT(STAGE_RCPT),
     .class_ = CLASS_INVALID_RECIPIENT,
     .match = {"Requested action not taken: mailbox unavailable (S2017062302).",
               "#5.1.0 Address rejected."},
     .miss = {"IP address rejected", "Mailbox full"}},

    /* ---- the rest of policy ---- */
    {.name = "access_denied",
     .pattern = "access denied|access (?:is )?(?:rejected|refused|forbidden)|not "
                "(?:allowed|permitted|authorized|authorised)|"
                "authentication (?:is )?required|permission denied|blocked by|message (?:was |has "
                "been )?(?:rejected|refused|blocked)|"
                "rejected due to|prohibited|:blocked\\b|service refuse|no smtp service|mail from "
                "your .{0,40}(?:not|refused)",
     .digit = '5',
     .class_ = CLASS_POLICY,
     .match = {"Client host rejected: Access denied", "Message rejected.",
               "SMTP AUTH: Authentication required",
               "permanent failure for one or more recipients (@:blocked)"},
     .miss = {"Temporary failure", "User unknown"}},
    {.name = "receiver_trouble",
     .pattern = "(?:temporar|local|internal|system|server|configuration|database|lookup|dns|queue|"
                "disk).{0,30}(?:problem|failure|error|unavailable|fault)|"
                "insufficient system|resources? temporarily|try (?:again )?later|temporarily "
                "(?:deferred|unavailable|rejected|not)|"
                "out of (?:memory|disk)|shutting down|not available",
     .digit = '4',
     .class_ = CLASS_OTHER,
     .match = {"Temporary local problem - please try later", "Insufficient system storage",
               "Error: queue file write error: local error",
               "Service not available, closing transmission channel"},
     .miss = {"Mailbox full", "User unknown"}},
};

enum { RULE_COUNT = sizeof(table) / sizeof(table[0]) };

static pcre2_code *compiled[RULE_COUNT];
static pcre2_match_context *bounds;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void compile_all(void) {
    bounds = pcre2_match_context_create(NULL);
    NEED(bounds);
    /* foreign text must not buy much time: about a millisecond at worst for each rule */
    pcre2_set_match_limit(bounds, 200000);
    pcre2_set_depth_limit(bounds, 2000);
    pcre2_set_heap_limit(bounds, 1024); /* KiB */
    for (size_t i = 0; i < RULE_COUNT; i++) {
        int number = 0;
        size_t offset = 0;
        compiled[i] = pcre2_compile((PCRE2_SPTR)table[i].pattern, PCRE2_ZERO_TERMINATED,
                                    PCRE2_CASELESS | PCRE2_NO_AUTO_CAPTURE | PCRE2_DOTALL, &number,
                                    &offset, NULL);
        NEED(compiled[i] || number != PCRE2_ERROR_HEAP_FAILED);
        ASSERT(compiled[i]);
        /* without executable memory (systemd's MemoryDenyWriteExecute) the interpreter does it */
        (void)pcre2_jit_compile(compiled[i], PCRE2_JIT_COMPLETE);
    }
}

static bool is_address_char(char c) {
    return ascii_is_alnum(c) || (c != '\0' && strchr("._%+=~!#$&'*?^`{|}-/", c)) || (c & 0x80);
}

/* Addresses in a reply are foreign words that anybody can choose (a mailbox called "spamhaus"):
 * each becomes '@'. Lines become one, because servers wrap in the middle of a phrase. */
static size_t normalise(struct str text, char out[RULES_TEXT_MAX]) {
    size_t n = 0, word = 0; /* where the run of address characters at the end of out begins */
    for (size_t i = 0; i < text.n && n < RULES_TEXT_MAX; i++) {
        char c = text.p[i] == '\n' ? ' ' : text.p[i];
        if (c == '@') {
            n = word;
            while (i + 1 < text.n && (is_address_char(text.p[i + 1]) || text.p[i + 1] == '@'))
                i++;
        }
        out[n++] = c;
        if (!is_address_char(c))
            word = n;
    }
    return n;
}

/* A pattern that runs into its bounds counts as one that does not match. */
static bool matches(size_t i, pcre2_match_data *data, const char *p, size_t n) {
    int rc = pcre2_match(compiled[i], (PCRE2_SPTR)p, n, 0, 0, data, bounds);
    NEED(rc != PCRE2_ERROR_NOMEMORY); /* "no match" would make another verdict of it */
    return rc >= 0;
}

static pcre2_match_data *match_data_new(void) {
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    NEED(data);
    return data;
}

const struct rule *rules_find(int code, struct str text, enum stage stage) {
    char words[RULES_TEXT_MAX];
    size_t n = normalise(text, words);
    pthread_once(&once, compile_all);
    pcre2_match_data *data = match_data_new();
    const struct rule *found = NULL;
    for (size_t i = 0; n > 0 && !found && i < RULE_COUNT; i++) {
        const struct rule *r = &table[i];
        if (r->digit && code / 100 != r->digit - '0')
            continue;
        if (r->stages && !(r->stages & AT(stage)))
            continue;
        if (matches(i, data, words, n))
            found = r;
    }
    pcre2_match_data_free(data);
    return found;
}

void rules_prepare(void) {
    pthread_once(&once, compile_all);
}

size_t rules_count(void) {
    return RULE_COUNT;
}

const struct rule *rules_at(size_t i) {
    ASSERT(i < RULE_COUNT);
    return &table[i];
}

bool rule_matches(size_t i, struct str text) {
    ASSERT(i < RULE_COUNT);
    char words[RULES_TEXT_MAX];
    size_t n = normalise(text, words);
    pthread_once(&once, compile_all);
    pcre2_match_data *data = match_data_new();
    bool is_match = matches(i, data, words, n);
    pcre2_match_data_free(data);
    return is_match;
}
