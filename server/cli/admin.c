#include "server/cli/admin.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/api.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/lifecycle_options.h"

enum { CALL_MS = 60 * 1000 };

/* The settings; with --data any will do, only the folder counts. */
static enum err load(const struct options *o, char *const *env, struct admin *a,
                     struct errinfo *info) {
    const char *data = options_text(o, "data", NULL);
    enum err e = settings_load_lenient(o, env, &a->settings, info);
    if (e == OK)
        return OK;
    a->unread = *info;
    if (!data)
        return e;
    char route[] = "POSTCHUTE_ROUTE=sandbox";
    char *const least[] = {route, NULL};
    const struct options none = {0};
    settings_release(&a->settings);
    return settings_load(&none, least, &a->settings, info);
}

/* OK: a server answers there. ERR_NOT_FOUND: none does. */
static enum err try_socket(const char *path, struct errinfo *info) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof at.sun_path)
        return ERR_NOT_FOUND;
    memcpy(at.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int failed = fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (failed == EACCES || failed == EPERM)
        return err_set(info, ERR_UNAVAILABLE, path, "%s: run this as the server's user",
                       strerror(failed));
    return failed ? ERR_NOT_FOUND : OK;
}

static enum err open_store(struct admin *a, const char *folder, struct errinfo *info) {
    struct store_options so = {.backend = STORE_SQLITE, .folder = folder};
    struct config at = *a->settings.config;
    struct lifecycle_api ao;
    at.tls_cert = STR_NONE; /* nobody is listened to but at the socket */
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    log_setup(LOG_WARN, LOG_FORMAT_TEXT);
    enum err e = lifecycle_seal(a->settings.config, &a->seal, info);
    so.seal = a->seal;
    if (e == OK)
        e = store_open(&so, &a->store, info);
    lifecycle_name_setting(info);
    if (e == ERR_CONFLICT)
        return err_set(info, e, folder, "a server holds it but does not answer at control.sock");
    if (e != OK)
        return e;
    e = lifecycle_api_options(&at, &ao, info);
    ao.options.store = a->store;
    ao.options.listen_count = ao.options.listen_health_count = 0;
    ao.options.loops = 1;
    ao.options.control_path = str_of(a->socket_path);
    if (e == OK)
        e = api_start(&ao.options, &a->api, info);
    lifecycle_api_release(&ao);
    return e;
}

/* A command that only looks must not leave a new store behind, perhaps another user's. */
static enum err check_store_exists(const char *folder, struct errinfo *info) {
    char *path = NULL;
    if (asprintf(&path, "%s/outbox.db", folder) < 0)
        return ERR_INTERNAL;
    enum err e = access(path, F_OK) == 0
                     ? OK
                     : err_set(info, ERR_NOT_FOUND, folder,
                               "there is no outbox here yet: `postchute serve` makes it");
    free(path);
    return e;
}

enum err admin_open(const struct options *o, char *const *env, bool may_create, struct admin *out,
                    struct errinfo *info) {
    *out = (struct admin){0};
    enum err e = load(o, env, out, info);
    if (e != OK)
        return e;
    const char *data = options_text(o, "data", NULL);
    char *folder = data ? str_dupz(str_of(data)) : str_dupz(out->settings.config->data);
    int n = snprintf(out->socket_path, sizeof out->socket_path, "%s/control.sock", folder);
    if (n < 0 || (size_t)n >= sizeof out->socket_path)
        e = err_set(info, ERR_INVALID, "--data", "is too long");
    if (e == OK)
        e = try_socket(out->socket_path, info);
    if (e == ERR_NOT_FOUND) {
        bool is_new = check_store_exists(folder, info) != OK;
        e = is_new && !may_create ? ERR_NOT_FOUND : open_store(out, folder, info);
        if (e == OK && is_new) /* perhaps it was another one that was meant */
            cli_say(stderr, "postchute: no outbox was in %s: made one\n", folder);
    }
    out->client = (struct client){.url = "http://localhost", .socket_path = out->socket_path};
    free(folder);
    return e;
}

void admin_close(struct admin *a) {
    if (a->api)
        api_stop(&a->api);
    if (a->store)
        store_close(&a->store);
    seal_free(&a->seal);
    settings_release(&a->settings);
}

/* The pages behind the first one, added to it. What fails takes the place of all. */
static void add_pages(const struct admin *a, const char *path, struct client_answer *answer) {
    json_t *data = json_object_get(answer->json, "data");
    const char *after = client_text(answer->json, "after", NULL);
    while (json_is_array(data) && after != NULL) {
        struct client_answer next;
        char *where = NULL;
        if (asprintf(&where, "%s?limit=%d&after=%s", path, LIMIT_PAGE, after) < 0)
            return;
        client_call(&a->client, "GET", where, NULL, NULL, CALL_MS, &next);
        free(where);
        json_array_extend(data, json_object_get(next.json, "data"));
        if (client_is_success(&next)) {
            json_object_set(answer->json, "after", json_object_get(next.json, "after"));
            after = client_text(answer->json, "after", NULL);
            client_answer_release(&next);
        } else {
            client_answer_release(answer);
            *answer = next;
            return;
        }
    }
}

void admin_call(const struct admin *a, const char *method, const char *path, const json_t *body,
                struct client_answer *answer) {
    client_call(&a->client, method, path, body, NULL, CALL_MS, answer);
    if (strcmp(method, "GET") == 0 && client_is_success(answer))
        add_pages(a, path, answer);
}

int admin_fail(const char *command, enum err e, const struct errinfo *info) {
    bool is_ours = e == ERR_INVALID || e == ERR_NOT_FOUND;
    return cli_fail(is_ours ? CLI_FAILED : CLI_UNREACHABLE, command, info);
}

int admin_do(const struct options *o, char *const *env, const char *command, bool may_create,
             int (*act)(const struct admin *a, void *ctx), void *ctx) {
    struct admin a;
    struct errinfo info = {0};
    enum err e = admin_open(o, env, may_create, &a, &info);
    int code = e == OK ? act(&a, ctx) : admin_fail(command, e, &info);
    admin_close(&a);
    return code;
}

struct one_request {
    const struct options *options;
    const char *command, *method, *path;
    const json_t *body;
    int (*show)(const struct options *o, const json_t *answer);
};

static int ask(const struct admin *a, void *ctx) {
    const struct one_request *q = ctx;
    struct client_answer answer;
    int code = CLI_OK;
    admin_call(a, q->method, q->path, q->body, &answer);
    if (!client_is_success(&answer))
        code = client_fail(q->command, &answer);
    else if (options_has(q->options, "json") && answer.json)
        code = client_print(answer.json);
    else if (q->show)
        code = q->show(q->options, answer.json);
    client_answer_release(&answer);
    return code;
}

int admin_run(const struct options *o, char *const *env, const char *command, bool may_create,
              const char *method, const char *path, json_t *body,
              int (*show)(const struct options *o, const json_t *answer)) {
    struct one_request q = {o, command, method, path, body, show};
    int code = admin_do(o, env, command, may_create, ask, &q);
    json_decref(body);
    return code;
}

int admin_show_list(const json_t *answer, void (*print)(const json_t *one)) {
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(answer, "data"), i, one) print(one);
    return cli_printed(true);
}

void admin_put_path(struct buf *path, const char *word) {
    for (; *word; word++) {
        if (ascii_is_alnum(*word) || strchr("-._~", *word))
            buf_putc(path, *word);
        else
            buf_printf(path, "%%%02X", (unsigned char)*word);
    }
}
