/* Streams against each other and against raw sockets on loopback; TLS in test_tls_stream.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/net/ends.h"

static struct loop *l;
static int fds_before;

static int begin(void **state) {
    (void)state;
    fds_before = count_fds();
    l = loop_new();
    return 0;
}

static int finish(void **state) {
    (void)state;
    loop_free(&l);
    assert_int_equal(count_fds(), fds_before); /* no test leaks a descriptor */
    return 0;
}

/* A stream `e` (accepted side) and a raw socket facing it. */
static int facing(struct end *e) {
    int fds[2];
    tcp_pair(fds);
    end_init(e, l);
    end_accept(e, fds[1]);
    TURN_UNTIL(l, e->opened == 1);
    return fds[0];
}

static void send_all(int fd, struct str s) {
    assert_int_equal(send(fd, s.p, s.n, MSG_NOSIGNAL), (ssize_t)s.n);
}

static void reset(int fd) {
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

/* Reads from a raw socket while the loop turns, until `n` bytes came or the peer ended. */
static size_t collect(int fd, char *to, size_t n) {
    size_t have = 0;
    int64_t until_mono_ms = clock_mono_ms() + patience_ms(10000);
    while (have < n && clock_mono_ms() < until_mono_ms) {
        loop_dispatch_once(l, 5);
        ssize_t r = recv(fd, to + have, n - have, MSG_DONTWAIT);
        if (r == 0)
            break;
        if (r < 0) {
            assert_int_equal(errno, EAGAIN);
            continue;
        }
        have += (size_t)r;
    }
    return have;
}

static bool at_end(int fd) {
    char c;
    return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

static void greet(struct end *e) {
    stream_write(e->s, STR("220 hello\r\n"));
}

static void two_streams_exchange_lines(void **state) {
    (void)state;
    struct sockaddr_any at;
    int lfd = listen_any(&at, 4);
    struct end c, s;
    end_init(&c, l);
    end_init(&s, l);
    end_connect(
        &c, &(struct stream_connect_options){.to = at, .connect_timeout_ms = patience_ms(5000)});
    assert_int_equal(c.opened, 0);
    TURN_UNTIL(l, c.opened == 1);
    s.at_open = greet;
    end_accept(&s, accept(lfd, NULL, NULL));
    assert_int_equal(s.opened, 0);
    TURN_UNTIL(l, c.got.n == 11);
    assert_string_equal(c.got.p, "220 hello\r\n");
    assert_int_equal(s.drained, 1);
    stream_write(c.s, STR("QUIT\r\n"));
    TURN_UNTIL(l, s.got.n == 6);
    struct sockaddr_any peer = stream_peer(c.s), local = stream_local(c.s);
    assert_true(sockaddr_equal(&peer, &at));
    peer = stream_peer(s.s);
    assert_true(sockaddr_equal(&peer, &local));
    assert_string_equal(stream_tls_info(c.s).version, "");
    stream_close(&s.s, true);
    TURN_UNTIL(l, c.closed == 1);
    end_release(&c);
    end_release(&s);
    close(lfd);
}

static void a_refused_connection_is_reported_from_the_loop(void **state) {
    (void)state;
    struct sockaddr_any at;
    close(listen_any(&at, 1)); /* nobody listens there now */
    struct end c;
    end_init(&c, l);
    end_connect(
        &c, &(struct stream_connect_options){.to = at, .connect_timeout_ms = patience_ms(5000)});
    assert_int_equal(c.failed, 0);
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_CONNECT_REFUSED);
    char peer[SOCKADDR_TEXT_SIZE];
    sockaddr_print(&at, peer);
    assert_memory_equal(c.text, peer, strlen(peer));
    end_release(&c);
}

static void a_stream_that_is_closed_before_it_connects_calls_nothing(void **state) {
    (void)state;
    struct sockaddr_any at;
    int lfd = listen_any(&at, 1);
    struct end c;
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){.to = at});
    stream_write(c.s, STR("early"));
    stream_close(&c.s, true);
    assert_null(c.s);
    for (int i = 0; i < 5; i++)
        loop_dispatch_once(l, 5);
    assert_int_equal(c.opened + c.failed + c.closed, 0);
    end_release(&c);
    close(lfd);
}

