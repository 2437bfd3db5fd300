/* The server's side on a real socket: time, greeting, TLS, shutting down, a peer that does not
 * read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/smtp/receive.h"

enum { PATIENCE_MS = 10000 };

struct world {
    struct loop *loop;
    struct receive *receive;
    struct receive_options options;
    struct tls_server_ctx *tls;
    int fd;         /* the client's end */
    int server_fd;  /* the stream's */
    struct buf got; /* by the client */
    bool is_eof, ended, waits, close_in_callback;
    size_t messages;
};

static void on_message(void *ctx, struct receive *r, const struct received *m) {
    struct world *w = ctx;
    assert_true(m->rcpt_count > 0);
    assert_ptr_equal(r, w->receive);
    w->messages++;
    w->waits = true;
    if (w->close_in_callback)
        receive_close(&w->receive, true);
}

static void on_end(void *ctx, struct receive *r) {
    struct world *w = ctx;
    assert_ptr_equal(r, w->receive);
    assert_false(w->ended);
    w->ended = true;
    receive_close(&w->receive, false);
}

static const struct receive_policy policy = {.on_message = on_message, .on_end = on_end};

static int setup(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    w->loop = loop_new();
    w->fd = -1;
    w->options = (struct receive_options){.host_name = "mx.test", .message_bytes_max = 65536};
    buf_init(&w->got, 64 * 1024 * 1024);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    if (w->receive)
        receive_close(&w->receive, false);
    if (w->fd >= 0)
        close(w->fd);
    tls_server_ctx_unref(&w->tls);
    loop_free(&w->loop);
    buf_release(&w->got);
    free(w);
    return 0;
}

static int make_pair(struct world *w) {
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    w->fd = fd[0];
    return w->server_fd = fd[1];
}

static void open_receive(struct world *w) {
    int fd = make_pair(w);
    w->receive = receive_new(w->loop, fd, &w->options, &policy, w);
}

static void hang_up(struct world *w) {
    receive_close(&w->receive, false);
    close(w->fd);
    w->fd = -1;
    buf_clear(&w->got);
}

static void take_input(struct world *w) {
    char piece[65536];
    ssize_t n;
    while ((n = recv(w->fd, piece, sizeof(piece), MSG_DONTWAIT)) > 0)
        buf_put(&w->got, str_make(piece, (size_t)n));
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        w->is_eof = true;
}

static void say(struct world *w, struct str s) {
    assert_int_equal(send(w->fd, s.p, s.n, MSG_NOSIGNAL), (ssize_t)s.n);
}

static void wait_for(struct world *w, const char *text) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (str_find(buf_str(&w->got), str_of(text)) < 0 && !w->is_eof) {
        assert_true(clock_mono_ms() < until_mono_ms);
        loop_dispatch_once(w->loop, 100);
        take_input(w);
    }
    if (str_find(buf_str(&w->got), str_of(text)) < 0)
        fail_msg("no %s in %.*s", text, STR_ARG(buf_str(&w->got)));
}

static void wait_for_end(struct world *w) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!w->is_eof) {
        assert_true(clock_mono_ms() < until_mono_ms);
        loop_dispatch_once(w->loop, 100);
        take_input(w);
    }
}

static void test_T2_early_talk_is_refused(void **state) {
    struct world *w = *state;
    int fd = make_pair(w);
    say(w, STR("EHLO x\r\n"));
    w->receive = receive_new(w->loop, fd, &w->options, &policy, w);
    wait_for_end(w);
    assert_string_equal(w->got.p, "554 5.5.0 wait for the greeting\r\n");
    assert_true(w->ended);
}

static void test_R14_silence_ends_in_421(void **state) {
    struct world *w = *state;
    w->options.command_timeout_ms = 60;
    open_receive(w);
    wait_for_end(w);
    assert_string_equal(w->got.p, "220 mx.test ESMTP\r\n421 4.4.2 timed out, closing\r\n");
    assert_true(w->ended);
}

