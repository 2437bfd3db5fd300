/* Plays the server of each dialogue in tests/transcript/ against the client's session. The format
 * is told in README.md beside the files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <sys/socket.h>

#include "server/base/base64.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/net/listener.h"
#include "server/smtp/session.h"
#include "tests/unit/log_watch.h"
#include "tests/unit/net/certs.h"

enum { STEPS_MAX = 400, TRANSACTIONS_MAX = 8, RCPT_MAX = 200, PATIENCE_MS = 20000 };

enum step_kind {
    STEP_SEND,
    STEP_SEND_TIMES,
    STEP_EXPECT,
    STEP_SKIP,
    STEP_CLOSE,
    STEP_RST,
    STEP_TLS,
    STEP_DEAF,
    STEP_PAUSE,
    STEP_TRICKLE
};

struct step {
    enum step_kind kind;
    struct buf bytes;
    uint64_t times; /* of S* and C*; octets in 5 ms of trickle */
    int line;
};

struct scripted_transaction {
    struct buf from, message;
    struct buf rcpt[RCPT_MAX];
    size_t rcpt_count;
    bool needs_smtputf8;
};

struct script {
    const char *path;
    enum session_tls tls;
    struct buf user, password;
    bool has_auth, insecure, nodribble, sweep, stays_idle, has_timeout;
    enum certificate { CERT_SELF_SIGNED, CERT_GOOD, CERT_OTHER_NAME, CERT_EXPIRED } certificate;
    struct session_timeouts timeouts;
    struct scripted_transaction transaction[TRANSACTIONS_MAX];
    size_t transactions;
    struct step step[STEPS_MAX];
    size_t steps;
    struct buf expected; /* the E: lines */
};

/* ---- reading a script ---- */

static void unescape(struct str s, struct buf *out) {
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c != '\\' || i + 1 == s.n) {
            buf_putc(out, c);
            continue;
        }
        c = s.p[++i];
        if (c == 'x' && i + 2 < s.n) {
            char hex[3] = {s.p[i + 1], s.p[i + 2], '\0'};
            buf_putc(out, (char)strtoul(hex, NULL, 16));
            i += 2;
        } else {
            buf_putc(out, c == 'r' ? '\r' : c == 'n' ? '\n' : c == '0' ? '\0' : c);
        }
    }
}

static struct scripted_transaction *current(struct script *s) {
    if (s->transactions == 0)
        s->transactions = 1;
    return &s->transaction[s->transactions - 1];
}

static uint64_t number(struct script *s, struct str text) {
    uint64_t n = 0;
    if (str_parse_u64(text, UINT64_MAX, &n) != OK)
        fail_msg("%s: not a number: %.*s", s->path, STR_ARG(text));
    return n;
}

static void set_timeout(struct script *s, struct str stage, int64_t ms) {
    static const struct {
        const char *name;
        size_t at;
    } fields[] = {{"connect", offsetof(struct session_timeouts, connect)},
                  {"greeting", offsetof(struct session_timeouts, greeting)},
                  {"ehlo", offsetof(struct session_timeouts, ehlo)},
                  {"starttls", offsetof(struct session_timeouts, starttls)},
                  {"mail", offsetof(struct session_timeouts, mail)},
                  {"rcpt", offsetof(struct session_timeouts, rcpt)},
                  {"data", offsetof(struct session_timeouts, data)},
                  {"block", offsetof(struct session_timeouts, block)},
                  {"end", offsetof(struct session_timeouts, end)},
                  {"rset", offsetof(struct session_timeouts, rset)}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (str_equal(stage, str_of(fields[i].name))) {
            memcpy((char *)&s->timeouts + fields[i].at, &ms, sizeof(ms));
            return;
        }
    }
    fail_msg("%s: no such timeout: %.*s", s->path, STR_ARG(stage));
}

static struct step *add_step(struct script *s, enum step_kind kind, int line) {
    assert_true(s->steps < STEPS_MAX);
    struct step *step = &s->step[s->steps++];
    step->kind = kind;
    step->line = line;
    buf_init(&step->bytes, 1024 * 1024);
    return step;
}

