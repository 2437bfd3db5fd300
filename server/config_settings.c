#include "server/config_settings.h"

#include "server/base/limits.h"

#define AT(field) offsetof(struct config, field)
#define SECONDS(n) ((int64_t)(n)*1000)
#define HOURS(n) SECONDS((n)*3600LL)
#define DAYS(n) HOURS((n)*24LL)
#define MIB(n) ((int64_t)(n)*1024 * 1024)

const struct setting config_settings[] = {
    {"profile", SETTING_CHOICE, AT(profile), "production", "production|development", 0, 0,
     "development: a key is made and printed, acme.test can send, webhooks to loopback are "
     "allowed",
     true},
    {"data", SETTING_TEXT, AT(data), "/var/lib/postchute", "folder", 0, 0,
     "where the outbox lives; made when absent, in a folder that is there", true},
    {"listen", SETTING_LIST, AT(listen), "127.0.0.1:8025", "address:port", 0, 0,
     "where the HTTP API listens; several are separated by commas", true},
    {"listen_health", SETTING_LIST, AT(listen_health), "", "address:port", 0, 0,
     "a listener of its own for /livez, /readyz and /metrics; then they are not on `listen`", true},
    {"tls_cert", SETTING_TEXT, AT(tls_cert), "", "file", 0, 0,
     "certificate chain (PEM) for HTTPS; needs tls_key", false},
    {"tls_key", SETTING_TEXT, AT(tls_key), "", "file", 0, 0, "private key (PEM) for HTTPS", false},
    {"hostname", SETTING_TEXT, AT(hostname), "", "FQDN", 0, 0,
     "our name in EHLO; required for MX routes, must resolve to this host's public address", true},
    {"route", SETTING_TEXT, AT(route), "mx", "mx, sandbox, or a smarthost URL", 0, 0,
     "where mail goes when no declared route is chosen, e.g. smtp://user:password@host:587", false},
    {"require_verified_domain", SETTING_BOOL, AT(require_verified_domain), "false", "", 0, 0,
     "smarthost routes, too, accept only From domains whose DNS was verified (MX routes always "
     "do)",
     false},
    {"source_address", SETTING_TEXT, AT(source_address), "", "IP address", 0, 0,
     "local address that deliveries leave from; empty: the kernel chooses", false},
    {"ipv6", SETTING_CHOICE, AT(ipv6), "off", "off|on", 0, 0,
     "deliver to IPv6 addresses; only with a forward-confirmed PTR, else Gmail refuses", false},
    {"mx_networks", SETTING_LIST, AT(mx_networks), "", "CIDR", 0, 0,
     "private networks that MX hosts may be in; others are reached through smarthosts only", false},
    {"dns", SETTING_TEXT, AT(dns), "system", "system, recursive, or addresses", 0, 0,
     "resolver: resolv.conf and hosts file, our own recursion, or addresses (192.0.2.1@53)", true},
    {"dns_trust_anchor", SETTING_TEXT, AT(dns_trust_anchor), "", "file", 0, 0,
     "DNSSEC trust anchor; empty: the system's root key; none: nothing is validated, no DANE",
     true},
    {"dns_root_hints", SETTING_TEXT, AT(dns_root_hints), "", "file", 0, 0,
     "root servers for dns=recursive (a private root); empty: the public ones", true},
    {"ca_file", SETTING_TEXT, AT(ca_file), "", "file", 0, 0,
     "certificate authorities (PEM) for SMTP and webhooks; empty: the system's", false},
    {"admin_key", SETTING_SECRET, AT(admin_key), "", "API key", 0, 0,
     "an API key with every scope, made at start; give it as a file (admin_key_file)", false},
    {"send_key", SETTING_SECRET, AT(send_key), "", "API key", 0, 0,
     "an API key with the scopes send and read, made at start; give it as a file", false},
    {"master_key", SETTING_SECRET, AT(master_key), "", "32 bytes, hex or base64", 0, 0,
     "seals DKIM keys and webhook secrets in the outbox; give it as a file (master_key_file)",
     true},
    {"master_key_previous", SETTING_SECRET, AT(master_key_previous), "", "32 bytes, hex or base64",
     0, 0, "the master key before, for the one start at which it is changed", true},
    {"max_message_bytes", SETTING_SIZE, AT(max_message_bytes), "25MiB", "size", 1024,
     LIMIT_MESSAGE_MAX, "largest composed message, at most 256MiB", false},
    {"max_request_bytes", SETTING_SIZE, AT(max_request_bytes), "40MiB", "size", 4096, MIB(1024),
     "largest request body", false},
    {"max_recipients", SETTING_INTEGER, AT(max_recipients), "50", "recipients", 1,
     LIMIT_RECIPIENTS_MAX, "to, cc and bcc of one message together", false},
    {"max_memory", SETTING_SIZE, AT(max_memory_bytes), "256MiB", "size", MIB(1), MIB(65536),
     "for requests under way, each at twice its size; beyond it the answer is 503", false},
    {"max_connections", SETTING_INTEGER, AT(max_connections), "1024", "connections", 8,
     LIMIT_CONNECTIONS, "HTTP connections at once", false},
    {"max_connections_per_ip", SETTING_INTEGER, AT(max_connections_per_ip), "512", "connections", 1,
     LIMIT_CONNECTIONS, "HTTP connections of one address at once", false},
    {"content_keep", SETTING_DURATION, AT(content_keep_ms), "7d", "duration", 0, DAYS(36500),
     "how long message contents are kept; at least until the last recipient is final", false},
    {"events_keep", SETTING_DURATION, AT(events_keep_ms), "90d", "duration", HOURS(1), DAYS(36500),
     "how long events, attempts and message rows are kept; at least as long as idempotency_keep",
     false},
    {"idempotency_keep", SETTING_DURATION, AT(idempotency_keep_ms), "24h", "duration", SECONDS(60),
     DAYS(365), "how long an Idempotency-Key is remembered", false},
    {"retry_after", SETTING_LIST, AT(retry_after), "1m,5m,15m,30m,1h,2h,3h,4h", "durations", 0, 0,
     "waits between attempts, each with 15 % jitter; the last one repeats", false},
    {"give_up", SETTING_DURATION, AT(give_up_ms), "48h", "duration", SECONDS(1),
     DAYS(LIMIT_EXPIRES_DAYS),
     "an undelivered recipient expires after this; a message's expires_in, at most this or 5d, "
     "whichever is longer, overrides it",
     false},
    {"only_to", SETTING_LIST, AT(only_to), "", "addresses or domains", 0, 0,
     "staging guard: other recipients are refused", false},
    {"redirect_to", SETTING_TEXT, AT(redirect_to), "", "address", 0, 0,
     "staging guard: every message goes to this address instead", false},
    {"webhook_networks", SETTING_LIST, AT(webhook_networks), "", "CIDR", 0, 0,
     "private networks that webhooks may be posted to", false},
    {"webhook_http_hosts", SETTING_LIST, AT(webhook_http_hosts), "", "hosts", 0, 0,
     "hosts that may be posted to by plain http", false},
    {"webhook_timeout", SETTING_DURATION, AT(webhook_timeout_ms), "15s", "duration", SECONDS(1),
     SECONDS(120), "time for one webhook's answer", false},
    {"disk_floor", SETTING_SIZE, AT(disk_floor_bytes), "256MiB", "size", 0, MIB(1048576),
     "below this much free disk nothing more is accepted (503)", false},
    {"http_threads", SETTING_INTEGER, AT(http_threads), "0", "threads", 0, 64,
     "HTTP loops; 0: one for each two cores", true},
    {"delivery_threads", SETTING_INTEGER, AT(delivery_threads), "0", "threads", 0, 64,
     "delivery loops; 0: one a core", true},
    {"smtp_connect_timeout", SETTING_DURATION, AT(smtp_connect_ms), "30s", "duration", 100,
     HOURS(1), "TCP connection to a mail server", false},
    {"smtp_greeting_timeout", SETTING_DURATION, AT(smtp_greeting_ms), "5m", "duration", 100,
     HOURS(1), "its greeting (RFC 5321 4.5.3.2.1)", false},
    {"smtp_ehlo_timeout", SETTING_DURATION, AT(smtp_ehlo_ms), "5m", "duration", 100, HOURS(1),
     "answer to EHLO, AUTH", false},
    {"smtp_starttls_timeout", SETTING_DURATION, AT(smtp_starttls_ms), "30s", "duration", 100,
     HOURS(1), "STARTTLS and the handshake", false},
    {"smtp_mail_timeout", SETTING_DURATION, AT(smtp_mail_ms), "5m", "duration", 100, HOURS(1),
     "answer to MAIL", false},
    {"smtp_rcpt_timeout", SETTING_DURATION, AT(smtp_rcpt_ms), "5m", "duration", 100, HOURS(1),
     "answer to RCPT", false},
    {"smtp_data_timeout", SETTING_DURATION, AT(smtp_data_ms), "2m", "duration", 100, HOURS(1),
     "answer to DATA", false},
    {"smtp_block_timeout", SETTING_DURATION, AT(smtp_block_ms), "3m", "duration", 100, HOURS(1),
     "progress while the message is sent", false},
    {"smtp_end_timeout", SETTING_DURATION, AT(smtp_end_ms), "10m", "duration", 100, HOURS(1),
     "answer to the message, and to all that is sent at once with it", false},
    {"smtp_rset_timeout", SETTING_DURATION, AT(smtp_rset_ms), "20s", "duration", 100, HOURS(1),
     "answer to RSET", false},
    {"smtp_min_rate", SETTING_SIZE, AT(smtp_min_rate), "128", "bytes a second", 0, MIB(1),
     "slowest receiver of a message that is endured", false},
    {"smtp_port", SETTING_INTEGER, AT(smtp_port), "25", "port", 1, 65535,
     "port of MX hosts; only tests change it", false},
    {"site_connections", SETTING_INTEGER, AT(site_connections), "0", "connections", 0, 1000,
     "most connections to one site; 0: 10 to MX sites, 20 to smarthosts", false},
    {"shutdown_timeout", SETTING_DURATION, AT(shutdown_ms), "8s", "duration", 0, HOURS(1),
     "how long SIGTERM lets deliveries under way finish", false},
    {"seccomp", SETTING_CHOICE, AT(seccomp), "on", "on|log|off", 0, 0,
     "which system calls the server may make: on: others fail and are logged, starting a program "
     "ends it; log: others are logged by the kernel",
     true},
    {"log_level", SETTING_CHOICE, AT(log_level), "info", "debug|info|warn|error", 0, 0,
     "least level that is logged", false},
    {"log_format", SETTING_CHOICE, AT(log_format), "auto", "auto|json|text", 0, 0,
     "auto: text on a terminal and in the development profile, else JSON", false},
};
const size_t config_settings_count = sizeof config_settings / sizeof config_settings[0];

const struct setting *config_find_setting(struct str name) {
    for (size_t i = 0; i < config_settings_count; i++)
        if (str_equal(str_of(config_settings[i].name), name))
            return &config_settings[i];
    return NULL;
}

bool config_is_foreign_variable(struct str name) {
    static const char *const foreign[] = {"CONFIG", "URL", "KEY", "KEY_FILE", "BIN"};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (str_equal(name, str_of(foreign[i])))
            return true;
    /* an orchestrator's service links: POSTCHUTE_SERVICE_HOST, POSTCHUTE_PORT,
     * POSTCHUTE_PORT_8025_TCP ... */
    return str_starts_with(name, STR("SERVICE_")) || str_equal(name, STR("PORT")) ||
           str_starts_with(name, STR("PORT_"));
}