static void test_T17_a_byte_now_and_then_holds_nothing(void **state) {
    struct world *w = *state;
    w->options.command_timeout_ms = 150;
    open_receive(w);
    int64_t begin_mono_ms = clock_mono_ms(), next_mono_ms = begin_mono_ms;
    while (!w->is_eof) {
        if (clock_mono_ms() >= next_mono_ms) {
            (void)send(w->fd, "x", 1, MSG_NOSIGNAL);
            next_mono_ms += 10;
        }
        loop_dispatch_once(w->loop, 10);
        take_input(w);
        assert_true(clock_mono_ms() < begin_mono_ms + PATIENCE_MS);
    }
    assert_true(str_find(buf_str(&w->got), STR("421 4.4.2")) > 0);
}

/* Octets that were sent and that the server has not read. */
static size_t unread(const struct world *w) {
    int n = 0;
    assert_int_equal(ioctl(w->server_fd, FIONREAD, &n), 0);
    return (size_t)n;
}

static void say_and_turn(struct world *w, struct str s) {
    say(w, s);
    for (int i = 0; i < 3; i++)
        loop_dispatch_once(w->loop, 0);
    take_input(w);
}

enum { FREE_TURNS = 8, FOR_EVER_MS = 3600 * 1000 };

static void test_T17_who_brings_no_mail_on_is_heard_rarely(void **state) {
    static const char *const pieces[] = {"x", "NOOP\r\n", "RSET\r\n", "EHLO again\r\n"};
    struct world *w = *state;
    w->options.turn_ms = FOR_EVER_MS;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        open_receive(w);
        wait_for(w, "220 ");
        say_and_turn(w, STR("EHLO x\r\n"));
        for (size_t turn = 0; turn < 3 * (size_t)FREE_TURNS; turn++)
            say_and_turn(w, str_of(pieces[i]));
        assert_int_equal(unread(w), (2 * FREE_TURNS - 1) * strlen(pieces[i]));
        assert_false(w->ended);
        hang_up(w);
    }
}

static void rest(struct world *w) {
    w->options.turn_ms = FOR_EVER_MS;
    open_receive(w);
    wait_for(w, "220 ");
    for (size_t turn = 0; turn < 2 * (size_t)FREE_TURNS; turn++)
        say_and_turn(w, STR("x"));
    assert_int_equal(unread(w), FREE_TURNS - 1);
}

static void test_T17_who_rests_is_told_the_end(void **state) {
    struct world *w = *state;
    rest(w);
    receive_close(&w->receive, true);
    wait_for_end(w);
    assert_string_equal(w->got.p, "220 mx.test ESMTP\r\n421 4.3.2 shutting down\r\n");
    hang_up(w);
    w->is_eof = false;
    w->options.command_timeout_ms = 1000;
    rest(w);
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("421 4.4.2 timed out, closing\r\n")));
    assert_true(w->ended);
}

static void test_T17_who_goes_while_it_rests_is_noticed(void **state) {
    struct world *w = *state;
    w->options.turn_ms = 1000;
    open_receive(w);
    wait_for(w, "220 ");
    for (size_t turn = 0; turn < 2 * (size_t)FREE_TURNS; turn++)
        say_and_turn(w, STR("x"));
    assert_true(unread(w) > 0);
    close(w->fd);
    w->fd = -1;
    for (int i = 0; i < 1000 && !w->ended; i++)
        loop_dispatch_once(w->loop, 100);
    assert_true(w->ended);
}

static void test_T17_who_is_heard_rarely_is_heard(void **state) {
    struct world *w = *state;
    w->options.turn_ms = 20;
    open_receive(w);
    wait_for(w, "220 ");
    for (const char *p = "EHLO a-name-of-some-length\r\nNOOP\r\nMAIL FROM:<a@b>\r\n"; *p; p++)
        say_and_turn(w, str_make(p, 1));
    wait_for(w, "250 2.1.0 OK\r\n");
    say(w, STR("RCPT TO:<c@d>\r\nDATA\r\n"));
    wait_for(w, "354 ");
}

