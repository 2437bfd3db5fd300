#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "api/request.h"
#include "server/base/clock.h"
#include "server/base/id.h"
#include "server/base/limits.h"
#include "server/cli/client.h"
#include "server/cli/send_body.h"
#include "server/cli/settings.h"

enum {
    ANSWER_MS = 30 * 1000, /* beyond the time that the server was asked to wait */
    AGAIN_FIRST_MS = 250,  /* doubled at each try */
    AGAIN_MOST_MS = 10000, /* also of what Retry-After asks for */
    POLL_MS = 250,
    KEY_FILE_MAX = 4096,
};

struct sending {
    struct client client;
    struct buf key;
    struct buf url;
    json_t *body;
    int64_t wait_s; /* 0: do not */
    int64_t deadline_mono_ms;
    int64_t tries;
    bool wants_json;
};

/* ---- where to and with which key ------------------------------------------------------------- */

/* A key is short, ASCII and without spaces; anything else in a header would be an injection. */
static enum err take_key(struct sending *s, struct str text, const char *from,
                         struct errinfo *info) {
    text = str_trim(text);
    if (text.n == 0 || text.n > 512 || !str_is_ascii(text) || str_has_control(text, false) ||
        str_find_char(text, ' ') >= 0)
        return err_set(info, ERR_INVALID, from, "holds no API key");
    buf_put(&s->key, text);
    s->client.key = buf_str(&s->key);
    return OK;
}

static enum err key_from_file(struct sending *s, const char *path, const char *from,
                              struct errinfo *info) {
    struct buf content;
    enum err e = send_read(path, from, &content, info);
    if (e == OK)
        e = take_key(s, buf_str(&content), from, info);
    buf_release_secret(&content);
    return e;
}

/* --key-file, POSTCHUTE_KEY, POSTCHUTE_KEY_FILE, else what the development profile left in its
 * folder. */
static enum err find_key(struct sending *s, const struct options *o, char *const *env,
                         struct errinfo *info) {
    const char *file = options_text(o, "key-file", NULL);
    const char *text = settings_variable(env, "POSTCHUTE_KEY"),
               *named = settings_variable(env, "POSTCHUTE_KEY_FILE"),
               *data = settings_variable(env, "POSTCHUTE_DATA");
    char path[4096];
    if (file)
        return key_from_file(s, file, "--key-file", info);
    if (text)
        return take_key(s, str_of(text), "POSTCHUTE_KEY", info);
    if (named)
        return key_from_file(s, named, "POSTCHUTE_KEY_FILE", info);
    snprintf(path, sizeof path, "%s/dev.key", data ? data : "var");
    if (access(path, R_OK) == 0)
        return key_from_file(s, path, path, info);
    return err_set(info, ERR_INVALID, "",
                   "no API key: set POSTCHUTE_KEY or give --key-file (`postchute key create`)");
}

static enum err prepare(struct sending *s, const struct options *o, char *const *env,
                        struct errinfo *info) {
    const char *url = options_text(o, "url", settings_variable(env, "POSTCHUTE_URL"));
    struct str base = str_of(url ? url : "http://127.0.0.1:8025");
    while (base.n && base.p[base.n - 1] == '/')
        base.n--;
    buf_put(&s->url, base);
    s->client.url = s->url.p ? s->url.p : "";
    s->client.ca_file = options_text(o, "ca-file", NULL);
    s->wants_json = options_has(o, "json");
    enum err e = find_key(s, o, env, info);
    if (e == OK && options_has(o, "wait"))
        e = options_number(o, "wait", 1, 86400, LIMIT_WAIT_S, &s->wait_s, info);
    if (e == OK)
        e = options_number(o, "tries", 1, 100, 5, &s->tries, info);
    if (e == OK)
        e = send_body(o, &s->body, info);
    s->deadline_mono_ms = clock_mono_ms() + s->wait_s * 1000;
    return e;
}

/* ---- the message's state --------------------------------------------------------------------- */

static bool is_open(const char *state) {
    static const char *const open[] = {"scheduled", "queued", "sending", "deferred"};
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++)
        if (strcmp(state, open[i]) == 0)
            return true;
    return false;
}

/* The exit code that the recipients' states stand for. */
static int judge(const json_t *message) {
    size_t i;
    json_t *r;
    int code = CLI_OK;
    json_array_foreach(json_object_get(message, "recipients"), i, r) {
        const char *state = client_text(r, "state", "");
        if (is_open(state))
            return CLI_NOT_FINAL;
        if (strcmp(state, "delivered") != 0)
            code = CLI_UNDELIVERED;
    }
    return code;
}

