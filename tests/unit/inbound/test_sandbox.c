/* The sandbox by a client of its own on loopback: what addresses choose, what is captured, how many
 * are served, how it stops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/resource.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/inbound/sandbox.h"
#include "tests/unit/log_watch.h"

enum { PATIENCE_MS = 10000 };

/* ---- what lies below: a store that takes its time, and memory that is not there ---------------
 */

enum { HELD_MOST = 4 };

static struct {
    pthread_mutex_t mu;
    pthread_cond_t more;
    bool holds;
    struct store_call *call[HELD_MOST];
    size_t count;
} shared = {.mu = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

void __real_store_post(struct store *s, struct store_call *call);
void __wrap_store_post(struct store *s, struct store_call *call);
void __wrap_store_post(struct store *s, struct store_call *call) {
    pthread_mutex_lock(&shared.mu);
    bool is_held = shared.holds && call->verb == STORE_CAPTURE_PUT;
    if (is_held) {
        assert_true(shared.count < HELD_MOST);
        shared.call[shared.count++] = call;
        pthread_cond_broadcast(&shared.more);
    }
    pthread_mutex_unlock(&shared.mu);
    if (!is_held)
        __real_store_post(s, call);
}

static void hold_captures(void) {
    pthread_mutex_lock(&shared.mu);
    shared.holds = true;
    pthread_mutex_unlock(&shared.mu);
}

static void await_held(size_t count) {
    pthread_mutex_lock(&shared.mu);
    while (shared.count < count)
        pthread_cond_wait(&shared.more, &shared.mu);
    pthread_mutex_unlock(&shared.mu);
}

static void let_captures_go(struct store *s) {
    pthread_mutex_lock(&shared.mu);
    shared.holds = false;
    for (size_t i = 0; i < shared.count; i++)
        __real_store_post(s, shared.call[i]);
    shared.count = 0;
    pthread_mutex_unlock(&shared.mu);
}

static atomic_size_t refused_from; /* bytes; 0: there is memory */

void *__real_mem_try_zalloc(size_t n);
void *__wrap_mem_try_zalloc(size_t n);
void *__wrap_mem_try_zalloc(size_t n) {
    if (refused_from == 0 || n < refused_from)
        return __real_mem_try_zalloc(n);
    mem_note_short();
    return NULL;
}

/* ---- the world ---- */

struct world {
    struct store *store;
    struct sandbox *sandbox;
};

static int setup(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    struct store_options so = {.backend = STORE_MEMORY};
    struct errinfo info = {0};
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 512; /* 320 of it are for connections, 256 of these for long */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(store_open(&so, &w->store, &info), OK);
    struct sandbox_options o = {.store = w->store,
                                .address = "127.0.0.1",
                                .message_bytes_max = 65536,
                                .held_bytes_max = 100000};
    if (sandbox_start(&o, &w->sandbox, &info) != OK)
        fail_msg("%s", info.text);
    limit.rlim_cur = before;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_not_equal(sandbox_port(w->sandbox), 0);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    refused_from = 0; /* of a test that failed */
    let_captures_go(w->store);
    sandbox_stop(&w->sandbox);
    assert_null(w->sandbox);
    store_close(&w->store);
    free(w);
    return 0;
}

static int dial(const struct world *w) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(sandbox_port(w->sandbox))};
    inet_pton(AF_INET, "127.0.0.1", &at.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

/* The next reply, its last line, without CRLF; "" at the end of the connection. */
static const char *reply(int fd) {
    static char line[512];
    size_t n = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        if (recv(fd, line + n, 1, 0) != 1)
            n = 0;
        else if (line[n] != '\n') {
            assert_true(++n < sizeof line);
            continue;
        } else if (n > 4 && line[3] == '-') {
            n = 0;
            continue;
        }
        line[n > 0 ? n - 1 : 0] = '\0';
        return line;
    }
}

static const char *ask(int fd, const char *command) {
    struct buf b = BUF_INIT(1024 * 1024);
    buf_printf(&b, "%s\r\n", command);
    assert_int_equal(send(fd, b.p, b.n, MSG_NOSIGNAL), (ssize_t)b.n);
    buf_release(&b);
    return reply(fd);
}