static void test_T17_refused_commands_wait_for_their_turns(void **state) {
    struct world *w = *state;
    struct buf all = BUF_INIT(4096);
    for (int i = 0; i < 30; i++)
        buf_putz(&all, "HELP\r\n");
    w->options.turn_ms = FOR_EVER_MS;
    open_receive(w);
    wait_for(w, "220 ");
    buf_clear(&w->got);
    say_and_turn(w, buf_str(&all));
    for (int i = 0; i < 20; i++)
        say_and_turn(w, STR("x"));
    assert_int_equal(w->got.n, (FREE_TURNS + 1) * strlen("500 5.5.2 unknown command\r\n"));
    hang_up(w);
    w->options.turn_ms = 5;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, buf_str(&all));
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("421 4.7.0 too many errors, closing\r\n")));
    buf_release(&all);
}

static void test_who_brings_mail_on_never_waits(void **state) {
    static const char *const pieces[] = {
        "}\r\n", "a line, one of many\r\n",
        "as many octets of a line as bring a message on when it has no end"};
    struct world *w = *state;
    w->options.turn_ms = FOR_EVER_MS;
    open_receive(w);
    wait_for(w, "220 ");
    say_and_turn(w, STR("EHLO x\r\n"));
    for (int i = 0; i < FREE_TURNS; i++) {
        say_and_turn(w, STR("MAIL FROM:<a@b>\r\n"));
        say_and_turn(w, STR("RSET\r\n"));
    }
    say_and_turn(w, STR("MAIL FROM:<a@b>\r\n"));
    for (int i = 0; i < 2 * FREE_TURNS; i++)
        say_and_turn(w, STR("RCPT TO:<c@d>\r\n"));
    say_and_turn(w, STR("DATA\r\n"));
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (int n = 0; n < 3 * FREE_TURNS; n++)
            say_and_turn(w, str_of(pieces[i]));
    assert_int_equal(unread(w), 0);
    say_and_turn(w, STR("\r\n.\r\n"));
    assert_true(w->waits);
}

static void test_data_has_its_own_patience(void **state) {
    struct world *w = *state;
    w->options.data_timeout_ms = 60;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
    wait_for_end(w);
    assert_true(str_ends_with(
        buf_str(&w->got), STR("354 end with <CRLF>.<CRLF>\r\n421 4.4.2 timed out, closing\r\n")));
}

static void test_R17_shutting_down_says_421(void **state) {
    struct world *w = *state;
    open_receive(w);
    wait_for(w, "220 ");
    receive_close(&w->receive, true);
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("421 4.3.2 shutting down\r\n")));
    assert_false(w->ended);
}

static void test_R9_QUIT_is_answered_before_the_end(void **state) {
    struct world *w = *state;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("QUIT\r\n"));
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("221 2.0.0 bye\r\n")));
    assert_true(w->ended);
}

static void test_what_is_pipelined_behind_a_message_waits_for_its_answer(void **state) {
    struct world *w = *state;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
    wait_for(w, "354 ");
    say(w, STR("x: y\r\n\r\n.\r\nNOOP\r\nQUIT\r\n"));
    while (!w->waits)
        loop_dispatch_once(w->loop, 100);
    loop_dispatch_once(w->loop, 0);
    take_input(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("354 end with <CRLF>.<CRLF>\r\n")));
    receive_answer_data(w->receive, (struct receive_answer){250, "2.0.0", "queued"});
    assert_false(w->ended); /* no callback inside the call */
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got),
                              STR("250 2.0.0 queued\r\n250 2.0.0 OK\r\n221 2.0.0 bye\r\n")));
    assert_int_equal(w->messages, 1);
}