static bool read_step(struct script *s, struct str line, int number_of_line) {
    static const struct {
        const char *word;
        enum step_kind kind;
    } plain[] = {{"close", STEP_CLOSE},
                 {"rst", STEP_RST},
                 {"starttls", STEP_TLS},
                 {"deaf", STEP_DEAF},
                 {"pause", STEP_PAUSE}};
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (str_equal(line, str_of(plain[i].word))) {
            add_step(s, plain[i].kind, number_of_line);
            return true;
        }
    }
    if (str_starts_with(line, STR("trickle "))) {
        add_step(s, STEP_TRICKLE, number_of_line)->times = number(s, str_from(line, 8));
        return true;
    }
    if (line.n < 2 || (line.p[0] != 'C' && line.p[0] != 'S') || !strchr(":!*", line.p[1]))
        return false;
    bool is_server = line.p[0] == 'S';
    struct str text = str_from(line, line.n > 2 ? 3 : 2);
    struct step *step = add_step(s, is_server ? STEP_SEND : STEP_EXPECT, number_of_line);
    if (line.p[1] == '*') {
        step->kind = is_server ? STEP_SEND_TIMES : STEP_SKIP;
        step->times = number(s, str_split(&text, ' '));
    }
    unescape(text, &step->bytes);
    if (line.p[1] == ':')
        buf_putz(&step->bytes, "\r\n");
    return true;
}

static void read_setting(struct script *s, struct str line) {
    struct str rest = line;
    struct str word = str_split(&rest, ' ');
    struct scripted_transaction *t = current(s);
    if (str_equal(word, STR("tls")))
        s->tls = str_equal(rest, STR("opportunistic")) ? SESSION_TLS_OPPORTUNISTIC
                 : str_equal(rest, STR("encrypt"))     ? SESSION_TLS_ENCRYPT
                 : str_equal(rest, STR("verify"))      ? SESSION_TLS_VERIFY
                 : str_equal(rest, STR("implicit"))    ? SESSION_TLS_IMPLICIT
                                                       : SESSION_TLS_NONE;
    else if (str_equal(word, STR("certificate")))
        s->certificate = str_equal(rest, STR("good"))         ? CERT_GOOD
                         : str_equal(rest, STR("other-name")) ? CERT_OTHER_NAME
                                                              : CERT_EXPIRED;
    else if (str_equal(word, STR("auth"))) {
        s->has_auth = true;
        unescape(str_split(&rest, ' '), &s->user);
        unescape(rest, &s->password);
    } else if (str_equal(word, STR("insecure")))
        s->insecure = true;
    else if (str_equal(word, STR("timeout"))) {
        struct str stage = str_split(&rest, ' ');
        s->has_timeout = true;
        set_timeout(s, stage, (int64_t)number(s, rest));
    } else if (str_equal(word, STR("rate")))
        s->timeouts.min_rate_bytes_s = (int64_t)number(s, rest);
    else if (str_equal(word, STR("transaction")))
        s->transactions++;
    else if (str_equal(word, STR("from"))) {
        buf_clear(&t->from);
        unescape(rest, &t->from);
    } else if (str_equal(word, STR("rcpt")))
        unescape(rest, &t->rcpt[t->rcpt_count++]);
    else if (str_equal(word, STR("message"))) {
        buf_clear(&t->message);
        unescape(rest, &t->message);
    } else if (str_equal(word, STR("fill"))) {
        for (uint64_t i = 0, n = number(s, rest); i < n; i++)
            buf_putc(&t->message, i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : 'x');
    } else if (str_equal(word, STR("utf8")))
        t->needs_smtputf8 = true;
    else if (str_equal(word, STR("nodribble")))
        s->nodribble = true;
    else if (str_equal(word, STR("idle")))
        s->stays_idle = true;
    else if (str_equal(word, STR("sweep")))
        s->sweep = true;
    else
        fail_msg("%s: unknown line: %.*s", s->path, STR_ARG(line));
}