static int greeted(const struct world *w) {
    int fd = dial(w);
    assert_string_equal(reply(fd), "220 sandbox.postchute.invalid ESMTP");
    assert_true(str_starts_with(str_of(ask(fd, "EHLO test")), STR("250 ")));
    return fd;
}

static size_t captured(const struct world *w, struct buf *newest_meta) {
    struct store_captures q = {.call.verb = STORE_CAPTURES, .kind = CAPTURE_MESSAGE, .limit = 100};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    size_t count = q.count;
    if (count > 0)
        buf_put(newest_meta, q.capture[0].meta_json);
    store_call_release(&q.call);
    return count;
}

static void the_local_part_chooses_the_answer(void **state) {
    static const struct {
        const char *to, *at_rcpt, *at_end;
    } rows[] = {
        {"ann@x.test", "250 2.1.5", "250 2.0.0"},      {"bounce@x.test", "550 5.1.1", NULL},
        {"BOUNCE+a+b@x.test", "550 5.1.1", NULL},      {"bounces@x.test", "250 2.1.5", "250 2.0.0"},
        {"bounce.x@x.test", "250 2.1.5", "250 2.0.0"}, {"defer@x.test", "451 4.7.1", NULL},
        {"full+1@x.test", "452 4.2.2", NULL},          {"spam@x.test", "250 2.1.5", "554 5.7.1"},
        {"+spam@x.test", "250 2.1.5", "250 2.0.0"},
    };
    struct world *w = *state;
    int fd = greeted(w);
    size_t taken = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char rcpt[128];
        snprintf(rcpt, sizeof rcpt, "RCPT TO:<%s>", rows[i].to);
        assert_true(str_starts_with(str_of(ask(fd, "MAIL FROM:<a@b.test>")), STR("250 ")));
        const char *got = ask(fd, rcpt);
        if (!str_starts_with(str_of(got), str_of(rows[i].at_rcpt)))
            fail_msg("%s: %s", rows[i].to, got);
        if (rows[i].at_end != NULL) {
            assert_true(str_starts_with(str_of(ask(fd, "DATA")), STR("354 ")));
            got = ask(fd, "Subject: x\r\n\r\n..dot\r\n.");
            if (!str_starts_with(str_of(got), str_of(rows[i].at_end)))
                fail_msg("%s: %s", rows[i].to, got);
            taken += rows[i].at_end[0] == '2';
        }
        assert_true(str_starts_with(str_of(ask(fd, "RSET")), STR("250 ")));
    }
    close(fd);
    struct buf meta = BUF_INIT(65536);
    assert_int_equal(captured(w, &meta), taken);
    assert_true(str_find(buf_str(&meta), STR("\"rcpt_to\":[\"+spam@x.test\"]")) >= 0);
    assert_true(str_find(buf_str(&meta), STR("\"mail_from\":\"a@b.test\"")) >= 0);
    buf_release(&meta);
}

static void name_recipient(int fd) {
    ask(fd, "EHLO test");
    ask(fd, "MAIL FROM:<>");
    assert_true(str_starts_with(str_of(ask(fd, "RCPT TO:<a@x.test>")), STR("250 ")));
}

/* So many who only hold connections shut nobody out. */
static void one_connection_too_many_takes_the_place_of_the_idlest(void **state) {
    enum { MOST = 256 + 64 };
    struct world *w = *state;
    static int fd[MOST];
    for (size_t i = 0; i < MOST; i++) {
        fd[i] = dial(w);
        assert_true(str_starts_with(str_of(reply(fd[i])), STR("220 ")));
        if (i < 2) { /* who is granted a recipient is the last to go */
            name_recipient(fd[i]);
        } else if (i == 2) {
            ask(fd[i], "EHLO test");
            ask(fd[i], "MAIL FROM:<>");
            assert_true(
                str_starts_with(str_of(ask(fd[i], "RCPT TO:<bounce@x.test>")), STR("550 ")));
        }
    }
    for (size_t i = 2; i < MOST; i++) {
        int more = dial(w);
        assert_true(str_starts_with(str_of(reply(more)), STR("220 ")));
        assert_true(str_starts_with(str_of(reply(fd[i])), STR("421 4.3.2 "))); /* told, then gone */
        assert_string_equal(reply(fd[i]), "");
        close(fd[i]);
        fd[i] = more;
    }
    assert_true(str_starts_with(str_of(ask(fd[0], "DATA")), STR("354 ")));
    assert_true(str_starts_with(str_of(ask(fd[0], "x\r\n.")), STR("250 ")));
    for (size_t i = 0; i < MOST; i++)
        close(fd[i]);
}