static void test_the_owner_may_close_in_on_message(void **state) {
    struct world *w = *state;
    w->close_in_callback = true;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
    wait_for(w, "354 ");
    say(w, STR("x: y\r\n\r\n.\r\nNOOP\r\n"));
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("421 4.3.2 shutting down\r\n")));
    assert_null(w->receive);
}

static void test_the_peer_goes_while_its_message_waits(void **state) {
    struct world *w = *state;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
    wait_for(w, "354 ");
    say(w, STR("x: y\r\n\r\n.\r\n"));
    while (!w->waits)
        loop_dispatch_once(w->loop, 100);
    close(w->fd);
    w->fd = -1;
    receive_answer_data(w->receive, (struct receive_answer){250, "2.0.0", "queued"});
    for (int i = 0; i < 1000 && !w->ended; i++)
        loop_dispatch_once(w->loop, 100);
    assert_true(w->ended);
}

/* Megabytes of commands whose answers are not read: nothing grows, nothing is lost. */
static void test_a_peer_that_does_not_read_its_replies(void **state) {
    struct world *w = *state;
    enum { COMMANDS = 300000 };
    static char noops[COMMANDS * 6];
    for (size_t i = 0; i < COMMANDS; i++)
        memcpy(noops + i * 6, "NOOP\r\n", 6);
    w->options.turn_ms = 1; /* it is not their pace that is looked at here */
    open_receive(w);
    wait_for(w, "220 ");
    size_t sent = 0, stalls = 0;
    while (stalls < 50) { /* until nothing moves any more */
        ssize_t n = send(w->fd, noops + sent, sizeof(noops) - sent, MSG_NOSIGNAL);
        stalls = n > 0 ? 0 : stalls + 1;
        sent += n > 0 ? (size_t)n : 0;
        loop_dispatch_once(w->loop, 1);
    }
    assert_true(sent < sizeof(noops)); /* the server stopped reading */
    buf_clear(&w->got);
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (w->got.n < (size_t)COMMANDS * 14 && clock_mono_ms() < until_mono_ms) {
        ssize_t n = send(w->fd, noops + sent, sizeof(noops) - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        loop_dispatch_once(w->loop, 1);
        take_input(w);
    }
    assert_int_equal(w->got.n, (size_t)COMMANDS * 14);
}

/* No memory for more than so many bytes at once; 0: there is. */
static size_t refuse_above;

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_realloc(void *p, size_t n) {
    return refuse_above != 0 && n > refuse_above ? NULL : __real_realloc(p, n);
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);

void *__wrap_malloc(size_t n) {
    return refuse_above != 0 && n > refuse_above ? NULL : __real_malloc(n);
}

static void test_replies_that_there_is_no_memory_for_end_it(void **state) {
    struct world *w = *state;
    enum { COMMANDS = 2000 }; /* of which one reading brings 512 */
    static char hellos[COMMANDS * 8];
    for (size_t i = 0; i < COMMANDS; i++)
        memcpy(hellos + i * 8, "EHLO x\r\n", 8);
    w->options.host_name = "a-name-that-is-as-long-as-a-label-may-be-so-that-replies-grow.test";
    open_receive(w);
    wait_for(w, "220 ");
    say(w, str_make(hellos, sizeof(hellos)));
    refuse_above = BUF_SMALL;
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!w->ended && clock_mono_ms() < until_mono_ms)
        loop_dispatch_once(w->loop, 100);
    refuse_above = 0;
    assert_true(w->ended);
}

/* ---- STARTTLS, with a stream of our own as the client ---- */

struct client {
    struct stream *stream;
    struct tls_client_ctx *tls;
    struct buf got;
    bool is_secured, is_over;
};

static void client_open(void *ctx) {
    struct client *c = ctx;
    if (c->is_secured)
        stream_write(c->stream, STR("EHLO inside\r\n"));
}