static void begin_script(struct script *s, const char *path) {
    *s = (struct script){.path = path};
    session_timeouts_default(&s->timeouts);
    buf_init(&s->user, 4096);
    buf_init(&s->password, 4096);
    buf_init(&s->expected, 65536);
    for (size_t i = 0; i < TRANSACTIONS_MAX; i++) {
        struct scripted_transaction *t = &s->transaction[i];
        buf_init(&t->from, 4096);
        buf_init(&t->message, 16 * 1024 * 1024);
        buf_putz(&t->from, "a@client.test");
        buf_putz(&t->message, "Subject: t\r\n\r\nhello\r\n");
        for (size_t j = 0; j < RCPT_MAX; j++)
            buf_init(&t->rcpt[j], 4096);
    }
}

static struct script *read_script(const char *path) {
    struct script *s = mem_zalloc(sizeof(*s));
    char line[65536];
    int number_of_line = 0;
    begin_script(s, path);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        struct str text = str_of(line);
        number_of_line++;
        while (text.n > 0 && (text.p[text.n - 1] == '\n'))
            text.n--;
        if (text.n == 0 || text.p[0] == '#')
            continue;
        if (str_starts_with(text, STR("E: "))) {
            buf_put(&s->expected, str_from(text, 3));
            buf_putc(&s->expected, '\n');
        } else if (!read_step(s, text, number_of_line)) {
            read_setting(s, text);
        }
    }
    fclose(f);
    current(s);
    for (size_t i = 0; i < s->transactions; i++)
        if (s->transaction[i].rcpt_count == 0)
            buf_putz(&s->transaction[i].rcpt[s->transaction[i].rcpt_count++], "b@mx.test");
    return s;
}

static void free_script(struct script *s) {
    buf_release(&s->user);
    buf_release(&s->password);
    buf_release(&s->expected);
    for (size_t i = 0; i < s->steps; i++)
        buf_release(&s->step[i].bytes);
    for (size_t i = 0; i < TRANSACTIONS_MAX; i++) {
        buf_release(&s->transaction[i].from);
        buf_release(&s->transaction[i].message);
        for (size_t j = 0; j < RCPT_MAX; j++)
            buf_release(&s->transaction[i].rcpt[j]);
    }
    free(s);
}

/* ---- playing it ---- */

enum mode { MODE_AS_WRITTEN, MODE_DRIBBLE, MODE_CUT_CLOSE, MODE_CUT_RST };

struct play {
    struct loop *loop;
    struct script *script;
    enum mode mode;
    size_t cut_after; /* octets of the server */
    struct listener *listener;
    struct tls_server_ctx *server_tls;
    struct tls_client_ctx *client_tls;
    /* the server */
    struct stream *server;
    int server_fd;
    size_t step;
    uint64_t times_done;
    struct buf to_dribble;
    size_t sent;
    bool is_handshaking, is_deaf, is_cut, server_ended;
    struct timer *dribble, *pause;
    char problem[512];
    /* the client */
    struct session *session;
    size_t transaction;
    struct session_recipient recipient[RCPT_MAX];
    unsigned reports[RCPT_MAX];
    struct buf told;
    bool is_over, is_sending;
    size_t callbacks, leave_at; /* the owner lets go of the session inside that callback */
};

static struct certs certs;
static struct cert_files cert_files[4];

static void advance(struct play *p);

static void problem(struct play *p, const char *what, struct str detail) {
    if (p->problem[0])
        return;
    int line = p->step < p->script->steps ? p->script->step[p->step].line : 0;
    snprintf(p->problem, sizeof(p->problem), "line %d: %s: %.*s", line, what, STR_ARG(detail));
}