/* What is not delivered, one line each, on standard error. */
static void report(const json_t *message) {
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(message, "recipients"), i, r) {
        const char *state = client_text(r, "state", "?");
        const json_t *why = json_object_get(r, "refusal");
        if (!why)
            why = json_object_get(r, "smtp");
        json_int_t code = json_integer_value(json_object_get(why, "code"));
        if (strcmp(state, "delivered") == 0)
            continue;
        cli_say(stderr, "postchute send: %s: %s", client_text(r, "email", "?"), state);
        if (code)
            cli_say(stderr, ": %d", (int)code);
        if (client_text(why, "text", NULL))
            cli_say(stderr, "%s %s", code ? "" : ":", client_text(why, "text", ""));
        cli_say(stderr, "\n");
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void pause_ms(int64_t ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static int64_t wait_before_again(const struct client_answer *a, int try) {
    int64_t ms = AGAIN_FIRST_MS << (try < 8 ? try : 8);
    uint64_t asked_s = 0;
    struct str after = httpc_sync_header(&a->http, STR("Retry-After"));
    if (str_parse_u64(after, 86400, &asked_s) == OK && (int64_t)asked_s * 1000 > ms)
        ms = (int64_t)asked_s * 1000;
    return ms < AGAIN_MOST_MS ? ms : AGAIN_MOST_MS;
}

/* The same request until somebody answers it; the key makes it safe to repeat. */
static void submit(struct sending *s, const char *idempotency_key, struct client_answer *a) {
    char key_header[LIMIT_IDEMPOTENCY_KEY + 32], wait_header[48];
    int64_t wait_s = s->wait_s < LIMIT_WAIT_S ? s->wait_s : LIMIT_WAIT_S;
    snprintf(key_header, sizeof key_header, "Idempotency-Key: %s", idempotency_key);
    snprintf(wait_header, sizeof wait_header, "Prefer: wait=%lld", (long long)wait_s);
    const char *headers[] = {key_header, s->wait_s ? wait_header : NULL, NULL};
    for (int try = 0;; try++) {
        client_call(&s->client, "POST", "/v1/messages", s->body, headers, ANSWER_MS + wait_s * 1000,
                    a);
        if (try + 1 >= s->tries || !client_may_try_again(a))
            return;
        int64_t wait = wait_before_again(a, try);
        client_answer_release(a);
        pause_ms(wait);
    }
}

/* Asks for the message until it is final, the time is over, or nobody answers any more. */
static int follow(struct sending *s, json_t **message) {
    char path[128];
    int code = judge(*message);
    snprintf(path, sizeof path, "/v1/messages/%.64s", client_text(*message, "id", ""));
    while (code == CLI_NOT_FINAL && clock_mono_ms() < s->deadline_mono_ms) {
        struct client_answer a;
        int64_t left = s->deadline_mono_ms - clock_mono_ms();
        pause_ms(left < POLL_MS ? left : POLL_MS);
        client_call(&s->client, "GET", path, NULL, NULL, ANSWER_MS, &a);
        if (client_is_success(&a) && json_is_object(a.json)) {
            json_decref(*message);
            *message = json_incref(a.json);
            code = judge(*message);
        } else if (!client_may_try_again(&a)) {
            code = client_fail("send", &a);
        }
        client_answer_release(&a);
    }
    return code;
}

static int show(struct sending *s, json_t *answer) {
    json_t *message = json_incref(answer);
    int code = CLI_OK;
    if (!s->wants_json) { /* at once: what follows may take its time */
        puts(client_text(message, "id", ""));
        fflush(stdout);
    }
    if (s->wait_s) {
        code = follow(s, &message);
        report(message);
    }
    if (s->wants_json && client_print(message) != CLI_OK)
        code = CLI_FAILED;
    json_decref(message);
    return code;
}

static int run(struct sending *s, const char *idempotency_key) {
    struct client_answer a;
    int code;
    submit(s, idempotency_key, &a);
    if (!client_is_success(&a)) {
        code = client_fail("send", &a);
        if (a.http.failure != FAILURE_NONE)
            cli_say(stderr, "postchute send: that was %s (--url, POSTCHUTE_URL)\n", s->client.url);
    } else if (!client_text(a.json, "id", NULL)) {
        cli_say(stderr, "postchute send: %s does not answer like postchute\n", s->client.url);
        code = CLI_UNREACHABLE;
    } else {
        code = show(s, a.json);
    }
    client_answer_release(&a);
    return code;
}

static int send_message(const struct options *o, char *const *env) {
    struct sending s = {.key = BUF_INIT(KEY_FILE_MAX), .url = BUF_INIT(LIMIT_URL)};
    struct errinfo info = {0};
    struct id made = id_new(clock_wall_ms());
    char made_text[ID_TEXT_SIZE];
    int code = CLI_USAGE;
    id_print(&made, made_text);
    const char *key = options_text(o, "idempotency-key", made_text);
    enum err e = prepare(&s, o, env, &info);
    /* an empty one would be left out on the way, and what is repeated be sent twice */
    if (e == OK && !request_is_idempotency_key(str_of(key)))
        e = err_set(&info, ERR_INVALID, "--idempotency-key",
                    "expects 1 to %d visible characters of us-ascii", (int)LIMIT_IDEMPOTENCY_KEY);
    code = e == OK ? run(&s, key) : cli_fail(CLI_USAGE, "send", &info);
    json_decref(s.body);
    buf_release_secret(&s.key);
    buf_release(&s.url);
    return code;
}

const struct command cli_send = {
    .name = "send",
    .arguments = "[-]",
    .summary = "sends a message through a running server",
    .text =
        "Made for scripts and pipelines. The message comes from options, from a JSON file in the\n"
        "form of POST /v1/messages, or from standard input (-). Prints the message's id.\n"
        "\n"
        "  postchute send --from no-reply@acme.test --to ann@example.net \\\n"
        "      --subject 'Build 17' --text 'All green.' --attach report.pdf --wait\n"
        "  postchute send --file message.json --idempotency-key deploy-17\n"
        "  make-json | postchute send - --wait=120 --json\n"
        "\n"
        "The key: --key-file, POSTCHUTE_KEY, POSTCHUTE_KEY_FILE, else dev.key of the development "
        "profile\n"
        "(in POSTCHUTE_DATA, else ./var). When no answer or 503 comes it is tried again with the\n"
        "same Idempotency-Key, so that the message is sent once.\n"
        "\n"
        "Exit code: 0 delivered (without --wait: accepted), 1 refused by the server, 2 a "
        "recipient\n"
        "will not get it, 3 server not reached, 4 not final in time, 64 wrong usage.",
    .options = send_options,
    .option_count = SEND_OPTION_COUNT,
    .words_most = 1,
    .run = send_message,
};