static void client_read(void *ctx) {
    struct client *c = ctx;
    struct str in = stream_peek(c->stream);
    buf_put(&c->got, in);
    stream_drain(c->stream, in.n);
    if (!c->is_secured && str_find(buf_str(&c->got), STR("220 2.0.0 go ahead\r\n")) >= 0) {
        c->is_secured = true;
        buf_clear(&c->got);
        stream_start_tls_client(c->stream, c->tls, TLS_VERIFY_NONE, "mx.test", 5000);
    } else if (!c->is_secured && str_ends_with(buf_str(&c->got), STR("ESMTP\r\n"))) {
        /* T6: the commands behind STARTTLS come from somebody in the middle */
        stream_write(c->stream,
                     STR("EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<evil@y>\r\n"));
    } else if (str_ends_with(buf_str(&c->got), STR("250 ENHANCEDSTATUSCODES\r\n")) &&
               c->is_secured) {
        stream_write(c->stream, STR("DATA\r\nQUIT\r\n"));
    }
}

static void client_failed(void *ctx, enum failure why, struct str text) {
    (void)why, (void)text;
    ((struct client *)ctx)->is_over = true;
}

static void client_closed(void *ctx) {
    ((struct client *)ctx)->is_over = true;
}

static void test_T6_commands_behind_STARTTLS_are_dropped(void **state) {
    static const struct stream_events events = {.on_open = client_open,
                                                .on_read = client_read,
                                                .on_failed = client_failed,
                                                .on_closed = client_closed};
    struct world *w = *state;
    struct client c = {0};
    struct tls_client_options o = {0};
    buf_init(&c.got, 65536);
    assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &w->tls, NULL), OK);
    assert_int_equal(tls_client_ctx_new(&o, &c.tls, NULL), OK);
    w->options.tls = w->tls;
    open_receive(w);
    c.stream = stream_accept(w->loop, w->fd, &events, &c);
    w->fd = -1;
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!c.is_over && clock_mono_ms() < until_mono_ms)
        loop_dispatch_once(w->loop, 100);
    assert_true(c.is_secured && c.is_over && w->ended);
    assert_string_equal(c.got.p,
                        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 65536\r\n250-8BITMIME\r\n"
                        "250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
                        "503 5.5.1 say MAIL and RCPT first\r\n221 2.0.0 bye\r\n");
    stream_close(&c.stream, false);
    tls_client_ctx_unref(&c.tls);
    buf_release(&c.got);
}

/* Sends a line, or an octet, in each turn of the loop, and so in a record of its own. */
static void in_records(struct world *w, struct client *c, const char *text, bool is_by_octet) {
    struct str all = str_of(text);
    while (all.n > 0) {
        size_t n = is_by_octet ? 1 : (size_t)str_find_char(all, '\n') + 1;
        stream_write(c->stream, str_slice(all, 0, n));
        all = str_from(all, n);
        for (int i = 0; i < 3; i++)
            loop_dispatch_once(w->loop, 0);
    }
}

static void quiet_read(void *ctx) {
    struct client *c = ctx;
    struct str in = stream_peek(c->stream);
    buf_put(&c->got, in);
    stream_drain(c->stream, in.n);
}

static void quiet_open(void *ctx) {
    (void)ctx;
}

static void await_client(struct world *w, struct client *c, const char *text) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (str_find(buf_str(&c->got), str_of(text)) < 0) {
        assert_true(!c->is_over && clock_mono_ms() < until_mono_ms);
        loop_dispatch_once(w->loop, 100);
    }
}

static void secure(struct world *w, struct client *c) {
    static const struct stream_events events = {.on_open = quiet_open,
                                                .on_read = quiet_read,
                                                .on_failed = client_failed,
                                                .on_closed = client_closed};
    struct tls_client_options o = {0};
    buf_init(&c->got, 65536);
    assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &w->tls, NULL), OK);
    assert_int_equal(tls_client_ctx_new(&o, &c->tls, NULL), OK);
    w->options.tls = w->tls;
    open_receive(w);
    c->stream = stream_accept(w->loop, w->fd, &events, c);
    w->fd = -1;
    await_client(w, c, "220 ");
    stream_write(c->stream, STR("EHLO x\r\nSTARTTLS\r\n"));
    await_client(w, c, "220 2.0.0 go ahead");
    stream_start_tls_client(c->stream, c->tls, TLS_VERIFY_NONE, "mx.test", 5000);
    stream_write(c->stream, STR("EHLO x\r\n"));
    await_client(w, c, "250 ENHANCEDSTATUSCODES\r\n");
}

