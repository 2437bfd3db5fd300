#include "server/mail/outcome.h"

#include "server/mail/rules.h"

/* ---- names ---- */

static const char *const stage_names[] = {
    [STAGE_RESOLVE] = "resolve", [STAGE_CONNECT] = "connect",   [STAGE_GREETING] = "greeting",
    [STAGE_EHLO] = "ehlo",       [STAGE_STARTTLS] = "starttls", [STAGE_TLS] = "tls",
    [STAGE_AUTH] = "auth",       [STAGE_MAIL] = "mail",         [STAGE_RCPT] = "rcpt",
    [STAGE_DATA] = "data",       [STAGE_BODY] = "body",         [STAGE_END] = "end",
};
_Static_assert(sizeof(stage_names) / sizeof(stage_names[0]) == STAGE_COUNT, "one name a stage");

static const struct {
    const char *name, *text;
} failures[] = {
    [FAILURE_NONE] = {"none", "no failure"},
    [FAILURE_DNS_TEMPORARY] = {"dns_temporary", "the name servers gave no answer"},
    [FAILURE_DNS_NXDOMAIN] = {"dns_nxdomain", "the domain does not exist"},
    [FAILURE_DNS_NO_ADDRESS] = {"dns_no_address", "the domain has no mail server and no address"},
    [FAILURE_DNS_NULL_MX] = {"dns_null_mx", "the domain does not accept mail (null MX)"},
    [FAILURE_DNS_BOGUS] = {"dns_bogus", "the name servers' answer failed DNSSEC validation"},
    [FAILURE_DNS_LOOP] = {"dns_loop", "the domain's mail servers lead back to this server"},
    [FAILURE_CONNECT_REFUSED] = {"connect_refused", "connection refused"},
    [FAILURE_CONNECT_TIMEOUT] = {"connect_timeout", "connection timed out"},
    [FAILURE_CONNECT_UNREACHABLE] = {"connect_unreachable", "network unreachable"},
    [FAILURE_CONNECT_FORBIDDEN] = {"connect_forbidden", "the address may not be connected to"},
    [FAILURE_NO_IPV6] = {"no_ipv6", "the mail servers have only IPv6 addresses, and IPv6 is off, "
                                    "or has no route here"},
    [FAILURE_CLOSED] = {"closed", "the server closed the connection"},
    [FAILURE_TIMEOUT] = {"timeout", "the server did not answer in time"},
    [FAILURE_TOO_SLOW] = {"too_slow", "the connection is too slow"},
    [FAILURE_TLS_NOT_OFFERED] = {"tls_not_offered", "the server does not offer TLS"},
    [FAILURE_TLS_HANDSHAKE] = {"tls_handshake", "the TLS handshake failed"},
    [FAILURE_TLS_UNTRUSTED] = {"tls_untrusted", "the server's certificate is not trusted"},
    [FAILURE_TLS_NAME] = {"tls_name", "the server's certificate is for another name"},
    [FAILURE_TLS_EXPIRED] = {"tls_expired", "the server's certificate is not valid at this time"},
    [FAILURE_TLS_PIN] = {"tls_pin", "the server's key is not the one that is pinned"},
    [FAILURE_TLS_INJECTION] = {"tls_injection", "the server sent bytes in clear after STARTTLS"},
    [FAILURE_PROTOCOL] = {"protocol", "the server does not speak SMTP as agreed"},
    [FAILURE_NEEDS_SMTPUTF8] = {"needs_smtputf8", "the server does not offer SMTPUTF8"},
    [FAILURE_TOO_LARGE] = {"too_large", "the message is larger than the server accepts"},
    [FAILURE_AUTH_UNAVAILABLE] = {"auth_unavailable", "authentication is not possible"},
    [FAILURE_LOCAL] = {"local", "local trouble"},
    [FAILURE_SHUTDOWN] = {"shutdown", "this server is stopping"},
    [FAILURE_SHORT] = {"short", "this machine is short of memory or descriptors"},
    [FAILURE_DNS_PRIVATE] = {"dns_private",
                             "the domain's mail servers have only private addresses, "
                             "to which no mail is sent (POSTCHUTE_MX_NETWORKS opens some)"},
    [FAILURE_CHUNKING] = {"chunking", "the server offers CHUNKING and does not take BDAT"},
};
_Static_assert(sizeof(failures) / sizeof(failures[0]) == FAILURE_COUNT, "one row a failure");

