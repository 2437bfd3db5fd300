/* limits: every ceiling on what an outsider can make us hold, in one place, each with its reason.
 * Those that are defaults of settings say so; the others are fixed. Sizes in bytes unless named
 * otherwise. */
#pragma once

enum {
    /* HTTP API */
    LIMIT_REQUEST_BODY =
        40 * 1024 * 1024, /* default setting; 25 MiB composed is about 34 MiB of base64 JSON */
    LIMIT_SMALL_BODY =
        256 *
        1024, /* bodies of routes that carry no message; also: parsed on the loop below this */
    LIMIT_REQUEST_COST = 2, /* memory that a byte of a body is charged until it is answered: while
                               it waits for the store, the composed message takes as much as the
                               body. Only while a worker composes it does it take both, and what
                               composing takes at the end, so all together never take more than the
                               charge and one more body for each worker */
    LIMIT_JSON_DEPTH = 32,  /* deeper than any real request; recursion stays bounded */
    LIMIT_JSON_VALUES = 50000, /* in one body: "[]," is three bytes of it and 64 of memory */
    LIMIT_HTTP_HEADER_BYTES = 16 * 1024, /* with what the library makes of them; the whole of it is
                                            held while a connection is open */
    LIMIT_HTTP_ANSWER_HEADER = 8 * 1024, /* for ours, in the same memory: who accepts must answer */
    LIMIT_CONNECTIONS = 100000,          /* the setting's own ceiling */
    LIMIT_OTHER_CONNECTIONS = 64, /* of a health listener, of the control socket: nobody counts them
                                     by address, and they must not take all descriptors */
    LIMIT_OTHER_DESCRIPTORS = 512, /* kept for delivery, the store and those: beyond connections */
    LIMIT_KEYS = 10000,            /* in force, of a project: all are read at every change of one */
    LIMIT_DOMAINS = 10000,         /* of a project: as keys */
    LIMIT_FAULTS = 64,             /* faults listed in one problem */
    LIMIT_PAGE = 100,              /* rows of one page */
    LIMIT_PAGE_ROW = 256 * 1024,   /* what a row is charged before it is read: a message with every
                                      label at its limit and full of quotes, as stored and as shown;
                                      an attempt with its transcript */
    LIMIT_PAGE_RECIPIENT = 3584,   /* and each recipient that it may have: address, last reply */
    LIMIT_CAPTURE_ROW = 1024 * 1024, /* the same of the sandbox: a body of LIMIT_SMALL_BODY as
                                        stored, as a tree and rendered; the envelope of a message to
                                        LIMIT_SMTP_RCPT recipients */
    LIMIT_CAPTURE_VALUES = 1000, /* in a captured body that is shown as JSON, not as text: "{}," is
                                    three bytes of it, and as a tree it takes 300 */
    LIMIT_WAIT_S = 60,           /* Prefer: wait */
    /* message */
    LIMIT_MESSAGE =
        25 * 1024 * 1024, /* default setting; composed size that most receivers still take */
    LIMIT_MESSAGE_MAX = 256 * 1024 * 1024, /* the setting's own ceiling: what the outbox can hold */
    LIMIT_EXPIRES_DAYS = 30,               /* ceiling of give_up, so of every expiry */
    LIMIT_RETRY_STEPS = 32,                /* of retry_after */
    LIMIT_RECIPIENTS = 50,                 /* default setting, to + cc + bcc */
    LIMIT_RECIPIENTS_MAX = 1000, /* the setting's own ceiling: RFC 5321 4.5.3.1.8 asks for 100 */
    LIMIT_SUBJECT = 2048,
    LIMIT_DISPLAY_NAME = 512,
    LIMIT_HEADERS = 100, /* extra header fields of a request */
    LIMIT_HEADER_NAME = 76,
    LIMIT_HEADER_VALUE = 8192,
    LIMIT_ATTACHMENTS = 100,
    LIMIT_FILENAME = 255,
    LIMIT_TAGS = 20,
    LIMIT_TAG = 128,
    LIMIT_METADATA_PAIRS = 50,
    LIMIT_METADATA_KEY = 64,
    LIMIT_METADATA_VALUE = 1024,
    LIMIT_EXTERNAL_ID = 255,
    LIMIT_IDEMPOTENCY_KEY = 256,
    LIMIT_REFERENCES = 50,
    LIMIT_LOCAL_PART = 64, /* RFC 5321 4.5.3.1.1 */
    LIMIT_DOMAIN = 253,    /* RFC 1035: 255 octets on the wire */
    LIMIT_ADDRESS = 254,   /* RFC 5321 4.5.3.1.3: path 256 with its brackets */
    LIMIT_LINE = 998,      /* RFC 5322 2.1.1, without CRLF */
    /* what an SMTP peer can make us hold (T8) */
    LIMIT_REPLY_LINE = 4096,
    LIMIT_REPLY_LINES = 128,
    LIMIT_REPLY = 64 * 1024,
    LIMIT_REPLY_STORED = 1024,    /* of a reply's text in rows and events */
    LIMIT_TRANSCRIPT = 32 * 1024, /* one dialogue as stored with its attempt */
    /* SMTP receiver */
    LIMIT_SMTP_COMMAND = 4096, /* RFC 5321 asks 512, extensions add to it */
    LIMIT_SMTP_RCPT = 1000,
    /* DNS */
    LIMIT_DNS_ADDRESSES = 64, /* kept of one answer, which may hold 4,000; a webhook's host may have
                                 16, a mail server's are tried up to LIMIT_MX_ADDRESSES */
    LIMIT_DNS_RECORDS = 256,  /* of another type: the hosts that we look at are found among so many,
                                 also when most are repeated, and so is a domain's policy */
    LIMIT_MX_HOSTS = 32,      /* hosts of one domain that we look at */
    LIMIT_MX_ADDRESSES = 5,   /* addresses tried for one transaction */
    LIMIT_HOPS = 10000, /* next hops that are remembered while no mail is for them: a zone with a
                           wildcard makes one of each message, whose answer is good for an hour; a
                           kilobyte and a half each, with its site */
    /* webhooks */
    LIMIT_WEBHOOKS = 100, /* of a project: every event is a row for each */
    LIMIT_WEBHOOK_RESPONSE = 64 * 1024,
    LIMIT_WEBHOOK_RESPONSE_STORED = 1024,
    LIMIT_URL = 2048,
    /* outbox */
    LIMIT_BATCH_BYTES = 4 * 1024 * 1024, /* committer: one transaction */
    LIMIT_BATCH_ROWS = 1000,
    LIMIT_BATCH_CHANGES = 20000,   /* rows that were written, each notification one */
    LIMIT_BODY_CHUNK = 256 * 1024, /* larger bodies go in by chunks, in earlier transactions */
    LIMIT_DUE_IN_MEMORY = 16000,   /* recipients that the scheduler holds: 430 bytes each */
    LIMIT_DUE_PER_KEY = 1000,
};