static void forget(struct client *c) {
    stream_close(&c->stream, false);
    tls_client_ctx_unref(&c->tls);
    buf_release(&c->got);
}

/* Over TLS one record is read at a time, however much has come. */
static void test_lines_in_records_of_their_own_never_wait(void **state) {
    struct world *w = *state;
    struct client c = {0};
    w->options.turn_ms = FOR_EVER_MS;
    secure(w, &c);
    stream_write(c.stream, STR("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"));
    await_client(w, &c, "354 ");
    for (int i = 0; i < 10 * FREE_TURNS; i++)
        in_records(w, &c, "if (a)\r\n{\r\n}\r\n\r\n", false);
    in_records(w, &c, ".\r\n", false);
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!w->waits && clock_mono_ms() < until_mono_ms)
        loop_dispatch_once(w->loop, 100);
    assert_true(w->waits);
    forget(&c);
}

/* All that has come until a rest's end is one turn: by itself each octet would wait for its own. */
static void test_octets_in_records_of_their_own_are_heard(void **state) {
    struct world *w = *state;
    struct client c = {0};
    w->options.turn_ms = 500;
    secure(w, &c);
    in_records(w, &c, "MAIL FROM:<somebody-with-a-name-that-takes-many-octets@b.test>\r\n", true);
    await_client(w, &c, "250 2.1.0 OK\r\n");
    forget(&c);
}

static void test_closing_in_the_middle_of_a_handshake(void **state) {
    struct world *w = *state;
    assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &w->tls, NULL), OK);
    w->options.tls = w->tls;
    open_receive(w);
    wait_for(w, "220 ");
    say(w, STR("EHLO x\r\nSTARTTLS\r\n"));
    wait_for(w, "220 2.0.0 go ahead");
    receive_close(&w->receive, true);
    wait_for_end(w);
    assert_true(str_ends_with(buf_str(&w->got), STR("go ahead\r\n"))); /* no 421 in clear */
}

#define WORLD(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD(test_T2_early_talk_is_refused),
        WORLD(test_R14_silence_ends_in_421),
        WORLD(test_T17_a_byte_now_and_then_holds_nothing),
        WORLD(test_T17_who_brings_no_mail_on_is_heard_rarely),
        WORLD(test_T17_who_rests_is_told_the_end),
        WORLD(test_T17_who_goes_while_it_rests_is_noticed),
        WORLD(test_T17_who_is_heard_rarely_is_heard),
        WORLD(test_T17_refused_commands_wait_for_their_turns),
        WORLD(test_who_brings_mail_on_never_waits),
        WORLD(test_data_has_its_own_patience),
        WORLD(test_R17_shutting_down_says_421),
        WORLD(test_R9_QUIT_is_answered_before_the_end),
        WORLD(test_what_is_pipelined_behind_a_message_waits_for_its_answer),
        WORLD(test_the_owner_may_close_in_on_message),
        WORLD(test_the_peer_goes_while_its_message_waits),
        WORLD(test_a_peer_that_does_not_read_its_replies),
        WORLD(test_replies_that_there_is_no_memory_for_end_it),
        WORLD(test_T6_commands_behind_STARTTLS_are_dropped),
        WORLD(test_lines_in_records_of_their_own_never_wait),
        WORLD(test_octets_in_records_of_their_own_are_heard),
        WORLD(test_closing_in_the_middle_of_a_handshake),
    };
    return cmocka_run_group_tests_name("receive", tests, NULL, NULL);
}