/* `is_hard`: a repetition cannot succeed, once it was refused for good. */
static const struct {
    const char *name;
    bool is_hard, is_about_recipient;
} classes[] = {
    [CLASS_NONE] = {"none", false, false},
    [CLASS_INVALID_RECIPIENT] = {"invalid_recipient", true, true},
    [CLASS_INVALID_DOMAIN] = {"invalid_domain", true, true},
    [CLASS_INACTIVE] = {"inactive", true, true},
    [CLASS_MAILBOX_FULL] = {"mailbox_full", false, true},
    [CLASS_SPAM_CONTENT] = {"spam_content", true, false},
    [CLASS_REPUTATION] = {"reputation", false, false},
    [CLASS_BLOCKLIST] = {"blocklist", false, false},
    [CLASS_POLICY] = {"policy", true, false},
    [CLASS_AUTHENTICATION] = {"authentication", true, false},
    [CLASS_RATE_LIMITED] = {"rate_limited", false, false},
    [CLASS_GREYLISTED] = {"greylisted", false, false},
    [CLASS_TOO_LARGE] = {"too_large", true, false},
    [CLASS_NETWORK] = {"network", false, false},
    [CLASS_DNS] = {"dns", false, false},
    [CLASS_TLS] = {"tls", false, false},
    [CLASS_PROTOCOL] = {"protocol", false, false},
    [CLASS_EXPIRED] = {"expired", false, false},
    [CLASS_OTHER] = {"other", true, false},
};
_Static_assert(sizeof(classes) / sizeof(classes[0]) == CLASS_COUNT, "one row a class");

const char *stage_name(enum stage s) {
    ASSERT(s < STAGE_COUNT);
    return stage_names[s];
}

const char *failure_name(enum failure f) {
    ASSERT(f < FAILURE_COUNT);
    return failures[f].name;
}

const char *failure_text(enum failure f) {
    ASSERT(f < FAILURE_COUNT);
    return failures[f].text;
}

bool failure_is_no_domain(enum failure f) {
    return f == FAILURE_DNS_NXDOMAIN || f == FAILURE_DNS_NO_ADDRESS;
}

void failure_print_enhanced(enum failure f, bool is_permanent, char out[16]) {
    struct enhanced_code e = {.class_ = is_permanent ? 5 : 4};
    switch (f) {
    case FAILURE_DNS_NXDOMAIN:
    case FAILURE_DNS_NO_ADDRESS:
    case FAILURE_DNS_PRIVATE:
        e.subject = 1, e.detail = 2;
        break;
    case FAILURE_DNS_NULL_MX:
        e.subject = 1, e.detail = 10;
        break;
    case FAILURE_DNS_TEMPORARY:
    case FAILURE_DNS_BOGUS:
        e.subject = 4, e.detail = 3;
        break;
    case FAILURE_DNS_LOOP:
        e.subject = 4, e.detail = 6;
        break;
    default:
        e.class_ = 0;
        break;
    }
    enhanced_code_print(e, out);
}

const char *verdict_action_name(enum verdict_action a) {
    static const char *const names[] = {"delivered", "deferred", "bounced", "failed"};
    ASSERT(a <= VERDICT_FAILED);
    return names[a];
}

const char *verdict_class_name(enum verdict_class c) {
    ASSERT(c < CLASS_COUNT);
    return classes[c].name;
}

const char *verdict_scope_name(enum verdict_scope s) {
    ASSERT(s <= SCOPE_SITE);
    return s == SCOPE_RECIPIENT ? "recipient" : "infrastructure";
}