static void connecting_has_a_deadline(void **state) {
    (void)state;
    struct sockaddr_any at;
    int lfd = listen_any(&at, 0), filler[4];
    /* a full accept queue drops further SYNs */
    for (int i = 0; i < 4; i++) {
        filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(filler[i], (struct sockaddr *)&at.ss, at.len);
    }
    struct end c;
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){.to = at, .connect_timeout_ms = 50});
    TURN_UNTIL(l, c.failed + c.opened == 1);
    assert_int_equal(c.why, FAILURE_CONNECT_TIMEOUT);
    end_release(&c);
    for (int i = 0; i < 4; i++)
        close(filler[i]);
    close(lfd);
}

static void the_source_address_is_the_one_asked_for(void **state) {
    (void)state;
    struct sockaddr_any at, source;
    int lfd = listen_any(&at, 4);
    assert_int_equal(sockaddr_parse(STR("127.0.0.2"), 0, &source), OK);
    struct end c;
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){.to = at, .source = source});
    TURN_UNTIL(l, c.opened == 1);
    struct sockaddr_any local = stream_local(c.s);
    char ip[SOCKADDR_TEXT_SIZE];
    sockaddr_print_ip(&local, ip);
    assert_string_equal(ip, "127.0.0.2");
    end_release(&c);

    /* TEST-NET-1 is on no machine */
    assert_int_equal(sockaddr_parse(STR("192.0.2.77"), 0, &source), OK);
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){.to = at, .source = source});
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_LOCAL);
    end_release(&c);
    close(lfd);
}

static void no_address_fails_as_such(void **state) {
    (void)state;
    struct end c;
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){0});
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_CONNECT_UNREACHABLE);
    end_release(&c);
}

static void bytes_before_an_orderly_end_are_delivered_first(void **state) {
    (void)state;
    struct end e;
    int fd = facing(&e);
    send_all(fd, STR("421 bye\r\n"));
    close(fd);
    TURN_UNTIL(l, e.closed == 1);
    assert_string_equal(e.got.p, "421 bye\r\n");
    assert_int_equal(e.failed, 0);
    end_release(&e);
}

static void a_reset_is_a_failure(void **state) {
    (void)state;
    struct end e;
    int fd = facing(&e);
    reset(fd);
    TURN_UNTIL(l, e.failed == 1);
    assert_int_equal(e.why, FAILURE_CLOSED);
    assert_int_equal(e.closed, 0);
    stream_write(e.s, STR("too late"));
    stream_set_deadline(e.s, 1);
    loop_dispatch_once(l, 20);
    assert_int_equal(e.failed, 1);
    end_release(&e);
}

/* A server that refuses a message halfway answers, closes, and its kernel resets. */
static void the_last_words_before_a_reset_are_not_lost(void **state) {
    (void)state;
    static char big[4 * 1024 * 1024];
    for (int i = 0; i < 20; i++) {
        struct end e;
        int fd = facing(&e);
        stream_write(e.s, str_make(big, sizeof big));
        loop_dispatch_once(l, 0);
        assert_true(stream_pending(e.s) > 0);
        send_all(fd, STR("552 too much\r\n"));
        close(fd); /* with unread bytes: a reset */
        TURN_UNTIL(l, e.failed + e.closed == 1);
        assert_int_equal(e.why, FAILURE_CLOSED);
        assert_string_equal(e.got.p, "552 too much\r\n");
        end_release(&e);
    }
}