static void server_gone(struct play *p, bool with_reset) {
    if (!p->server)
        return;
    struct linger now = {1, 0};
    if (with_reset)
        (void)setsockopt(p->server_fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    stream_close(&p->server, !with_reset);
    p->server_ended = true;
}

/* Writes at most what the cut allows; true: cut off. */
static bool server_write(struct play *p, struct str bytes) {
    if (p->mode >= MODE_CUT_CLOSE && p->sent + bytes.n >= p->cut_after) {
        stream_write(p->server, str_slice(bytes, 0, p->cut_after - p->sent));
        p->sent = p->cut_after;
        p->is_cut = true;
        server_gone(p, p->mode == MODE_CUT_RST);
        return true;
    }
    stream_write(p->server, bytes);
    p->sent += bytes.n;
    return false;
}

static void dribble_one(void *arg) {
    struct play *p = arg;
    if (!p->server || p->to_dribble.n == 0)
        return;
    stream_write(p->server, str_slice(buf_str(&p->to_dribble), 0, 1));
    buf_consume(&p->to_dribble, 1);
    if (p->to_dribble.n == 0)
        advance(p);
}

/* True: the step is done. */
static bool server_send(struct play *p, struct str bytes) {
    if (p->mode != MODE_DRIBBLE)
        return !server_write(p, bytes);
    buf_put(&p->to_dribble, bytes);
    timer_set(p->dribble, 0);
    return true;
}

static bool expect_bytes(struct play *p, struct str want) {
    struct str got = stream_peek(p->server);
    size_t n = got.n < want.n ? got.n : want.n;
    if (memcmp(got.p, want.p, n) != 0) {
        problem(p, "the client sent", str_slice(got, 0, got.n < 200 ? got.n : 200));
        server_gone(p, false);
        return false;
    }
    if (got.n < want.n)
        return false;
    stream_drain(p->server, want.n);
    return true;
}

static bool skip_bytes(struct play *p, const struct step *step) {
    size_t n = stream_peek(p->server).n;
    if (n > step->times - p->times_done)
        n = (size_t)(step->times - p->times_done);
    stream_drain(p->server, n);
    p->times_done += n;
    return p->times_done == step->times;
}

static bool send_times(struct play *p, const struct step *step) {
    struct buf many = BUF_INIT(64 * 1024);
    while (p->times_done < step->times) {
        if (stream_pending(p->server) > 64 * 1024)
            return buf_release(&many), false; /* goes on when drained */
        while (many.n + step->bytes.n < 32 * 1024 && p->times_done < step->times) {
            buf_put(&many, buf_str(&step->bytes));
            p->times_done++;
        }
        stream_write(p->server, buf_str(&many));
        buf_clear(&many);
    }
    buf_release(&many);
    return true;
}

/* Does the step at hand; true: it is done. */
static bool do_step(struct play *p, const struct step *step) {
    switch (step->kind) {
    case STEP_SEND:
        return server_send(p, buf_str(&step->bytes));
    case STEP_SEND_TIMES:
        return send_times(p, step);
    case STEP_EXPECT:
        return expect_bytes(p, buf_str(&step->bytes));
    case STEP_SKIP:
        return skip_bytes(p, step);
    case STEP_CLOSE:
        server_gone(p, false);
        return true;
    case STEP_RST:
        server_gone(p, true);
        return true;
    case STEP_TLS:
        if (!p->is_handshaking) {
            p->is_handshaking = true;
            stream_start_tls_server(p->server, p->server_tls, 5000);
            return false;
        }
        if (!stream_tls_info(p->server).version[0])
            return false;
        p->is_handshaking = false;
        return true;
    case STEP_PAUSE: /* what was sent before arrives alone */
        if (p->times_done == 0) {
            p->times_done = 1;
            timer_set(p->pause, 20);
        }
        return p->times_done == 2;
    case STEP_TRICKLE: {
        size_t n = stream_peek(p->server).n;
        if (p->times_done > 0) /* its timer decides */
            stream_drain(p->server, n < step->times ? n : (size_t)step->times);
        p->times_done = 0;
        timer_set(p->pause, 5);
        return false;
    }
    case STEP_DEAF:
        p->is_deaf = true;
        stream_set_reading(p->server, false);
        return true;
    }
    return false;
}

static void advance(struct play *p) {
    while (p->server && p->step < p->script->steps && p->to_dribble.n == 0) {
        if (!do_step(p, &p->script->step[p->step]))
            return;
        p->step++;
        p->times_done = 0;
    }
    if (p->server && p->step == p->script->steps && !p->is_deaf && p->to_dribble.n == 0 &&
        stream_peek(p->server).n > 0) {
        problem(p, "the client sent more", stream_peek(p->server));
        server_gone(p, false);
    }
}

static void server_turn(void *ctx) {
    struct play *p = ctx;
    if (p->to_dribble.n > 0)
        timer_set(p->dribble, 0);
    else
        advance(p);
}

static void pause_over(void *arg) {
    struct play *p = arg;
    p->times_done = 2;
    server_turn(p);
}

static void server_failed(void *ctx, enum failure why, struct str text) {
    (void)why, (void)text;
    struct play *p = ctx;
    server_gone(p, false);
}

static void server_closed(void *ctx) {
    struct play *p = ctx;
    if (p->server)
        advance(p);
    server_gone(p, false);
}

static void on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    static const struct stream_events events = {.on_open = server_turn,
                                                .on_read = server_turn,
                                                .on_drained = server_turn,
                                                .on_failed = server_failed,
                                                .on_closed = server_closed};
    (void)peer;
    struct play *p = ctx;
    p->server_fd = fd;
    p->server = stream_accept(p->loop, fd, &events, p);
}

