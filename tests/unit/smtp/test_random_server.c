/* Sessions talk to servers that do, by the throw of a die, what servers do: refuse anything, cut
 * replies into pieces, hang up anywhere; some are out of step besides. Each recipient is told once,
 * and what a server in step took is what the session says it took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <netinet/in.h>
#include <stdlib.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/net/listener.h"
#include "server/smtp/session.h"

enum { RECIPIENTS = 4, TRANSACTIONS = 7, TURNS_MAX = 20000, ROUNDS = 150, BODY = 200 * 1024 };

enum fate { UNTOLD, TAKEN, REFUSED, FAILED, UNKNOWN };

struct play {
    uint64_t number, seed;
    bool is_hostile;
    struct loop *loop;
    struct listener *listener;
    struct tls_server_ctx *server_tls;
    struct tls_client_ctx *client_tls;
    /* the server */
    struct stream *server;
    struct timer *later;
    struct buf line, say; /* what is yet to be said */
    size_t chunk_left;
    bool has_chunking, is_mail_refused;
    bool in_data, in_chunk, is_last_chunk, is_deaf, hangs_up, wants_tls, is_secure;
    int end_match;
    bool rcpt_taken[RECIPIENTS];
    size_t rcpts;
    /* what it took, and whether it said so; of the transaction under way */
    bool took[RECIPIENTS], has_body;
    /* the client */
    struct session *session;
    struct message *message;
    struct session_recipient rcpt[RECIPIENTS];
    enum fate fate[RECIPIENTS];
    int transactions;
    bool is_over, is_sending;
};