static void a_peer_that_closed_its_half_still_gets_ours(void **state) {
    (void)state;
    struct end e;
    char in[64] = "";
    int fd = facing(&e);
    send_all(fd, STR("QUIT\r\n"));
    shutdown(fd, SHUT_WR);
    TURN_UNTIL(l, e.closed == 1);
    assert_string_equal(e.got.p, "QUIT\r\n");
    stream_write(e.s, STR("221 bye\r\n"));
    stream_close(&e.s, true);
    assert_int_equal(collect(fd, in, sizeof in), 9);
    assert_string_equal(in, "221 bye\r\n");
    assert_true(at_end(fd));
    end_release(&e);
    close(fd);
}

static void writes_of_one_turn_leave_together(void **state) {
    (void)state;
    struct end e;
    char in[256] = "";
    int fd = facing(&e);
    for (int i = 0; i < 20; i++)
        stream_write(e.s, STR("RCPT TO\r\n"));
    assert_int_equal(stream_pending(e.s), 180);
    assert_int_equal(recv(fd, in, sizeof in, MSG_DONTWAIT), -1); /* nothing during the turn */
    TURN_UNTIL(l, e.drained == 1);
    assert_int_equal(recv(fd, in, sizeof in, MSG_DONTWAIT), 180); /* one piece */
    assert_int_equal(stream_pending(e.s), 0);
    end_release(&e);
    close(fd);
}