/* ---- the client ---- */

/* C38: what was sent as a secret is in no line of the transcript. */
static void check_no_secret(struct play *p) {
    struct script *s = p->script;
    struct str shown = session_transcript(p->session);
    struct buf plain = BUF_INIT(8192), encoded = BUF_INIT(16384);
    if (!s->has_auth)
        return;
    buf_putc(&plain, '\0');
    buf_put(&plain, buf_str(&s->user));
    buf_putc(&plain, '\0');
    buf_put(&plain, buf_str(&s->password));
    base64_encode(buf_str(&plain), &encoded);
    assert_int_equal(str_find(shown, buf_str(&encoded)), -1);
    buf_clear(&encoded);
    base64_encode(buf_str(&s->password), &encoded);
    assert_int_equal(str_find(shown, buf_str(&encoded)), -1);
    buf_release(&plain);
    buf_release(&encoded);
}

/* True: the owner has let go of the session. */
static bool leaves(struct play *p) {
    check_no_secret(p);
    if (++p->callbacks != p->leave_at)
        return false;
    if (p->leave_at % 2)
        session_close(&p->session);
    else
        session_quit(&p->session);
    p->is_over = true;
    return true;
}

static void tell_result(struct play *p, const struct session_result *r) {
    buf_printf(&p->told, " %s", stage_name(r->stage));
    if (r->failure != FAILURE_NONE) {
        assert_true(r->text.n > 0);
        assert_null(r->reply);
        buf_printf(&p->told, " %s", failure_name(r->failure));
    } else {
        char enhanced[16];
        assert_non_null(r->reply);
        enhanced_code_print(r->reply->enhanced, enhanced);
        buf_printf(&p->told, " %d%s%s", r->reply->code, enhanced[0] ? " " : "", enhanced);
    }
    if (r->rcpt_accepted_before > 0 && r->stage == STAGE_RCPT)
        buf_printf(&p->told, " after %zu", r->rcpt_accepted_before);
    buf_putc(&p->told, '\n');
}

static void send_next(struct play *p) {
    const struct scripted_transaction *t = &p->script->transaction[p->transaction++];
    for (size_t i = 0; i < t->rcpt_count; i++)
        p->recipient[i] = (struct session_recipient){.email = buf_str(&t->rcpt[i])};
    memset(p->reports, 0, sizeof(p->reports));
    struct id id = {0};
    struct message *m = message_new(&id, mem_dup(t->message.p, t->message.n), t->message.n);
    struct transaction wire = {.mail_from = buf_str(&t->from),
                               .recipient = p->recipient,
                               .count = t->rcpt_count,
                               .message = m,
                               .needs_smtputf8 = t->needs_smtputf8};
    p->is_sending = true;
    session_send(p->session, &wire);
    message_unref(&m);
}

static void on_ready(void *ctx) {
    struct play *p = ctx;
    buf_putz(&p->told, "ready\n");
    if (leaves(p))
        return;
    send_next(p);
}

