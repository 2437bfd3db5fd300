#include "server/cli/client.h"

#include "server/base/arena.h"

enum { ANSWER_MAX = 64 * 1024 * 1024, CONNECT_MS = 10 * 1000, HEADERS_MOST = 16 };

static void fill_headers(const struct client *c, bool has_body, const char *const *more,
                         struct arena *a, const char **out) {
    size_t n = 0;
    if (!str_is_absent(c->key))
        out[n++] = arena_printf(a, "Authorization: Bearer %.*s", STR_ARG(c->key)).p;
    if (has_body)
        out[n++] = "Content-Type: application/json";
    out[n++] = "User-Agent: postchute-cli/" POSTCHUTE_VERSION;
    for (size_t i = 0; more && more[i] && n < HEADERS_MOST; i++)
        out[n++] = more[i];
    out[n] = NULL;
}

void client_call(const struct client *c, const char *method, const char *path, const json_t *body,
                 const char *const *headers, int64_t timeout_ms, struct client_answer *a) {
    const char *list[HEADERS_MOST + 1];
    struct arena *arena = arena_new();
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    fill_headers(c, text != NULL, headers, arena, list);
    struct httpc_sync_request q = {.method = method,
                                   .url = arena_printf(arena, "%s%s", c->url, path).p,
                                   .socket_path = c->socket_path,
                                   .headers = list,
                                   .body = text ? str_of(text) : STR_NONE,
                                   .connect_timeout_ms = CONNECT_MS,
                                   .timeout_ms = timeout_ms,
                                   .response_max = ANSWER_MAX,
                                   .ca_file = c->ca_file};
    httpc_sync(&q, &a->http);
    struct str got = buf_str(&a->http.body);
    a->json = json_loadb(got.p, got.n, JSON_DECODE_ANY, NULL);
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
    arena_free(&arena);
}

void client_answer_release(struct client_answer *a) {
    json_decref(a->json);
    a->json = NULL;
    httpc_sync_release(&a->http);
}

bool client_is_success(const struct client_answer *a) {
    return a->http.failure == FAILURE_NONE && a->http.status >= 200 && a->http.status <= 299;
}

bool client_may_try_again(const struct client_answer *a) {
    switch (a->http.failure) {
    case FAILURE_NONE:
        return a->http.status == 429 || (a->http.status >= 500 && a->http.status != 501);
    case FAILURE_LOCAL:
    case FAILURE_TOO_LARGE:
    case FAILURE_TLS_UNTRUSTED:
    case FAILURE_TLS_NAME:
    case FAILURE_TLS_EXPIRED:
        return false;
    default:
        return true;
    }
}

const char *client_text(const json_t *object, const char *name, const char *fallback) {
    const char *s = json_string_value(json_object_get(object, name));
    return s ? s : fallback;
}

static void print_errors(const char *command, const json_t *errors) {
    size_t i;
    json_t *e;
    json_array_foreach(errors, i, e) {
        cli_say(stderr, "postchute %s:   %s: %s\n", command, client_text(e, "pointer", "#"),
                client_text(e, "detail", client_text(e, "code", "?")));
    }
}

int client_fail(const char *command, const struct client_answer *a) {
    if (a->http.failure != FAILURE_NONE) {
        cli_say(stderr, "postchute %s: no answer: %s\n", command, a->http.failure_text);
        return CLI_UNREACHABLE;
    }
    const char *title = client_text(a->json, "title", "no problem was named");
    const json_t *errors = json_object_get(a->json, "errors");
    /* of faults, the detail is the first one, or how many there are */
    const char *detail = json_array_size(errors) > 0 ? NULL : client_text(a->json, "detail", NULL);
    cli_say(stderr, "postchute %s: HTTP %d: %s%s%s\n", command, a->http.status, title,
            detail ? ": " : "", detail ? detail : "");
    print_errors(command, errors);
    return a->http.status >= 500 ? CLI_UNREACHABLE : CLI_FAILED;
}

int client_print(const json_t *v) {
    bool ok = json_dumpf(v, stdout, JSON_INDENT(2)) == 0 && putchar('\n') != EOF;
    return cli_printed(ok);
}