static bool hears_within(int fd, int ms) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) != 0;
}

/* Those that are too many are told one after the other, the idlest first, and the others stay. */
static void connections_are_made_fewer_slowly(void **state) {
    enum { MOST = 256, MORE = 16, LEFT = 6 };
    struct world *w = *state;
    static int fd[MOST + MORE];
    for (size_t i = 0; i < MOST + MORE; i++) {
        fd[i] = dial(w);
        assert_true(str_starts_with(str_of(reply(fd[i])), STR("220 ")));
    }
    assert_true(str_starts_with(str_of(reply(fd[0])), STR("421 4.3.2 ")));
    assert_false(hears_within(fd[MORE - 1], 300)); /* its turn comes seconds later */
    for (size_t i = MOST + LEFT; i < MOST + MORE; i++)
        assert_string_equal(ask(fd[i], "QUIT"), "221 2.0.0 bye");
    for (size_t i = 0; i < LEFT; i++)
        assert_true(hears_within(fd[i], PATIENCE_MS));
    assert_false(hears_within(fd[LEFT], 1500)); /* the next look finds nobody too many */
    for (size_t i = LEFT; i < MOST + LEFT; i++)
        assert_true(str_starts_with(str_of(ask(fd[i], "NOOP")), STR("250 ")));
    for (size_t i = 0; i < MOST + MORE; i++)
        close(fd[i]);
}

static void who_sends_mail_does_not_go_while_there_is_room(void **state) {
    enum { MOST = 256, MORE = 4 };
    struct world *w = *state;
    static int fd[MOST + MORE];
    for (size_t i = 0; i < MOST + MORE; i++) {
        fd[i] = dial(w);
        assert_true(str_starts_with(str_of(reply(fd[i])), STR("220 ")));
        name_recipient(fd[i]);
    }
    assert_false(hears_within(fd[0], 1500)); /* a look has been */
    for (size_t i = 0; i < MOST + MORE; i++) {
        assert_true(str_starts_with(str_of(ask(fd[i], "NOOP")), STR("250 ")));
        close(fd[i]);
    }
}

static void who_began_first_goes_when_too_much_is_held(void **state) {
    struct world *w = *state;
    struct buf part = BUF_INIT(65536);
    for (int i = 0; i < 900; i++)
        buf_putz(&part, "a line of fifty octets, which is no end of a message\r\n");
    int fd[3];
    for (size_t i = 0; i < 3; i++) {
        fd[i] = dial(w);
        assert_true(str_starts_with(str_of(reply(fd[i])), STR("220 ")));
        name_recipient(fd[i]);
        assert_true(str_starts_with(str_of(ask(fd[i], "DATA")), STR("354 ")));
        assert_int_equal(send(fd[i], part.p, part.n, MSG_NOSIGNAL), (ssize_t)part.n);
    }
    assert_true(str_starts_with(str_of(reply(fd[0])), STR("421 4.3.2 ")));
    for (size_t i = 1; i < 3; i++) /* these two fit */
        assert_true(str_starts_with(str_of(ask(fd[i], ".")), STR("250 ")));
    for (size_t i = 0; i < 3; i++)
        close(fd[i]);
    buf_release(&part);
}

