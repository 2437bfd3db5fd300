#include "server/cli/admin.h"

static const struct option_spec create_options[] = {
    {"scope", 's', OPTION_TEXT, "SCOPE", "send (default), read, manage or admin; may be repeated"},
    {"from-domain", 0, OPTION_TEXT, "DOMAIN",
     "only From addresses of it (*.acme.test: of those below); may be repeated"},
    {"rate", 0, OPTION_TEXT, "N", "at most N requests a minute"},
    {"test", 0, OPTION_FLAG, NULL, "what is sent with it never leaves"},
    {"expires-at", 0, OPTION_TEXT, "TIME", "until when it is good, as 2027-01-31T00:00:00Z"},
    ADMIN_OPTION_JSON,
    ADMIN_OPTIONS};

static const struct option_spec list_options[] = {ADMIN_OPTION_JSON, ADMIN_OPTIONS};

static const struct option_spec revoke_options[] = {ADMIN_OPTIONS};

static json_t *texts(const struct options *o, const char *name) {
    json_t *list = json_array();
    const char *text;
    for (size_t i = 0; (text = options_nth(o, name, i)) != NULL; i++)
        json_array_append_new(list, json_string(text));
    return list;
}

/* ---- create ---------------------------------------------------------------------------------- */

static int show_created(const struct options *o, const json_t *key) {
    (void)o;
    cli_say(stderr, "%s: this is shown once; only its hash is kept\n",
            client_text(key, "name", "the key"));
    return cli_printed(puts(client_text(key, "key", "")) >= 0);
}

static int create(const struct options *o, char *const *env) {
    json_t *body = json_object(), *scopes = texts(o, "scope"), *domains = texts(o, "from-domain");
    if (json_array_size(scopes) == 0)
        json_array_append_new(scopes, json_string("send"));
    json_object_set_new(body, "name", json_string(o->word[0]));
    json_object_set_new(body, "scopes", scopes);
    if (json_array_size(domains))
        json_object_set(body, "from_domains", domains);
    json_decref(domains);
    const char *rate = options_text(o, "rate", NULL);
    uint64_t n;
    if (rate) /* what is no number is refused by the API, which names the field */
        json_object_set_new(body, "rate",
                            str_parse_u64(str_of(rate), INT64_MAX, &n) == OK
                                ? json_integer((json_int_t)n)
                                : json_string(rate));
    if (options_has(o, "test"))
        json_object_set_new(body, "test", json_true());
    if (options_text(o, "expires-at", NULL))
        json_object_set_new(body, "expires_at", json_string(options_text(o, "expires-at", NULL)));
    return admin_run(o, env, "key create", true, "POST", "/v1/keys", body, show_created);
}

const struct command cli_key_create = {
    .name = "key create",
    .arguments = "NAME",
    .summary = "makes an API key and prints it",
    .text =
        "The key goes to standard output, once. Works with and without a running server; run it\n"
        "as the server's user.\n"
        "\n"
        "  postchute key create shop --scope send --from-domain acme.test\n"
        "  postchute key create ops --scope admin >ops.key\n"
        "\n"
        "send: submit messages; read: see them; manage: domains and webhooks; admin: keys, and "
        "all.",
    COMMAND_OPTIONS(create_options),
    .words_least = 1,
    .words_most = 1,
    .run = create,
};

/* ---- list ------------------------------------------------------------------------------------ */

static void print_scopes(const json_t *scopes, struct buf *out) {
    size_t i;
    json_t *s;
    json_array_foreach(scopes, i, s) buf_printf(out, "%s%s", i ? "," : "", json_string_value(s));
}

static void print_key(const json_t *k) {
    struct buf scopes = BUF_INIT(256);
    print_scopes(json_object_get(k, "scopes"), &scopes);
    const char *revoked = client_text(k, "revoked_at", NULL);
    cli_say(stdout, "%s  %s  %-20s  %-12s  %s %s\n", client_text(k, "id", ""),
            client_text(k, "prefix", ""), scopes.p ? scopes.p : "-",
            revoked ? "revoked" : "in force", revoked ? revoked : client_text(k, "used_at", "-"),
            client_text(k, "name", ""));
    buf_release(&scopes);
}

static int show_list(const struct options *o, const json_t *answer) {
    (void)o;
    return admin_show_list(answer, print_key);
}

static int list(const struct options *o, char *const *env) {
    return admin_run(o, env, "key list", false, "GET", "/v1/keys", NULL, show_list);
}

const struct command cli_key_list = {
    .name = "key list",
    .arguments = "",
    .summary = "lists the API keys",
    .text = "One line a key: id, the part of it by which it is found, scopes, whether it is in\n"
            "force, when it was used last (or revoked), name. --json for scripts.",
    COMMAND_OPTIONS(list_options),
    .run = list,
};

/* ---- revoke ---------------------------------------------------------------------------------- */

/* The id of the key that has this id, prefix or (when only one in force has it) name; NULL: none.
 * `named`: how many in force have it for a name. */
static const char *find(const json_t *keys, const char *word, size_t *named) {
    size_t i;
    json_t *k;
    const char *by_name = NULL;
    *named = 0;
    json_array_foreach(keys, i, k) {
        if (strcmp(client_text(k, "id", ""), word) == 0 ||
            strcmp(client_text(k, "prefix", ""), word) == 0)
            return client_text(k, "id", NULL);
        if (strcmp(client_text(k, "name", ""), word) == 0 && !json_object_get(k, "revoked_at")) {
            by_name = client_text(k, "id", NULL);
            (*named)++;
        }
    }
    return *named == 1 ? by_name : NULL;
}

static int revoke_found(const struct admin *a, void *ctx) {
    const char *word = ctx;
    struct client_answer keys, answer;
    struct buf path = BUF_INIT(512);
    int code = CLI_OK;
    admin_call(a, "GET", "/v1/keys", NULL, &keys);
    size_t named;
    const char *id = find(json_object_get(keys.json, "data"), word, &named);
    if (!client_is_success(&keys)) {
        code = client_fail("key revoke", &keys);
    } else if (!id && named > 1) {
        cli_say(stderr,
                "postchute key revoke: '%s' is the name of %zu keys in force: give the prefix or "
                "the id of one (postchute key list)\n",
                word, named);
        code = CLI_FAILED;
    } else if (!id) {
        cli_say(stderr,
                "postchute key revoke: '%s' is not the id, the prefix or the name of one key\n",
                word);
        code = CLI_FAILED;
    } else {
        buf_putz(&path, "/v1/keys/");
        admin_put_path(&path, id);
        admin_call(a, "DELETE", path.p, NULL, &answer);
        if (!client_is_success(&answer))
            code = client_fail("key revoke", &answer);
        client_answer_release(&answer);
    }
    buf_release(&path);
    client_answer_release(&keys);
    return code;
}

static int revoke(const struct options *o, char *const *env) {
    return admin_do(o, env, "key revoke", false, revoke_found, (void *)(uintptr_t)o->word[0]);
}

const struct command cli_key_revoke = {
    .name = "key revoke",
    .arguments = "ID|PREFIX|NAME",
    .summary = "ends an API key at once",
    .text = "By its id, its prefix (pc_live_ and 8 characters) or its name, when only one has it.\n"
            "What was accepted with it is still delivered.",
    COMMAND_OPTIONS(revoke_options),
    .words_least = 1,
    .words_most = 1,
    .run = revoke,
};