static uint64_t next(struct play *p) {
    uint64_t z = (p->seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool one_in(struct play *p, uint64_t n) {
    return next(p) % n == 0;
}

/* ---- the server ---- */

static void drop_server(struct play *p, bool flush) {
    timer_cancel(p->later);
    stream_close(&p->server, flush);
}

static void speak(void *arg) {
    struct play *p = arg;
    if (!p->server)
        return;
    size_t n = p->say.n;
    if (n > 1 && one_in(p, 3))
        n = 1 + next(p) % (n - 1);
    stream_write(p->server, str_slice(buf_str(&p->say), 0, n));
    buf_consume(&p->say, n);
    if (p->say.n > 0) {
        timer_set(p->later, 0);
    } else if (p->hangs_up) {
        drop_server(p, one_in(p, 2));
    } else if (p->wants_tls) {
        p->wants_tls = false;
        p->is_secure = true;
        stream_start_tls_server(p->server, p->server_tls, 5000);
    }
}

static void reply(struct play *p, int code, const char *text) {
    if (p->is_hostile && one_in(p, 12))
        code = 200 + (int)(next(p) % 400);
    if (one_in(p, 60)) { /* nothing more comes */
        p->is_deaf = p->hangs_up = true;
        if (code >= 400 && one_in(p, 2))
            code = 421;
    }
    if (one_in(p, 5))
        buf_printf(&p->say, "%d-%s\r\n", code, text);
    if (p->is_hostile && one_in(p, 20))
        buf_putz(&p->say, one_in(p, 2) ? "250 once more\r\n" : "junk\r\n");
    if (!(p->is_hostile && one_in(p, 30)))
        buf_printf(&p->say, "%d %s\r\n", code, text);
}

static int or_refuse(struct play *p, int code, uint64_t n) {
    static const int codes[] = {421, 450, 452, 500, 503, 550, 552, 554};
    if (!one_in(p, n))
        return code;
    code = codes[next(p) % 8];
    if (code == 421)
        p->is_deaf = p->hangs_up = true;
    return code;
}

static void forget(struct play *p) {
    memset(p->rcpt_taken, 0, sizeof p->rcpt_taken);
    p->rcpts = 0;
}

static void do_rcpt(struct play *p, struct str line) {
    size_t i = (size_t)(line.p[9] - 'a');
    /* Who offers CHUNKING has the message by then: what is behind a MAIL that it refused is
     * nobody's. */
    int code = p->has_chunking && p->is_mail_refused ? 503 : or_refuse(p, 250, 4);
    assert_true(i < RECIPIENTS);
    if (code == 250) {
        p->rcpt_taken[i] = true;
        p->rcpts++;
    }
    reply(p, code, "2.1.5 rcpt");
}

static void do_line(struct play *p, struct str line) {
    if (str_starts_with(line, STR("EHLO"))) {
        p->is_deaf = false;
        p->has_chunking = one_in(p, 2);
        buf_printf(&p->say, "250-mx\r\n250-SIZE 0\r\n%s%s%s",
                   one_in(p, 4) ? "" : "250-PIPELINING\r\n",
                   p->has_chunking ? "250-CHUNKING\r\n" : "",
                   p->is_secure || one_in(p, 2) ? "" : "250-STARTTLS\r\n");
        reply(p, or_refuse(p, 250, 50) == 250 ? 250 : 250, "8BITMIME");
    } else if (str_starts_with(line, STR("STARTTLS"))) {
        int code = or_refuse(p, 220, 4);
        reply(p, code, "tls");
        p->wants_tls = code == 220 && !p->is_hostile;
    } else if (str_starts_with(line, STR("MAIL"))) {
        forget(p);
        int code = or_refuse(p, 250, 12);
        p->is_mail_refused = code != 250;
        reply(p, code, "mail");
    } else if (str_starts_with(line, STR("RCPT"))) {
        do_rcpt(p, line);
    } else if (str_starts_with(line, STR("DATA"))) {
        int code = p->rcpts > 0 ? or_refuse(p, 354, 10) : one_in(p, 5) ? 354 : 503;
        p->in_data = code == 354;
        p->end_match = 2;
        reply(p, code, "data");
    } else if (str_starts_with(line, STR("BDAT"))) {
        p->is_last_chunk = str_ends_with(line, STR(" LAST\r\n"));
        assert_true(p->is_last_chunk || str_equal(line, STR("BDAT 1\r\n")));
        p->chunk_left = strtoul(line.p + 5, NULL, 10);
        p->in_chunk = true;
        if (!p->is_last_chunk && one_in(p, 10)) { /* it is no command here */
            p->in_chunk = false;
            reply(p, 500, one_in(p, 2) ? "5.5.1 what?" : "what?");
        }
    } else if (str_starts_with(line, STR("RSET"))) {
        forget(p);
        reply(p, or_refuse(p, 250, 10), "rset");
    } else {
        /* no line of a message: but who says yes to what it does not know asks for it */
        assert_true(p->is_hostile || str_equal(line, STR("QUIT\r\n")));
        reply(p, 221, "bye");
        p->hangs_up = true;
    }
}

static void end_message(struct play *p) {
    int code = or_refuse(p, 250, 5);
    p->has_body = true;
    for (size_t k = 0; k < RECIPIENTS && code == 250; k++)
        p->took[k] |= p->rcpt_taken[k];
    forget(p);
    reply(p, code, one_in(p, 2) ? "2.0.0 end" : "end");
}

static void give_up(struct play *p) {
    if (!one_in(p, 200))
        return;
    reply(p, 554, "enough");
    p->is_deaf = p->hangs_up = true;
}

/* CRLF.CRLF, and nothing else, ends it. */
static size_t read_data(struct play *p, struct str in) {
    static const char end[] = "\r\n.\r\n";
    for (size_t i = 0; i < in.n; i++) {
        p->end_match = in.p[i] == end[p->end_match] ? p->end_match + 1 : in.p[i] == '\r' ? 1 : 0;
        if (p->end_match < 5)
            continue;
        p->in_data = false;
        end_message(p);
        return i + 1;
    }
    give_up(p);
    return in.n;
}

static size_t read_chunk(struct play *p, struct str in) {
    size_t n = in.n < p->chunk_left ? in.n : p->chunk_left;
    p->chunk_left -= n;
    if (p->chunk_left > 0) {
        give_up(p);
        return n;
    }
    p->in_chunk = false;
    if (p->rcpts > 0 && !p->is_last_chunk)
        reply(p, or_refuse(p, 250, 10), "go on");
    else if (p->rcpts > 0)
        end_message(p);
    else
        reply(p, 503, "for nobody");
    return n;
}

static size_t read_command(struct play *p, struct str in) {
    ptrdiff_t lf = str_find_char(in, '\n');
    size_t n = lf < 0 ? in.n : (size_t)lf + 1;
    buf_put(&p->line, str_slice(in, 0, n));
    if (lf >= 0) {
        do_line(p, buf_str(&p->line));
        buf_clear(&p->line);
    }
    return n;
}

static void server_read(void *ctx) {
    struct play *p = ctx;
    while (p->server && !p->is_deaf && !p->wants_tls) {
        struct str in = stream_peek(p->server);
        if (in.n == 0 && !(p->in_chunk && p->chunk_left == 0))
            break;
        size_t n = p->in_data    ? read_data(p, in)
                   : p->in_chunk ? read_chunk(p, in)
                                 : read_command(p, in);
        stream_drain(p->server, n);
    }
    if (p->say.n > 0)
        timer_set(p->later, 0);
}

static void server_open(void *ctx) {
    struct play *p = ctx;
    if (p->is_secure)
        return;
    reply(p, or_refuse(p, 220, 30), "mx");
    timer_set(p->later, 0);
}

static void server_end(void *ctx) {
    drop_server(ctx, false);
}

static void server_failed(void *ctx, enum failure why, struct str text) {
    (void)why, (void)text;
    drop_server(ctx, false);
}

static const struct stream_events server_events = {.on_open = server_open,
                                                   .on_read = server_read,
                                                   .on_failed = server_failed,
                                                   .on_closed = server_end};

static void on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    (void)peer;
    struct play *p = ctx;
    assert_null(p->server);
    p->server = stream_accept(p->loop, fd, &server_events, p);
}

/* ---- the client ---- */

static void leave(struct play *p) {
    p->is_over = true;
    if (one_in(p, 2))
        session_quit(&p->session);
    else
        session_close(&p->session);
}

static void send_one(struct play *p) {
    struct transaction t = {.mail_from = STR("from@example.org"),
                            .recipient = p->rcpt,
                            .count = 1 + next(p) % RECIPIENTS,
                            .message = p->message};
    for (size_t i = 0; i < RECIPIENTS; i++)
        p->fate[i] = i < t.count ? UNTOLD : FAILED;
    memset(p->took, 0, sizeof p->took);
    p->has_body = false;
    p->transactions++;
    p->is_sending = true;
    session_send(p->session, &t);
}

static void on_ready(void *ctx) {
    struct play *p = ctx;
    assert_int_equal(p->transactions, 0);
    if (one_in(p, 50))
        leave(p);
    else
        send_one(p);
}

static void on_recipient(void *ctx, size_t i, const struct session_result *r) {
    struct play *p = ctx;
    assert_true(p->is_sending && i < RECIPIENTS && p->fate[i] == UNTOLD);
    assert_true(session_transcript(p->session).n > 0);
    if (r->failure != FAILURE_NONE)
        p->fate[i] = r->stage == STAGE_END ? UNKNOWN : FAILED;
    else
        p->fate[i] = r->stage == STAGE_END && r->reply->code / 100 == 2 ? TAKEN : REFUSED;
    if (!p->is_hostile && p->fate[i] != UNKNOWN) {
        if (p->took[i] != (p->fate[i] == TAKEN))
            fail_msg("play %llu, recipient %zu: %s by the server, told: %d at %s (%d)",
                     (unsigned long long)p->number, i, p->took[i] ? "taken" : "not taken",
                     p->fate[i], stage_name(r->stage), r->reply ? r->reply->code : 0);
    }
    if (one_in(p, 100))
        leave(p);
}

static void on_done(void *ctx, bool reusable) {
    struct play *p = ctx;
    assert_true(p->is_sending);
    p->is_sending = false;
    for (size_t i = 0; i < RECIPIENTS; i++)
        assert_int_not_equal(p->fate[i], UNTOLD);
    if (reusable && p->transactions < TRANSACTIONS && !one_in(p, 10))
        send_one(p);
    else
        leave(p);
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct play *p = ctx;
    assert_false(p->is_sending);
    assert_true(r->failure != FAILURE_NONE || r->reply != NULL);
    p->is_over = true;
    session_close(&p->session);
}

static const struct session_events events = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

/* ---- one play ---- */

static struct message *make_message(struct play *p) {
    static const struct id id;
    struct buf b = BUF_INIT(BODY + 4096);
    buf_putz(&b, "From: a@example.org\r\n\r\n");
    size_t size = one_in(p, 3) ? next(p) % BODY : next(p) % 500;
    while (b.n < size)
        buf_putz(&b, one_in(p, 3) ? ".\r\n" : one_in(p, 2) ? "..x\r\n" : "some text\r\n");
    size_t n = 0;
    char *bytes = buf_take(&b, &n);
    return message_new(&id, bytes, n);
}

static void play(struct play *p) {
    struct sockaddr_any at;
    static const char *const names[] = {"a@example.net", "b@example.net", "c@example.net",
                                        "d@example.net"};
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 0, &at), OK);
    p->loop = loop_new();
    p->later = timer_new(p->loop, speak, p);
    buf_init(&p->line, 64 * 1024);
    buf_init(&p->say, 64 * 1024);
    p->message = make_message(p);
    for (size_t i = 0; i < RECIPIENTS; i++)
        p->rcpt[i].email = str_of(names[i]);
    assert_int_equal(listener_open(p->loop, &at, on_accept, p, &p->listener, NULL), OK);
    struct session_options o = {.to = listener_address(p->listener),
                                .host_name = "mx.test",
                                .ehlo_name = "client.test",
                                .tls = SESSION_TLS_OPPORTUNISTIC,
                                .tls_ctx = p->client_tls,
                                .keep_transcript = true};
    session_timeouts_default(&o.timeouts);
    int64_t ms = p->is_hostile ? 20 : 500; /* only who is out of step keeps somebody waiting */
    o.timeouts.greeting = o.timeouts.ehlo = o.timeouts.mail = o.timeouts.rcpt = ms;
    o.timeouts.data = o.timeouts.end = o.timeouts.block = o.timeouts.rset = ms;
    o.timeouts.starttls = ms;
    p->session = session_open(p->loop, &o, &events, p);
    for (int i = 0; i < TURNS_MAX && !p->is_over; i++)
        loop_dispatch_once(p->loop, 1000);
    assert_true(p->is_over);
    session_close(&p->session);
    drop_server(p, false);
    listener_close(&p->listener);
    timer_free(&p->later);
    message_unref(&p->message);
    buf_release(&p->line);
    buf_release(&p->say);
    loop_free(&p->loop);
}

