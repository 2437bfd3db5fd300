/* Two addresses that race: no clock decides, the head start is none at all or for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>

#include "tests/unit/net/ends.h"

enum { FOR_EVER_MS = 24 * 3600 * 1000 };

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
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

/* What connecting to whoever listens ends with; 0: as it does. */
static int connect_error;

int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size) {
    int r = __real_getsockopt(fd, level, name, value, size);
    if (r == 0 && level == SOL_SOCKET && name == SO_ERROR && connect_error != 0)
        *(int *)value = connect_error;
    return r;
}

/* A port on which nobody listens. */
static struct sockaddr_any closed_port(void) {
    struct sockaddr_any at;
    close(listen_any(&at, 1));
    return at;
}

/* A listener that answers no SYN: its queue is full. */
struct silent {
    int fd, filler[8];
    struct sockaddr_any at;
};

static void silent_open(struct silent *q) {
    q->fd = listen_any(&q->at, 0);
    for (size_t i = 0; i < sizeof q->filler / sizeof *q->filler; i++) {
        q->filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_true(q->filler[i] >= 0);
        (void)!connect(q->filler[i], (struct sockaddr *)&q->at.ss, q->at.len);
    }
}

static void silent_close(struct silent *q) {
    for (size_t i = 0; i < sizeof q->filler / sizeof *q->filler; i++)
        close(q->filler[i]);
    close(q->fd);
}

static void race(struct end *c, struct sockaddr_any to, struct sockaddr_any rival,
                 int64_t head_start_ms) {
    end_init(c, l);
    end_connect(c, &(struct stream_connect_options){.to = to,
                                                    .rival = rival,
                                                    .head_start_ms = head_start_ms,
                                                    .connect_timeout_ms = 20000});
}

static bool is_nobody_there(int lfd) {
    struct pollfd p = {.fd = lfd, .events = POLLIN};
    return poll(&p, 1, 0) == 0;
}

static void assert_connected_to(struct end *c, const struct sockaddr_any *at, int lfd) {
    struct sockaddr_any peer = stream_peer(c->s);
    assert_int_equal(c->failed, 0);
    assert_true(sockaddr_equal(&peer, at));
    assert_true(stream_local(c->s).len > 0);
    int fd = accept(lfd, NULL, NULL);
    assert_true(fd >= 0);
    stream_write(c->s, STR("hello"));
    TURN_UNTIL(l, stream_pending(c->s) == 0);
    char got[8];
    assert_int_equal(recv(fd, got, sizeof got, 0), 5);
    close(fd);
}

static void the_rival_waits_while_the_first_has_its_head_start(void **state) {
    (void)state;
    struct sockaddr_any to, rival;
    int first = listen_any(&to, 4), second = listen_any(&rival, 4);
    struct end c;
    race(&c, to, rival, FOR_EVER_MS);
    TURN_UNTIL(l, c.opened + c.failed == 1);
    assert_connected_to(&c, &to, first);
    assert_true(is_nobody_there(second));
    end_release(&c);
    close(first);
    close(second);
}

static void a_refusal_ends_the_head_start(void **state) {
    (void)state;
    struct sockaddr_any to = closed_port(), rival;
    int lfd = listen_any(&rival, 4);
    struct end c;
    race(&c, to, rival, FOR_EVER_MS);
    TURN_UNTIL(l, c.opened + c.failed == 1);
    assert_connected_to(&c, &rival, lfd);
    end_release(&c);
    close(lfd);
}

static void an_address_that_cannot_be_connected_to_ends_it_too(void **state) {
    (void)state;
    struct sockaddr_any rival, to = loopback(25);
    int lfd = listen_any(&rival, 4);
    ((struct sockaddr_in *)&to.ss)->sin_addr.s_addr = htonl(0xffffffff); /* EACCES at once */
    struct end c;
    race(&c, to, rival, FOR_EVER_MS);
    TURN_UNTIL(l, c.opened + c.failed == 1);
    assert_connected_to(&c, &rival, lfd);
    end_release(&c);
    close(lfd);
}