enum err verdict_class_parse(struct str s, enum verdict_class *out) {
    for (int c = 0; c < CLASS_COUNT; c++) {
        if (str_equal(s, str_of(classes[c].name))) {
            *out = (enum verdict_class)c;
            return OK;
        }
    }
    return ERR_INVALID;
}

/* ---- failures ---- */

static struct verdict verdict_of(enum verdict_action action, enum verdict_scope scope,
                                 enum verdict_class class_) {
    return (struct verdict){.action = action,
                            .scope = scope,
                            .class_ = class_,
                            .is_hard = action >= VERDICT_BOUNCED && classes[class_].is_hard,
                            .is_about_recipient = classes[class_].is_about_recipient,
                            .counts = true};
}

/* A domain that is not there: believed only the second time, because zones vanish for an hour when
 * somebody forgets to renew or to sign; an address in brackets is what it is. A smarthost's name
 * is our own setting. */
static struct verdict judge_no_domain(const struct outcome_input *in) {
    if (in->is_smarthost)
        return verdict_of(VERDICT_DEFERRED, SCOPE_SITE, CLASS_DNS);
    bool is_believed = in->is_literal || in->earlier_nxdomain > 0;
    return verdict_of(is_believed ? VERDICT_BOUNCED : VERDICT_DEFERRED, SCOPE_RECIPIENT,
                      CLASS_INVALID_DOMAIN);
}

static struct verdict judge_resolve(const struct outcome_input *in) {
    switch (in->failure) {
    case FAILURE_DNS_NXDOMAIN:
    case FAILURE_DNS_NO_ADDRESS:
        return judge_no_domain(in);
    case FAILURE_DNS_PRIVATE:
        /* our setting's refusal, no word about the recipient: zones are mended, and so are
         * resolvers that show their own network's view */
        return in->is_literal ? judge_no_domain(in)
                              : verdict_of(VERDICT_DEFERRED, SCOPE_SITE, CLASS_DNS);
    case FAILURE_DNS_NULL_MX: /* RFC 7505 3: at once (C31) */
        return verdict_of(VERDICT_BOUNCED, SCOPE_RECIPIENT, CLASS_INVALID_DOMAIN);
    case FAILURE_DNS_LOOP: /* C28; a smarthost that is ourselves is a setting that can be mended */
        return verdict_of(in->is_smarthost ? VERDICT_DEFERRED : VERDICT_FAILED, SCOPE_SITE,
                          CLASS_DNS);
    default:
        return verdict_of(VERDICT_DEFERRED, SCOPE_SITE, CLASS_DNS);
    }
}

/* Until the body is under way nobody has taken anything: another host may be asked at once. After
 * it, the server may have the message (C18): asking elsewhere at once makes duplicates. */
static bool before_body(enum stage s) {
    return s < STAGE_BODY;
}