static void play_all(bool is_hostile) {
    struct tls_server_ctx *server_tls = NULL;
    struct tls_client_ctx *client_tls = NULL;
    assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &server_tls, NULL), OK);
    assert_int_equal(tls_client_ctx_new(NULL, &client_tls, NULL), OK);
    const char *more = getenv("RANDOM_SERVER_ROUNDS"); /* as many as somebody has patience for */
    uint64_t rounds = ROUNDS;
    if (more != NULL)
        assert_int_equal(str_parse_u64(str_of(more), UINT64_MAX, &rounds), OK);
    for (uint64_t i = 0; i < rounds; i++) {
        struct play p = {.number = i,
                         .seed = i << 20,
                         .is_hostile = is_hostile,
                         .server_tls = server_tls,
                         .client_tls = client_tls};
        play(&p);
    }
    tls_server_ctx_unref(&server_tls);
    tls_client_ctx_unref(&client_tls);
}

static void what_a_server_in_step_took_is_what_is_told(void **state) {
    (void)state;
    play_all(false);
}

static void each_recipient_is_told_once_whatever_a_server_does(void **state) {
    (void)state;
    play_all(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_server_in_step_took_is_what_is_told),
        cmocka_unit_test(each_recipient_is_told_once_whatever_a_server_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