static void the_rival_wins_against_silence(void **state) {
    (void)state;
    struct silent q;
    struct sockaddr_any rival;
    silent_open(&q);
    int lfd = listen_any(&rival, 4);
    struct end c;
    race(&c, q.at, rival, 0);
    TURN_UNTIL(l, c.opened + c.failed == 1);
    assert_connected_to(&c, &rival, lfd);
    end_release(&c);
    silent_close(&q);
    close(lfd);
}

/* Both were connected: the kernel did so before the loop looked. */
static void nothing_is_sent_to_the_loser(void **state) {
    (void)state;
    for (int turn = 0; turn < 20; turn++) {
        struct sockaddr_any at[2];
        int lfd[2] = {listen_any(&at[0], 4), listen_any(&at[1], 4)};
        struct end c;
        race(&c, at[0], at[1], 0);
        stream_write(c.s, STR("early")); /* for whoever wins */
        TURN_UNTIL(l, c.opened + c.failed == 1);
        assert_int_equal(c.opened, 1);
        struct sockaddr_any peer = stream_peer(c.s);
        int winner = sockaddr_equal(&peer, &at[0]) ? 0 : 1;
        TURN_UNTIL(l, stream_pending(c.s) == 0);
        char got[8];
        int fd = accept(lfd[winner], NULL, NULL);
        assert_int_equal(recv(fd, got, sizeof got, 0), 5);
        close(fd);
        if (!is_nobody_there(lfd[1 - winner])) {
            fd = accept(lfd[1 - winner], NULL, NULL);
            assert_int_equal(recv(fd, got, sizeof got, 0), 0); /* closed in order, without a byte */
            close(fd);
        }
        end_release(&c);
        close(lfd[0]);
        close(lfd[1]);
    }
}

static void when_nobody_is_reached_both_reasons_are_told(void **state) {
    (void)state;
    struct sockaddr_any to = closed_port(), rival = closed_port();
    char one[SOCKADDR_TEXT_SIZE], two[SOCKADDR_TEXT_SIZE];
    sockaddr_print(&to, one);
    sockaddr_print(&rival, two);
    for (int i = 0; i < 2; i++) {
        struct end c;
        race(&c, to, rival, i ? 0 : FOR_EVER_MS);
        TURN_UNTIL(l, c.opened + c.failed == 1);
        assert_int_equal(c.why, FAILURE_CONNECT_REFUSED);
        assert_non_null(strstr(c.text, one));
        assert_non_null(strstr(c.text, two));
        assert_int_equal(stream_local(c.s).len, 0);
        end_release(&c);
    }
}

static void our_own_trouble_with_one_is_not_the_answer_for_both(void **state) {
    (void)state;
    struct sockaddr_any to = closed_port(), rival = closed_port(), not_ours;
    assert_int_equal(sockaddr_parse(STR("192.0.2.1"), 0, &not_ours), OK);
    for (int i = 0; i < 2; i++) {
        struct end c;
        end_init(&c, l);
        struct stream_connect_options o = {
            .to = to, .rival = rival, .head_start_ms = FOR_EVER_MS, .connect_timeout_ms = 20000};
        if (i)
            o.source = not_ours;
        else
            o.rival_source = not_ours;
        end_connect(&c, &o);
        TURN_UNTIL(l, c.failed == 1);
        assert_int_equal(c.why, FAILURE_CONNECT_REFUSED);
        end_release(&c);
    }
}

static void a_race_can_be_called_off(void **state) {
    (void)state;
    struct silent q, r;
    silent_open(&q);
    silent_open(&r);
    for (int i = 0; i < 3; i++) {
        struct end c;
        race(&c, q.at, r.at, i == 1 ? FOR_EVER_MS : 0);
        for (int turn = 0; turn < i; turn++)
            loop_dispatch_once(l, 10);
        assert_int_equal(c.opened + c.failed, 0);
        end_release(&c);
    }
    /* by its deadline, too */
    struct end c;
    race(&c, q.at, r.at, 0);
    stream_set_deadline(c.s, 1);
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_TIMEOUT);
    end_release(&c);
    silent_close(&q);
    silent_close(&r);
}