static struct verdict judge_failure(const struct outcome_input *in) {
    struct verdict v;
    switch (in->failure) {
    case FAILURE_DNS_TEMPORARY:
    case FAILURE_DNS_NXDOMAIN:
    case FAILURE_DNS_NO_ADDRESS:
    case FAILURE_DNS_NULL_MX:
    case FAILURE_DNS_BOGUS:
    case FAILURE_DNS_LOOP:
    case FAILURE_DNS_PRIVATE:
        v = judge_resolve(in);
        /* of one host only its addresses or its TLSA records: the others are not touched by it */
        v.try_next_host = in->stage > STAGE_RESOLVE && !in->is_last_host;
        return v;
    case FAILURE_CONNECT_REFUSED:
    case FAILURE_CONNECT_TIMEOUT:
    case FAILURE_CONNECT_UNREACHABLE:
    case FAILURE_CONNECT_FORBIDDEN:
    case FAILURE_NO_IPV6:
        v = verdict_of(VERDICT_DEFERRED, SCOPE_HOST, CLASS_NETWORK);
        break;
    case FAILURE_CLOSED:
    case FAILURE_TIMEOUT:
    case FAILURE_TOO_SLOW:
        v = verdict_of(VERDICT_DEFERRED, in->stage < STAGE_MAIL ? SCOPE_HOST : SCOPE_SESSION,
                       CLASS_NETWORK);
        break;
    case FAILURE_TLS_NOT_OFFERED:
    case FAILURE_TLS_HANDSHAKE:
    case FAILURE_TLS_UNTRUSTED:
    case FAILURE_TLS_NAME:
    case FAILURE_TLS_EXPIRED:
    case FAILURE_TLS_PIN:
    case FAILURE_TLS_INJECTION:
        v = verdict_of(VERDICT_DEFERRED, SCOPE_HOST, CLASS_TLS);
        break;
    case FAILURE_NEEDS_SMTPUTF8: /* RFC 6531 3.2: another MX may offer it, this one never will */
        v = verdict_of(in->is_every_host ? VERDICT_BOUNCED : VERDICT_DEFERRED, SCOPE_RECIPIENT,
                       CLASS_PROTOCOL);
        v.is_hard = in->is_every_host;
        v.wants_every_host = true;
        break;
    case FAILURE_TOO_LARGE:
        return verdict_of(VERDICT_BOUNCED, SCOPE_MESSAGE, CLASS_TOO_LARGE);
    case FAILURE_AUTH_UNAVAILABLE:
        v = verdict_of(VERDICT_DEFERRED, SCOPE_HOST, CLASS_AUTHENTICATION);
        v.is_our_login = true;
        break;
    case FAILURE_LOCAL:
        if (in->stage >= STAGE_MAIL) { /* it will be the same at any time, with any server */
            v = verdict_of(VERDICT_FAILED, SCOPE_MESSAGE, CLASS_OTHER);
            return v;
        }
        v = verdict_of(VERDICT_DEFERRED, SCOPE_SESSION, CLASS_OTHER);
        v.counts = false;
        return v;
    case FAILURE_SHUTDOWN:
    case FAILURE_SHORT:
        v = verdict_of(VERDICT_DEFERRED, SCOPE_SESSION, CLASS_OTHER);
        v.counts = false;
        return v;
    case FAILURE_CHUNKING: /* nobody has it, and it goes another way from now on */
        v = verdict_of(VERDICT_DEFERRED, SCOPE_SESSION, CLASS_PROTOCOL);
        v.counts = false;
        v.retry_at_once = true;
        return v;
    case FAILURE_PROTOCOL:
    case FAILURE_NONE:
    case FAILURE_COUNT:
    default:
        v = verdict_of(VERDICT_DEFERRED, SCOPE_HOST, CLASS_PROTOCOL);
        break;
    }
    v.try_next_host = before_body(in->stage) && !in->is_last_host;
    return v;
}

/* ---- replies ---- */

/* RFC 3463 3, RFC 7372 and the registry: what subject and detail say about the class, when the
 * words said nothing. CLASS_NONE: not enough. */
static enum verdict_class class_of_enhanced(struct enhanced_code e, enum stage stage) {
    bool is_rcpt = stage >= STAGE_RCPT;
    switch (e.subject * 1000 + e.detail) {
    case 1001:
    case 1003:
        return is_rcpt ? CLASS_INVALID_RECIPIENT : CLASS_POLICY;
    case 1002:
    case 1010:
        return is_rcpt ? CLASS_INVALID_DOMAIN : CLASS_POLICY;
    case 1006:
        return CLASS_INVALID_RECIPIENT;
    case 1007:
    case 1008:
    case 1009:
        return CLASS_POLICY; /* about the sender's address */
    case 2001:
        return CLASS_INACTIVE;
    case 2002:
        return CLASS_MAILBOX_FULL;
    case 2003:
    case 3004:
        return CLASS_TOO_LARGE;
    case 4001:
    case 4002: /* with class 5 some say it for whatever they refuse */
        return e.class_ == 4 ? CLASS_NETWORK : CLASS_NONE;
    case 4003:
    case 4004:
        return CLASS_DNS;
    case 4005:
    case 7028:
        return CLASS_RATE_LIMITED;
    case 4006:
    case 6007:
        return CLASS_PROTOCOL;
    case 4007:
        return CLASS_EXPIRED;
    case 7000:
    case 7001:
    case 7002:
    case 7027:
        return CLASS_POLICY;
    case 7010:
    case 7030:
        return CLASS_TLS;
    case 7020:
    case 7021:
    case 7022:
    case 7023:
    case 7024:
    case 7026:
    case 7029:
        return CLASS_AUTHENTICATION;
    case 7025:
        return CLASS_REPUTATION;
    default:
        break;
    }
    if (e.subject == 5 && e.detail != 3)
        return CLASS_PROTOCOL;
    if (e.subject == 7)
        return CLASS_POLICY;
    return CLASS_NONE;
}

