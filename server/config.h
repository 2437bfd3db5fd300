/* config: the settings and declarations of one start, as an immutable snapshot.
 *
 * Sources, the later over the earlier: defaults, the YAML file (POSTCHUTE_CONFIG), the environment
 * (POSTCHUTE_*; each also as POSTCHUTE_*_FILE, which names a file with the value; not both).
 * There is ONE table of settings (config_settings.c): from it come parsing, `postchute help
 * settings` and the README's table. An unknown or bad setting fails the load with its name and the
 * reason.
 *
 *     struct config *c;
 *     if (config_load(environ, &c, &info) != OK) ...   // info.field is the setting
 *     config_unref(&c);
 *
 * No room includes this header: lifecycle fills each room's own options from it. Thread: immutable;
 * ref and unref from any.
 */
#pragma once

#include "server/base/buf.h"
#include "server/base/log.h"

enum config_profile { PROFILE_PRODUCTION, PROFILE_DEVELOPMENT };
enum config_ipv6 { IPV6_OFF, IPV6_ON };

struct config_list {
    struct str *list;
    size_t count;
};

/* Declared in the YAML file; applied idempotently at start and reload. */
struct config_route {
    struct str name;
    struct str kind;               /* "mx" | "smarthost" | "sandbox" */
    struct config_list smarthosts; /* URLs */
    bool require_verified_domain;
    bool sign;
    struct config_list sender_domains; /* chosen when From is in one of them; none: any */
    struct config_list
        recipient_domains; /* chosen when the recipient is in one of them; none: any */
};
struct config_key {
    struct str name;
    struct str secret; /* the key's whole text */
    struct config_list scopes;
    struct config_list from_domains;
    struct str rate; /* requests a minute, as text; absent: not limited */
};
struct config_domain_key {
    struct str selector;
    struct str pem; /* secret */
};
struct config_domain {
    struct str name;
    struct str bounce_address;
    struct config_domain_key *keys;
    size_t key_count;
};
struct config_webhook {
    struct str url;
    struct str secret; /* "whsec_..." */
    struct config_list events;
    struct str description;
};

struct config {
    /* --- the table of settings, in its order --- */
    int64_t profile; /* enum config_profile */
    struct str data;
    struct config_list listen;
    struct config_list listen_health;
    struct str tls_cert, tls_key;
    struct str hostname;
    struct str route;
    bool require_verified_domain;
    struct str source_address;
    int64_t ipv6; /* enum config_ipv6 */
    struct config_list mx_networks;
    struct str dns;
    struct str dns_trust_anchor;
    struct str dns_root_hints;
    struct str ca_file;
    struct str admin_key, send_key;
    struct str master_key, master_key_previous;
    int64_t max_message_bytes, max_request_bytes, max_recipients;
    int64_t max_memory_bytes; /* of request bodies in flight */
    int64_t max_connections, max_connections_per_ip;
    int64_t content_keep_ms, events_keep_ms, idempotency_keep_ms;
    struct config_list retry_after; /* durations */
    int64_t give_up_ms;
    struct config_list only_to;
    struct str redirect_to;
    struct config_list webhook_networks, webhook_http_hosts;
    int64_t webhook_timeout_ms;
    int64_t disk_floor_bytes;
    int64_t http_threads, delivery_threads;
    int64_t smtp_connect_ms, smtp_greeting_ms, smtp_ehlo_ms, smtp_starttls_ms, smtp_mail_ms,
        smtp_rcpt_ms;
    int64_t smtp_data_ms, smtp_block_ms, smtp_end_ms, smtp_rset_ms, smtp_min_rate;
    int64_t smtp_port; /* of MX hosts; 25 but in tests */
    int64_t site_connections;
    int64_t shutdown_ms;
    int64_t seccomp;    /* enum confine_mode */
    int64_t log_level;  /* enum log_level */
    int64_t log_format; /* 0 auto, 1 json, 2 text */

    /* --- declarations --- */
    struct config_route *routes;
    size_t route_count;
    struct config_key *keys;
    size_t key_count;
    struct config_domain *domains;
    size_t domain_count;
    struct config_webhook *webhooks;
    size_t webhook_count;

    struct config_private *private_;
};

/* `env` as in environ. ERR_INVALID: info->field is the setting as the user wrote it, info->text the
 * reason and the remedy. */
NODISCARD enum err config_load(char *const *env, struct config **out, struct errinfo *info);
/* The same in two steps, for who has to know where the server listens, keeps its data and sends,
 * not that it can: all but the full hostname that mail servers want, and that. */
NODISCARD enum err config_load_lenient(char *const *env, struct config **out, struct errinfo *info);
NODISCARD enum err config_check_hostname(const struct config *c, struct errinfo *info);
bool config_uses_mx(const struct config *c); /* one of its routes does */
struct config *config_ref(struct config *c);
void config_unref(struct config **cp); /* wipes secrets with the last one */

enum config_help { CONFIG_HELP_TEXT, CONFIG_HELP_MARKDOWN };
void config_print_settings(enum config_help form, struct buf *out);

/* Says of which declaration a failure is: "KIND 'NAME': " before its text. Returns `e`. */
enum err config_name_declaration(struct errinfo *info, enum err e, const char *kind,
                                 struct str name);

enum { CONFIG_VARIABLE_SIZE = 96 };
/* "tls_key" -> "POSTCHUTE_TLS_KEY"; false: there is no such setting. */
bool config_variable_of(const char *setting, char out[CONFIG_VARIABLE_SIZE]);

/* The names of settings that differ and are taken at a start only, with commas; nothing: none. */
void config_print_left_out(const struct config *before, const struct config *now, struct buf *out);

/* "1500ms", "30s", "5m", "48h", "7d" or a bare number of seconds. */
NODISCARD enum err config_parse_duration(struct str s, int64_t *ms);
/* "512", "64KiB", "25MiB", "1GiB". */
NODISCARD enum err config_parse_size(struct str s, int64_t *bytes);