static void on_recipient(void *ctx, size_t i, const struct session_result *r) {
    struct play *p = ctx;
    assert_true(p->is_sending);
    p->reports[i]++;
    buf_printf(&p->told, "recipient %zu", i);
    tell_result(p, r);
    (void)leaves(p);
}

static void on_done(void *ctx, bool reusable) {
    struct play *p = ctx;
    assert_true(p->is_sending);
    p->is_sending = false;
    const struct scripted_transaction *t = &p->script->transaction[p->transaction - 1];
    for (size_t i = 0; i < t->rcpt_count; i++)
        if (p->reports[i] != 1)
            problem(p, "a recipient was not reported exactly once", buf_str(&t->rcpt[i]));
    buf_printf(&p->told, "done %s\n", reusable ? "reusable" : "dead");
    if (leaves(p))
        return;
    if (reusable && p->transaction < p->script->transactions) {
        send_next(p);
        return;
    }
    if (reusable && p->script->stays_idle)
        return;
    session_quit(&p->session);
    p->is_over = true;
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct play *p = ctx;
    assert_false(p->is_sending);
    buf_putz(&p->told, "failed");
    tell_result(p, r);
    if (leaves(p))
        return;
    session_close(&p->session);
    p->is_over = true;
}

static void open_session(struct play *p) {
    static const struct session_events events = {.on_ready = on_ready,
                                                 .on_recipient = on_recipient,
                                                 .on_done = on_done,
                                                 .on_failed = on_failed};
    struct script *s = p->script;
    struct session_options o = {.to = listener_address(p->listener),
                                .host_name = "mx.test",
                                .ehlo_name = "client.test",
                                .tls = s->tls,
                                .tls_ctx = p->client_tls,
                                .auth_user = s->has_auth ? s->user.p : NULL,
                                .auth_password = s->has_auth ? s->password.p : NULL,
                                .insecure_auth = s->insecure,
                                .timeouts = s->timeouts,
                                .keep_transcript = true};
    p->session = session_open(p->loop, &o, &events, p);
}

static struct play *begin_play(struct script *s, enum mode mode, size_t cut_after) {
    struct play *p = mem_zalloc(sizeof(*p));
    struct sockaddr_any at;
    struct tls_client_options tls = {.ca_file = certs.ca_file};
    p->loop = loop_new();
    p->script = s;
    p->mode = mode;
    p->cut_after = cut_after;
    buf_init(&p->told, 256 * 1024);
    buf_init(&p->to_dribble, 1024 * 1024);
    p->dribble = timer_new(p->loop, dribble_one, p);
    p->pause = timer_new(p->loop, pause_over, p);
    if (s->tls != SESSION_TLS_NONE) {
        const struct cert_files *files = &cert_files[s->certificate];
        if (s->certificate == CERT_SELF_SIGNED)
            assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &p->server_tls, NULL), OK);
        else
            assert_int_equal(
                tls_server_ctx_new_files(files->cert, files->key, &p->server_tls, NULL), OK);
        assert_int_equal(tls_client_ctx_new(&tls, &p->client_tls, NULL), OK);
    }
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 0, &at), OK);
    assert_int_equal(listener_open(p->loop, &at, on_accept, p, &p->listener, NULL), OK);
    open_session(p);
    return p;
}

static void end_play(struct play *p) {
    session_close(&p->session);
    server_gone(p, false);
    timer_free(&p->dribble);
    timer_free(&p->pause);
    listener_close(&p->listener);
    tls_server_ctx_unref(&p->server_tls);
    tls_client_ctx_unref(&p->client_tls);
    loop_free(&p->loop);
    buf_release(&p->told);
    buf_release(&p->to_dribble);
    free(p);
}

static void run(struct play *p) {
    int64_t end_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!(p->is_over && (p->server_ended || p->is_deaf)) && clock_mono_ms() < end_mono_ms)
        loop_dispatch_once(p->loop, 1000);
    if (!p->is_over)
        problem(p, "the client never came to an end", buf_str(&p->told));
}