static enum verdict_class class_of_code(int code, enum stage stage) {
    switch (code) {
    case 500:
    case 501:
    case 502:
    case 503:
    case 504:
    case 555:
        return CLASS_PROTOCOL;
    case 454:
        return stage == STAGE_STARTTLS ? CLASS_TLS : CLASS_OTHER;
    case 530:
    case 534:
    case 535:
    case 538:
        return CLASS_POLICY;
    case 521: /* RFC 7504 */
    case 556:
        return stage >= STAGE_RCPT ? CLASS_INVALID_DOMAIN : CLASS_OTHER;
    case 551:
        return CLASS_INVALID_RECIPIENT;
    case 552:
        return stage == STAGE_RCPT ? CLASS_MAILBOX_FULL : CLASS_TOO_LARGE;
    case 553:
        return stage == STAGE_MAIL ? CLASS_POLICY : CLASS_OTHER;
    default:
        return CLASS_OTHER;
    }
}

static enum verdict_scope scope_of(enum verdict_class class_, const struct outcome_input *in) {
    if (in->reply->code == 421)
        return in->stage < STAGE_MAIL ? SCOPE_HOST : SCOPE_SESSION;
    switch (class_) {
    case CLASS_REPUTATION:
    case CLASS_BLOCKLIST:
    case CLASS_RATE_LIMITED:
        return SCOPE_SITE;
    case CLASS_INVALID_RECIPIENT:
    case CLASS_INVALID_DOMAIN:
    case CLASS_INACTIVE:
    case CLASS_MAILBOX_FULL:
    case CLASS_GREYLISTED:
        return SCOPE_RECIPIENT;
    default:
        break;
    }
    if (in->stage < STAGE_MAIL)
        return SCOPE_HOST;
    return in->stage == STAGE_RCPT ? SCOPE_RECIPIENT : SCOPE_MESSAGE;
}

/* C20, RFC 5321 4.5.3.1.10: the server takes no more recipients in this transaction. */
static bool is_too_many_recipients(const struct outcome_input *in, const struct rule *rule) {
    const struct reply *r = in->reply;
    if (in->stage != STAGE_RCPT || in->rcpt_accepted_before == 0)
        return false;
    if ((rule && rule->is_too_many_recipients) ||
        (r->enhanced.subject == 5 && r->enhanced.detail == 3))
        return r->code == 452 || r->code == 552;
    /* words that say whose fault it is come before the number */
    bool is_bare = !rule || rule->class_ == CLASS_OTHER;
    if (r->code == 452) /* 4.2.2 is a full mailbox, said with 452 by Gmail; 4.3.1 a full disk */
        return is_bare && r->enhanced.subject != 2 && r->enhanced.subject != 3;
    return r->code == 552 && r->enhanced.class_ == 0 && str_is_empty(r->text);
}

/* The smarthost refused our login, or wants one: the fault is in our settings. RFC 4954 6: 530 is
 * "authentication required". */
static bool is_about_login(const struct outcome_input *in) {
    return in->stage == STAGE_AUTH ||
           (in->is_smarthost && in->stage >= STAGE_MAIL && in->reply->code == 530);
}