/* The store may be slow; what others hold meanwhile is bounded all the same. */
static void who_waits_for_the_store_keeps_nobody_behind_it(void **state) {
    struct world *w = *state;
    struct buf part = BUF_INIT(65536);
    for (int i = 0; i < 900; i++)
        buf_putz(&part, "a line of fifty octets, which is no end of a message\r\n");
    int fd[4];
    hold_captures();
    for (size_t i = 0; i < 4; i++) {
        fd[i] = greeted(w);
        name_recipient(fd[i]);
        assert_true(str_starts_with(str_of(ask(fd[i], "DATA")), STR("354 ")));
        if (i == 1)
            continue; /* holds nothing yet */
        assert_int_equal(send(fd[i], part.p, part.n, MSG_NOSIGNAL), (ssize_t)part.n);
        if (i == 0) {
            assert_int_equal(send(fd[i], ".\r\n", 3, MSG_NOSIGNAL), 3);
            await_held(1);
        }
    }
    struct pollfd p = {.fd = fd[2], .events = POLLIN};
    int was_told = poll(&p, 1, PATIENCE_MS);
    let_captures_go(w->store);
    assert_int_equal(was_told, 1);
    assert_true(str_starts_with(str_of(reply(fd[2])), STR("421 4.3.2 ")));
    assert_true(str_starts_with(str_of(reply(fd[0])), STR("250 ")));
    assert_true(str_starts_with(str_of(ask(fd[1], "x\r\n.")), STR("250 ")));
    assert_true(str_starts_with(str_of(ask(fd[3], ".")), STR("250 ")));
    for (size_t i = 0; i < 4; i++)
        close(fd[i]);
    buf_release(&part);
}

static void a_message_that_there_is_no_memory_for_comes_later(void **state) {
    expect_log("message not captured");
    struct world *w = *state;
    struct buf part = BUF_INIT(65536);
    for (int i = 0; i < 900; i++)
        buf_putz(&part, "a line of fifty octets, which is no end of a message\r\n");
    int fd = greeted(w);
    for (int i = 0; i < 2; i++) {
        refused_from = i == 0 ? part.n : 0;
        ask(fd, "MAIL FROM:<>");
        assert_true(str_starts_with(str_of(ask(fd, "RCPT TO:<a@x.test>")), STR("250 ")));
        assert_true(str_starts_with(str_of(ask(fd, "DATA")), STR("354 ")));
        assert_int_equal(send(fd, part.p, part.n, MSG_NOSIGNAL), (ssize_t)part.n);
        const char *got = ask(fd, ".");
        assert_true(str_starts_with(str_of(got), i == 0 ? STR("451 4.3.0 ") : STR("250 ")));
    }
    struct buf meta = BUF_INIT(65536);
    assert_int_equal(captured(w, &meta), 1);
    buf_release(&meta);
    buf_release(&part);
    close(fd);
}

static void a_port_in_use_is_told(void **state) {
    struct world *w = *state;
    struct sandbox *other = NULL;
    struct errinfo info = {0};
    struct sandbox_options o = {
        .store = w->store, .address = "127.0.0.1", .port = sandbox_port(w->sandbox)};
    assert_int_equal(sandbox_start(&o, &other, &info), ERR_CONFLICT);
    assert_null(other);
    assert_non_null(strstr(info.text, "127.0.0.1"));
    int fd = greeted(w); /* the first one serves on */
    close(fd);
}

static void stopping_says_goodbye(void **state) {
    struct world *w = *state;
    int fd = greeted(w), in_data = greeted(w);
    ask(in_data, "MAIL FROM:<>");
    ask(in_data, "RCPT TO:<a@x.test>");
    assert_true(str_starts_with(str_of(ask(in_data, "DATA")), STR("354 ")));
    sandbox_stop(&w->sandbox);
    assert_string_equal(reply(fd), "421 4.3.2 shutting down");
    assert_string_equal(reply(fd), "");
    assert_string_equal(reply(in_data), "421 4.3.2 shutting down");
    close(fd);
    close(in_data);
}

#define WORLD(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD(the_local_part_chooses_the_answer),
        WORLD(one_connection_too_many_takes_the_place_of_the_idlest),
        WORLD(connections_are_made_fewer_slowly),
        WORLD(who_sends_mail_does_not_go_while_there_is_room),
        WORLD(who_began_first_goes_when_too_much_is_held),
        WORLD(who_waits_for_the_store_keeps_nobody_behind_it),
        WORLD(a_message_that_there_is_no_memory_for_comes_later),
        WORLD(a_port_in_use_is_told),
        WORLD(stopping_says_goodbye),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