static void play(struct script *s, enum mode mode) {
    struct play *p = begin_play(s, mode, 0);
    run(p);
    /* floods and handshakes are left when the client has had enough */
    bool may_leave = p->step < s->steps &&
                     (s->step[p->step].kind == STEP_SEND_TIMES ||
                      s->step[p->step].kind == STEP_TRICKLE || s->step[p->step].kind == STEP_TLS);
    if (!p->problem[0] && p->step < s->steps && !may_leave)
        problem(p, "the client left the rest of the dialogue", STR(""));
    bool is_as_told = str_equal(buf_str(&p->told), buf_str(&s->expected));
    if (p->problem[0] || !is_as_told)
        fail_msg("%s%s: %s\nthe owner was told:\n%.*s", s->path,
                 mode == MODE_DRIBBLE ? " (one octet per segment)" : "", p->problem,
                 STR_ARG(buf_str(&p->told)));
    end_play(p);
}

/* The server is gone after each octet: everybody is told once, and nobody "delivered" without the
 * whole reply to the final dot. */
static void sweep(struct script *s, enum mode mode) {
    bool is_cut = true;
    size_t n = 0, total = 0; /* the reply to the dot is the last that these servers send */
    for (size_t i = 0; i < s->steps; i++)
        total += s->step[i].kind == STEP_SEND ? s->step[i].bytes.n : 0;
    for (; is_cut; n++) {
        struct play *p = begin_play(s, mode, n);
        run(p);
        is_cut = p->is_cut;
        if (n < total && str_find(buf_str(&p->told), STR(" end 2")) >= 0)
            problem(p, "delivered without the whole reply to the final dot", STR(""));
        if (p->problem[0])
            fail_msg("%s, cut after %zu octets: %s\n%.*s", s->path, n, p->problem,
                     STR_ARG(buf_str(&p->told)));
        end_play(p);
    }
    assert_true(n > 50);
}

/* The owner may let go of the session in any of its callbacks. What the server sees is its own
 * affair; that nothing is called afterwards, and no memory is touched, is what counts. */
static void leave_everywhere(struct script *s) {
    bool was_left = true;
    for (size_t at = 1; was_left; at++) {
        struct play *p = begin_play(s, MODE_AS_WRITTEN, 0);
        p->leave_at = at;
        run(p);
        was_left = p->callbacks >= at;
        assert_true(p->callbacks <= at);
        end_play(p);
    }
}

static void test_dialogue(void **state) {
    struct script *s = read_script(*state);
    if (strstr(*state, "/T1_") != NULL || strstr(*state, "/C12_") != NULL)
        expect_log("message not sent"); /* it is refused before a byte of it leaves */
    assert_true(s->steps > 0 && s->expected.n > 0);
    play(s, MODE_AS_WRITTEN);
    if (!s->nodribble)
        play(s, MODE_DRIBBLE);
    if (!s->has_timeout)
        leave_everywhere(s);
    if (s->sweep) {
        sweep(s, MODE_CUT_CLOSE);
        sweep(s, MODE_CUT_RST);
    }
    free_script(s);
}

int main(void) {
    static struct CMUnitTest tests[500];
    glob_t found;
    certs_init(&certs);
    cert_files[CERT_GOOD] = certs_issue(&certs, "mx.test", "DNS:mx.test", -60, 3600, false);
    cert_files[CERT_OTHER_NAME] =
        certs_issue(&certs, "other.test", "DNS:other.test", -60, 3600, false);
    cert_files[CERT_EXPIRED] = certs_issue(&certs, "mx.test", "DNS:mx.test", -7200, -3600, false);
    if (glob("tests/transcript/*.smtp", 0, NULL, &found) != 0 || found.gl_pathc > 500)
        return 1;
    for (size_t i = 0; i < found.gl_pathc; i++)
        tests[i] = (struct CMUnitTest){.name = strrchr(found.gl_pathv[i], '/') + 1,
                                       .test_func = test_dialogue,
                                       .initial_state = found.gl_pathv[i]};
    /* as _cmocka_run_group_tests, because the number of files is known only now */
    int failed = _cmocka_run_group_tests("transcripts", tests, found.gl_pathc, NULL, NULL);
    globfree(&found);
    certs_free(&certs);
    return failed;
}