static char *pattern(size_t n) {
    char *p = mem_zalloc(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(i * 31 + (i >> 12));
    return p;
}

static void count_done(void *arg) {
    (*(int *)arg)++;
}

static void a_big_write_waits_for_a_slow_reader(void **state) {
    (void)state;
    enum { N = 8 * 1024 * 1024 };
    char *want = pattern(N), *got = mem_zalloc(N + 1);
    int done = 0;
    struct end e;
    int fd = facing(&e);
    stream_write_ref(e.s, str_make(want, N / 2), count_done, &done);
    stream_write(e.s, str_make(want + N / 2, N / 2));
    for (int i = 0; i < 20; i++)
        loop_dispatch_once(l, 1);
    assert_int_equal(e.drained, 0);
    assert_in_range(stream_pending(e.s), 1, N);
    assert_int_equal(collect(fd, got, N), N);
    assert_memory_equal(got, want, N);
    TURN_UNTIL(l, e.drained == 1);
    assert_int_equal(stream_pending(e.s), 0);
    assert_int_equal(done, 1);
    end_release(&e);
    close(fd);
    free(want);
    free(got);
}

static void references_end_once_however_the_stream_ends(void **state) {
    (void)state;
    static char big[8 * 1024 * 1024];
    int done = 0;
    struct end e;
    int fd = facing(&e);
    stream_write_ref(e.s, str_make(big, sizeof big), count_done, &done);
    loop_dispatch_once(l, 0);
    stream_close(&e.s, false); /* while it is under way */
    loop_dispatch_once(l, 0);
    loop_dispatch_once(l, 0);
    assert_int_equal(done, 1);
    end_release(&e);
    close(fd);

    done = 0;
    fd = facing(&e);
    reset(fd);
    TURN_UNTIL(l, e.failed == 1);
    stream_write_ref(e.s, STR("after the end"), count_done, &done);
    assert_int_equal(done, 1);
    stream_write_ref(e.s, STR(""), count_done, &done);
    assert_int_equal(done, 2);
    end_release(&e);
}

/* A flood that is not drained is stopped at the limit, and goes on when it is drained. */
static void a_flood_stays_in_the_kernel(void **state) {
    (void)state;
    enum { N = 16 * 1024 * 1024 };
    char *want = pattern(N);
    struct end e;
    int fd = facing(&e);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    e.keep = true;
    size_t sent = 0, most = 0;
    for (int idle = 0; idle < 50 && sent < N; idle++) {
        ssize_t n = send(fd, want + sent, N - sent, MSG_NOSIGNAL);
        if (n > 0) {
            sent += (size_t)n;
            idle = 0;
        }
        loop_dispatch_once(l, 1);
        most = stream_peek(e.s).n > most ? stream_peek(e.s).n : most;
    }
    assert_in_range(most, STREAM_INPUT_MAX, STREAM_INPUT_MAX + 64 * 1024);
    assert_true(sent < N);
    int reads = e.reads;
    e.keep = false;
    struct str in = stream_peek(e.s);
    buf_put(&e.got, in);
    stream_drain(e.s, in.n);
    int64_t until_mono_ms = clock_mono_ms() + patience_ms(10000);
    while (e.got.n < N && clock_mono_ms() < until_mono_ms) {
        ssize_t n = sent < N ? send(fd, want + sent, N - sent, MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        loop_dispatch_once(l, 1);
    }
    assert_int_equal(e.got.n, N);
    assert_memory_equal(e.got.p, want, N);
    assert_true(e.reads > reads);
    end_release(&e);
    close(fd);
    free(want);
}

static void reading_can_be_held(void **state) {
    (void)state;
    struct end e;
    int fd = facing(&e);
    stream_set_reading(e.s, false);
    send_all(fd, STR("x"));
    for (int i = 0; i < 5; i++)
        loop_dispatch_once(l, 2);
    assert_int_equal(e.reads, 0);
    stream_set_reading(e.s, true);
    TURN_UNTIL(l, e.reads == 1);
    end_release(&e);
    close(fd);
}

static void a_deadline_that_passes_is_a_timeout(void **state) {
    (void)state;
    struct end e;
    int fd = facing(&e);
    stream_set_deadline(e.s, 20);
    stream_set_deadline(e.s, 0);
    for (int i = 0; i < 5; i++)
        loop_dispatch_once(l, 10);
    assert_int_equal(e.failed, 0);
    stream_set_deadline(e.s, 20);
    TURN_UNTIL(l, e.failed == 1);
    assert_int_equal(e.why, FAILURE_TIMEOUT);
    end_release(&e);
    close(fd);
}

static void close_hard(struct end *e) {
    stream_close(&e->s, false);
}

static void close_soft(struct end *e) {
    stream_close(&e->s, true);
}

static void write_and_close(struct end *e) {
    stream_write(e->s, STR("bye\r\n"));
    stream_close(&e->s, true);
}

/* ASan is the judge here: each callback closes its own stream, each way. */
static void a_stream_may_be_closed_in_each_callback(void **state) {
    (void)state;
    void (*const ways[])(struct end *) = {close_hard, close_soft, write_and_close};
    for (size_t w = 0; w < 3; w++) {
        for (int which = 0; which < 6; which++) {
            struct end e;
            int fds[2];
            tcp_pair(fds);
            end_init(&e, l);
            e.at_open = which == 0 ? ways[w] : NULL;
            e.at_read = which == 1 || which == 5 ? ways[w] : NULL;
            e.at_drained = which == 2 ? ways[w] : NULL;
            e.at_failed = which == 3 ? ways[w] : NULL;
            e.at_closed = which == 4 ? ways[w] : NULL;
            end_accept(&e, fds[1]);
            if (which == 1)
                send_all(fds[0], STR("hello"));
            if (which == 2)
                stream_write(e.s, STR("hello"));
            if (which == 3)
                stream_set_deadline(e.s, 1);
            if (which == 4)
                shutdown(fds[0], SHUT_WR);
            if (which == 5) { /* data and the end in one turn */
                send_all(fds[0], STR("hello"));
                shutdown(fds[0], SHUT_WR);
            }
            TURN_UNTIL(l, e.s == NULL);
            close(fds[0]);
            loop_dispatch_once(l, 0);
            end_release(&e);
        }
    }
}

static void what_was_pending_is_sent_after_a_flushing_close(void **state) {
    (void)state;
    enum { N = 6 * 1024 * 1024 };
    char *want = pattern(N), *got = mem_zalloc(N + 1);
    struct end e;
    int fd = facing(&e);
    send_all(fd, STR("unread bytes must not make a reset of our last words"));
    stream_set_reading(e.s, false);
    stream_write(e.s, str_make(want, N));
    stream_close(&e.s, true);
    assert_int_equal(collect(fd, got, N + 1), N);
    assert_memory_equal(got, want, N);
    assert_true(at_end(fd));
    assert_int_equal(e.closed + e.failed, 0);
    end_release(&e);
    close(fd);
    free(want);
    free(got);
}

static void a_reader_that_never_reads_is_given_two_seconds(void **state) {
    (void)state;
    static char big[8 * 1024 * 1024];
    struct end e;
    int fd = facing(&e), before = count_fds();
    stream_write(e.s, str_make(big, sizeof big));
    int64_t start_mono_ms = clock_mono_ms();
    stream_close(&e.s, true);
    TURN_UNTIL(l, count_fds() == before - 1);
    assert_in_range(clock_mono_ms() - start_mono_ms, 1900, patience_ms(6000));
    end_release(&e);
    close(fd);
}

struct quitter {
    struct note note;
    struct loop *loop;
    int fd;
    struct stream *s;
};

static void ignore(void *ctx) {
    (void)ctx;
}

static void ignore_failed(void *ctx, enum failure why, struct str text) {
    (void)ctx, (void)why, (void)text;
}

static void quit_run(struct note *n) {
    static const struct stream_events none = {ignore, ignore, NULL, ignore_failed, ignore};
    struct quitter *q = CONTAINER_OF(n, struct quitter, note);
    q->s = stream_accept(q->loop, q->fd, &none, NULL);
    stream_write(q->s, STR("QUIT\r\n"));
    stream_close(&q->s, true);
}

static void a_loop_that_stops_says_its_last_words(void **state) {
    (void)state;
    int fds[2];
    char in[16] = "";
    tcp_pair(fds);
    struct loop *other = loop_start("stopping");
    struct quitter q = {.note.run = quit_run, .loop = other, .fd = fds[1]};
    mailbox_send(loop_mailbox(other), &q.note);
    loop_stop(&other);
    assert_int_equal(recv(fds[0], in, sizeof in, 0), 6);
    assert_string_equal(in, "QUIT\r\n");
    assert_int_equal(recv(fds[0], in, sizeof in, 0), 0);
    close(fds[0]);
}

/* A writer that refills in every on_drained does not keep the loop from others. */
static void refill(struct end *e) {
    static char piece[64 * 1024];
    stream_write(e->s, str_make(piece, sizeof piece));
}

static void an_eager_writer_leaves_others_their_turn(void **state) {
    (void)state;
    struct end e, other;
    int fd = facing(&e), fd2 = facing(&other);
    e.at_drained = refill;
    refill(&e);
    send_all(fd2, STR("me too"));
    TURN_UNTIL(l, other.reads == 1);
    end_release(&e);
    end_release(&other);
    close(fd);
    close(fd2);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(two_streams_exchange_lines),
        T(a_refused_connection_is_reported_from_the_loop),
        T(a_stream_that_is_closed_before_it_connects_calls_nothing),
        T(connecting_has_a_deadline),
        T(the_source_address_is_the_one_asked_for),
        T(no_address_fails_as_such),
        T(bytes_before_an_orderly_end_are_delivered_first),
        T(a_reset_is_a_failure),
        T(the_last_words_before_a_reset_are_not_lost),
        T(a_peer_that_closed_its_half_still_gets_ours),
        T(writes_of_one_turn_leave_together),
        T(a_big_write_waits_for_a_slow_reader),
        T(references_end_once_however_the_stream_ends),
        T(a_flood_stays_in_the_kernel),
        T(reading_can_be_held),
        T(a_deadline_that_passes_is_a_timeout),
        T(a_stream_may_be_closed_in_each_callback),
        T(what_was_pending_is_sent_after_a_flushing_close),
        T(a_reader_that_never_reads_is_given_two_seconds),
        T(a_loop_that_stops_says_its_last_words),
        T(an_eager_writer_leaves_others_their_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