static void silence_on_both_ends_with_the_timeout(void **state) {
    (void)state;
    struct silent q, r;
    silent_open(&q);
    silent_open(&r);
    struct end c;
    end_init(&c, l);
    end_connect(&c, &(struct stream_connect_options){
                        .to = q.at, .rival = r.at, .head_start_ms = 0, .connect_timeout_ms = 1});
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_CONNECT_TIMEOUT);
    end_release(&c);
    silent_close(&q);
    silent_close(&r);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)

static void close_it(struct end *e) {
    stream_close(&e->s, false);
}

/* A failure that is found inside of the call is told later, by words that have to live as long as
 * their reader. */
static void the_words_of_a_failure_outlive_the_stream(void **state) {
    (void)state;
    struct end e;
    struct stream_connect_options o = {.to = loopback(1)};
    mallopt(M_PERTURB, 0x5a); /* for builds that do not see a use after free */
    assert_int_equal(sockaddr_parse(STR("192.0.2.77"), 0, &o.source), OK);
    end_init(&e, l);
    e.at_failed = close_it;
    end_connect(&e, &o);
    TURN_UNTIL(l, e.failed);
    mallopt(M_PERTURB, 0);
    assert_int_equal(e.why, FAILURE_LOCAL);
    assert_string_equal(e.text, "127.0.0.1:1: Cannot assign requested address");
    end_release(&e);
}

static void what_the_network_says_is_no_trouble_of_ours(void **state) {
    (void)state;
    static const struct {
        int error;
        enum failure want;
    } rows[] = {
        {ECONNREFUSED, FAILURE_CONNECT_REFUSED},    /* port unreachable */
        {ENOPROTOOPT, FAILURE_CONNECT_UNREACHABLE}, /* protocol unreachable */
        {EOPNOTSUPP, FAILURE_CONNECT_UNREACHABLE},  /* source route failed */
        {ENONET, FAILURE_CONNECT_UNREACHABLE},      /* host isolated */
        {EHOSTDOWN, FAILURE_CONNECT_UNREACHABLE},   /* host unknown */
        {EMSGSIZE, FAILURE_CONNECT_UNREACHABLE},    /* fragmentation needed */
        {EPROTO, FAILURE_CONNECT_UNREACHABLE},      /* parameter problem */
        {ENETUNREACH, FAILURE_CONNECT_UNREACHABLE},
        {EHOSTUNREACH, FAILURE_CONNECT_UNREACHABLE},
        {ETIMEDOUT, FAILURE_CONNECT_TIMEOUT},
        {EACCES, FAILURE_CONNECT_FORBIDDEN},
        {ENOBUFS, FAILURE_SHORT},
        {ENOMEM, FAILURE_SHORT},
        {EADDRNOTAVAIL, FAILURE_LOCAL},
        {EADDRINUSE, FAILURE_LOCAL},
    };
    struct sockaddr_any to;
    int lfd = listen_any(&to, 64);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct end c;
        end_init(&c, l);
        connect_error = rows[i].error;
        end_connect(&c, &(struct stream_connect_options){.to = to, .connect_timeout_ms = 20000});
        TURN_UNTIL(l, c.failed == 1);
        connect_error = 0;
        if (c.why != rows[i].want)
            fail_msg("%s: %s", strerror(rows[i].error), failure_name(c.why));
        end_release(&c);
    }
    close(lfd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        T(the_words_of_a_failure_outlive_the_stream),
        T(the_rival_waits_while_the_first_has_its_head_start),
        T(a_refusal_ends_the_head_start),
        T(an_address_that_cannot_be_connected_to_ends_it_too),
        T(the_rival_wins_against_silence),
        T(nothing_is_sent_to_the_loser),
        T(when_nobody_is_reached_both_reasons_are_told),
        T(our_own_trouble_with_one_is_not_the_answer_for_both),
        T(a_race_can_be_called_off),
        T(silence_on_both_ends_with_the_timeout),
        T(what_the_network_says_is_no_trouble_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