/* Nothing that the message could do anything about: it waits, however final the words. What is
 * about our address or our rate (a rule or a code said so) keeps its class. */
static struct verdict judge_login(const struct outcome_input *in, enum verdict_class class_) {
    bool is_login = class_ == CLASS_POLICY || class_ == CLASS_OTHER || class_ == CLASS_PROTOCOL ||
                    class_ == CLASS_AUTHENTICATION;
    struct verdict v =
        verdict_of(VERDICT_DEFERRED, SCOPE_HOST, is_login ? CLASS_AUTHENTICATION : class_);
    /* 4xx: its password database is away, it will be back */
    v.is_our_login = is_login && in->reply->code >= 500;
    v.try_next_host = !in->is_last_host;
    return v;
}

static struct verdict judge_refusal(const struct outcome_input *in) {
    const struct reply *r = in->reply;
    const struct rule *rule = rules_find(r->code, r->text, in->stage);
    if (is_too_many_recipients(in, rule)) {
        struct verdict v = verdict_of(VERDICT_DEFERRED, SCOPE_RECIPIENT, CLASS_RATE_LIMITED);
        v.counts = false;
        v.retry_at_once = true;
        return v;
    }
    enum verdict_class class_ = rule ? rule->class_ : CLASS_NONE;
    if (class_ == CLASS_NONE || class_ == CLASS_OTHER) {
        enum verdict_class e = class_of_enhanced(r->enhanced, in->stage);
        class_ = e != CLASS_NONE ? e : class_of_code(r->code, in->stage);
    }
    if (is_about_login(in))
        return judge_login(in, class_);
    bool is_permanent = r->code >= 500;
    if (rule && rule->effect != RULE_AS_CODE)
        is_permanent = rule->effect == RULE_BOUNCE;
    /* C20: without a word about a full mailbox, 552 to RCPT is the old way to say 452 */
    if (r->code == 552 && in->stage == STAGE_RCPT && !rule && r->enhanced.class_ == 0)
        is_permanent = false;
    bool is_source = class_ == CLASS_REPUTATION || class_ == CLASS_BLOCKLIST;
    struct verdict v =
        verdict_of(is_permanent ? VERDICT_BOUNCED : VERDICT_DEFERRED, scope_of(class_, in), class_);
    if (is_permanent && is_source && in->has_other_source)
        v.action = VERDICT_DEFERRED;
    if (in->stage < STAGE_MAIL) {
        /* the server refused us before it knew what we bring: only words about the source make it
         * final, and only when every host says so */
        v.wants_every_host = is_source && v.action == VERDICT_BOUNCED;
        if (!v.wants_every_host || !in->is_every_host) {
            v.action = VERDICT_DEFERRED;
            v.is_hard = false;
        }
        v.try_next_host = !in->is_last_host;
    } else if (r->code == 421) {
        v.try_next_host = !in->is_last_host && before_body(in->stage);
    }
    if (in->stage == STAGE_STARTTLS)
        v.class_ = CLASS_TLS;
    if (in->stage >= STAGE_RCPT && v.scope == SCOPE_RECIPIENT && v.class_ == CLASS_OTHER)
        v.is_about_recipient = true;
    return v;
}

struct verdict outcome_judge(const struct outcome_input *in) {
    ASSERT(in->stage < STAGE_COUNT && in->failure < FAILURE_COUNT);
    ASSERT(in->failure != FAILURE_NONE || in->reply);
    if (in->failure != FAILURE_NONE)
        return judge_failure(in);
    int digit = in->reply->code / 100;
    if (digit == 2 && in->stage == STAGE_END)
        return verdict_of(VERDICT_DELIVERED, SCOPE_RECIPIENT, CLASS_NONE);
    if (digit == 4 || digit == 5)
        return judge_refusal(in);
    /* C15: no answer that belongs here */
    struct outcome_input odd = *in;
    odd.failure = FAILURE_PROTOCOL;
    return judge_failure(&odd);
}
