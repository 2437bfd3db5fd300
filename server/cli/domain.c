#include "server/cli/admin.h"

enum { TXT_STRING_MAX = 255 }; /* RFC 1035 3.3 */

#define OPTION_ZONE                                                                                \
    { "zone", 'z', OPTION_FLAG, NULL, "records as lines of a zone file" }

static const struct option_spec add_options[] = {
    {"bounce-address", 0, OPTION_TEXT, "ADDRESS", "MAIL FROM of this domain: where bounces go"},
    OPTION_ZONE,
    ADMIN_OPTION_JSON,
    ADMIN_OPTIONS};
static const struct option_spec dns_options[] = {OPTION_ZONE, ADMIN_OPTION_JSON, ADMIN_OPTIONS};
static const struct option_spec list_options[] = {ADMIN_OPTION_JSON, ADMIN_OPTIONS};
static const struct option_spec delete_options[] = {ADMIN_OPTIONS};

/* ---- records --------------------------------------------------------------------------------- */

static void print_zone_line(const json_t *r) {
    struct str value = str_of(client_text(r, "value", ""));
    cli_say(stdout, "%s. 3600 IN %s (", client_text(r, "name", ""), client_text(r, "type", ""));
    do {
        size_t n = value.n < TXT_STRING_MAX ? value.n : TXT_STRING_MAX;
        cli_say(stdout, " \"%.*s\"", (int)n, value.p);
        value = str_from(value, n);
    } while (value.n);
    cli_say(stdout, " )\n");
}

static void print_record(const json_t *r) {
    bool is_required = json_is_true(json_object_get(r, "required"));
    cli_say(stdout, "%s (%s)\n  name:  %s\n  type:  %s\n  value: %s\n",
            client_text(r, "purpose", ""), is_required ? "required" : "advised",
            client_text(r, "name", ""), client_text(r, "type", ""), client_text(r, "value", ""));
    if (client_text(r, "note", NULL))
        cli_say(stdout, "  note:  %s\n", client_text(r, "note", ""));
}

static int show_records(const struct options *o, const json_t *domain) {
    size_t i;
    json_t *r;
    bool is_zone = options_has(o, "zone");
    cli_say(stdout, "%sDNS records of %s:\n", is_zone ? "; " : "", client_text(domain, "name", ""));
    json_array_foreach(json_object_get(domain, "records"), i, r) {
        if (is_zone)
            print_zone_line(r);
        else
            print_record(r);
    }
    return cli_printed(true);
}

static void print_state(const json_t *r) {
    const char *state = client_text(r, "state", "unknown"), *found = client_text(r, "found", NULL);
    cli_say(stdout, "%-9s  %-5s  %s\n", state, client_text(r, "purpose", ""),
            client_text(r, "name", ""));
    if (strcmp(state, "found") == 0)
        return;
    cli_say(stdout, "           wanted:  %s\n", client_text(r, "value", ""));
    if (found)
        cli_say(stdout, "           instead: %s\n", found);
}

/* Exit code 0: verified, so that a script can wait for it. */
static int show_states(const struct options *o, const json_t *domain) {
    size_t i;
    json_t *r;
    bool is_verified = json_is_true(json_object_get(domain, "verified"));
    (void)o;
    json_array_foreach(json_object_get(domain, "records"), i, r) print_state(r);
    cli_say(stdout, "%s is %sverified%s\n", client_text(domain, "name", ""),
            is_verified ? "" : "not ",
            json_is_true(json_object_get(domain, "complete")) ? "" : "; DNS did not answer all");
    return is_verified ? cli_printed(true) : CLI_FAILED;
}

/* ---- commands -------------------------------------------------------------------------------- */

static int on_domain(const struct options *o, char *const *env, const char *command,
                     const char *method, const char *action,
                     int (*show)(const struct options *, const json_t *)) {
    struct buf path = BUF_INIT(2048);
    buf_putz(&path, "/v1/domains/");
    admin_put_path(&path, o->word[0]);
    buf_putz(&path, action);
    int code = admin_run(o, env, command, false, method, path.p, NULL, show);
    buf_release(&path);
    return code;
}

static int add(const struct options *o, char *const *env) {
    const char *bounce = options_text(o, "bounce-address", NULL);
    json_t *body = json_object();
    json_object_set_new(body, "name", json_string(o->word[0]));
    if (bounce)
        json_object_set_new(body, "bounce_address", json_string(bounce));
    return admin_run(o, env, "domain add", true, "POST", "/v1/domains", body, show_records);
}

const struct command cli_domain_add = {
    .name = "domain add",
    .arguments = "DOMAIN",
    .summary = "adds a sending domain and prints its DNS records",
    .text = "Makes its DKIM keys (RSA and Ed25519) and prints what has to be published.\n"
            "\n"
            "  postchute domain add acme.test --bounce-address bounces@acme.test\n"
            "  postchute domain add acme.test --zone >>acme.test.zone",
    COMMAND_OPTIONS(add_options),
    .words_least = 1,
    .words_most = 1,
    .run = add,
};

static void print_domain(const json_t *d) {
    const char *verified = client_text(d, "verified_at", NULL);
    cli_say(stdout, "%-40s  %s%s\n", client_text(d, "name", ""),
            verified ? "verified " : "not verified", verified ? verified : "");
}

static int show_list(const struct options *o, const json_t *answer) {
    (void)o;
    return admin_show_list(answer, print_domain);
}

static int list(const struct options *o, char *const *env) {
    return admin_run(o, env, "domain list", false, "GET", "/v1/domains", NULL, show_list);
}

const struct command cli_domain_list = {
    .name = "domain list",
    .arguments = "",
    .summary = "lists the sending domains",
    .text = "One line a domain, and whether its records were found in DNS.",
    COMMAND_OPTIONS(list_options),
    .run = list,
};

static int dns(const struct options *o, char *const *env) {
    return on_domain(o, env, "domain dns", "GET", "", show_records);
}

const struct command cli_domain_dns = {
    .name = "domain dns",
    .arguments = "DOMAIN",
    .summary = "prints the DNS records of a sending domain",
    .text = "What has to be published, for people or (--zone) for a zone file.\n"
            "`postchute domain verify` says whether it was.",
    COMMAND_OPTIONS(dns_options),
    .words_least = 1,
    .words_most = 1,
    .run = dns,
};

static int verify(const struct options *o, char *const *env) {
    return on_domain(o, env, "domain verify", "POST", "/verify", show_states);
}

const struct command cli_domain_verify = {
    .name = "domain verify",
    .arguments = "DOMAIN",
    .summary = "looks at the DNS records of a sending domain now",
    .text = "One line a record: found, missing, different, or unknown (DNS did not answer within\n"
            "10 seconds). Exit code 0 when the domain is verified, else 1. Needs a running server.",
    COMMAND_OPTIONS(list_options),
    .words_least = 1,
    .words_most = 1,
    .run = verify,
};

static int delete_domain(const struct options *o, char *const *env) {
    return on_domain(o, env, "domain delete", "DELETE", "", NULL);
}

const struct command cli_domain_delete = {
    .name = "domain delete",
    .arguments = "DOMAIN",
    .summary = "removes a sending domain and its DKIM keys",
    .text = "What is still queued for it is delivered without its signature.",
    COMMAND_OPTIONS(delete_options),
    .words_least = 1,
    .words_most = 1,
    .run = delete_domain,
};
