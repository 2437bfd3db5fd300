/* The store on disk: rights, one process per store, versions, crashes, and a disk that fails. */
#include "tests/contract/store_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "server/base/limits.h"
#include "storage/sqlite/wal_file.h"
#include "tests/unit/log_watch.h"

static int setup(void **state) {
    *state = kit_new(STORE_SQLITE);
    return 0;
}

static int teardown(void **state) {
    kit_free(*state);
    return 0;
}

static const char *path_of(struct kit *k, const char *name) {
    return arena_dupz(k->arena, arena_printf(k->arena, "%s/%s", k->folder, name));
}

static int64_t query(struct kit *k, const char *sql) {
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(path_of(k, "outbox.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    int rc = sqlite3_step(st);
    assert_true(rc == SQLITE_ROW || rc == SQLITE_DONE);
    int64_t v = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return v;
}

static void files_are_for_the_owner_alone(void **state) {
    struct kit *k = *state;
    kit_accept(k, TO("ann@example.net"));
    static const char *const names[] = {"outbox.db", "outbox.db-wal", "outbox.db-shm", "lock"};
    struct stat st;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(stat(path_of(k, names[i]), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
    }
    assert_int_equal(stat(k->folder, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void the_file_has_small_pages_and_can_shrink(void **state) {
    struct kit *k = *state;
    assert_int_equal(query(k, "PRAGMA page_size"), 4096);
    assert_int_equal(query(k, "PRAGMA auto_vacuum"), 2);
    assert_int_equal(query(k, "PRAGMA user_version"), 4);
}

/* ---- a folder that cannot be what it must be ---- */

/* Calls on a path that ends so, or on what was opened by it, fail. */
static struct {
    const char *call, *suffix;
    int error;
    int fd;
} denied = {.fd = -1};

static bool is_denied(const char *call, const char *path, int fd) {
    if (denied.call == NULL || strcmp(denied.call, call) != 0)
        return false;
    size_t n = path != NULL ? strlen(path) : 0, m = strlen(denied.suffix);
    if (path != NULL ? n < m || strcmp(path + n - m, denied.suffix) != 0 : fd != denied.fd)
        return false;
    errno = denied.error;
    return true;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    int mode = (flags & O_CREAT) != 0 ? va_arg(ap, int) : 0;
    va_end(ap);
    if (is_denied("open", path, -1))
        return -1;
    int fd = __real_open(path, flags, mode);
    size_t n = strlen(path), m = denied.suffix != NULL ? strlen(denied.suffix) : 0;
    if (m > 0 && n >= m && strcmp(path + n - m, denied.suffix) == 0)
        denied.fd = fd;
    return fd;
}
int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
    return is_denied("fsync", NULL, fd) ? -1 : __real_fsync(fd);
}
int __real_flock(int fd, int what);
int __wrap_flock(int fd, int what);
int __wrap_flock(int fd, int what) {
    return is_denied("flock", NULL, fd) ? -1 : __real_flock(fd, what);
}
int __real_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size);
int __wrap_ftruncate(int fd, off_t size) {
    return is_denied("ftruncate", NULL, fd) ? -1 : __real_ftruncate(fd, size);
}
int __real_chmod(const char *path, mode_t mode);
int __wrap_chmod(const char *path, mode_t mode);
int __wrap_chmod(const char *path, mode_t mode) {
    return is_denied("chmod", path, -1) ? -1 : __real_chmod(path, mode);
}

static void what_the_folder_refuses_is_told_or_does_not_matter(void **state) {
    struct kit *k = *state;
    static const struct {
        const char *call, *suffix;
        int error;
        bool is_new; /* the folder */
        enum err want;
        const char *words;
    } rows[] = {
        /* a new folder that is not safe is no place for a promise */
        {"open", "/..", EACCES, true, OK, NULL}, /* nobody can sync what nobody may read */
        {"open", "/..", EIO, true, ERR_UNAVAILABLE, "cannot open"},
        {"fsync", "/..", EIO, true, ERR_UNAVAILABLE, "cannot sync"},
        {"fsync", "/..", EINVAL, true, OK, NULL}, /* a file system that has no need of it */
        {"fsync", "/..", EIO, false, OK, NULL},   /* it was there before */
        {"chmod", "", EROFS, false, ERR_UNAVAILABLE, "cannot protect"},
        {"chmod", "", EPERM, false, OK, NULL}, /* a volume of somebody else */
        {"open", "/lock", EACCES, true, ERR_UNAVAILABLE, "cannot open"},
        {"flock", "/lock", ENOLCK, true, ERR_UNAVAILABLE, "cannot lock"},
        {"ftruncate", "/lock", EIO, true, OK, NULL}, /* what stands in it is for people */
        {"open", "/outbox.db", EROFS, true, ERR_UNAVAILABLE, "cannot open"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        store_close(&k->store);
        kit_remove_folder(k->folder);
        if (!rows[i].is_new) {
            assert_int_equal(mkdir(k->folder, 0755), 0);
            assert_int_equal(__real_chmod(k->folder, 0755), 0);
        }
        denied.call = rows[i].call;
        denied.suffix = rows[i].suffix;
        denied.error = rows[i].error;
        struct errinfo info = {0};
        enum err e = store_open(&k->options, &k->store, &info);
        denied.call = denied.suffix = NULL;
        denied.fd = -1;
        if (e != rows[i].want)
            fail_msg("%s %s: %s: %s", rows[i].call, rows[i].suffix, err_name(e), info.text);
        if (e != OK) {
            assert_non_null(strstr(info.text, rows[i].words));
            assert_null(k->store);
            kit_open_with(k, k->options); /* nothing is left that would hinder it */
        }
        kit_accept(k, TO("ann@example.net"));
    }
}

static void what_is_no_folder_is_refused(void **state) {
    struct kit *k = *state;
    struct errinfo info = {0};
    struct store *s = NULL;
    struct store_options o = k->options;
    const char *file = path_of(k, "lock"), *nowhere = path_of(k, "nowhere");
    assert_int_equal(symlink("gone", nowhere), 0);
    static char longest[4002];
    memset(longest, 'x', sizeof(longest) - 1);
    const struct {
        const char *folder;
        enum err want;
    } rows[] = {
        {file, ERR_INVALID},
        {nowhere, ERR_INVALID},
        {path_of(k, "a/b"), ERR_UNAVAILABLE},
        {longest, ERR_INVALID},
        {longest + 1, ERR_UNAVAILABLE}, /* the system says so */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        o.folder = rows[i].folder;
        assert_int_equal(store_open(&o, &s, &info), rows[i].want);
        assert_string_equal(info.field, "store");
        assert_null(s);
    }
    /* a folder where a file must be */
    store_close(&k->store);
    static const char *const names[] = {"lock", "outbox.db"};
    for (size_t i = 0; i < 2; i++) {
        kit_remove_folder(k->folder);
        assert_int_equal(mkdir(k->folder, 0700), 0);
        assert_int_equal(mkdir(path_of(k, names[i]), 0700), 0);
        assert_int_equal(store_open(&k->options, &k->store, &info), ERR_UNAVAILABLE);
        assert_int_equal(rmdir(path_of(k, names[i])), 0);
    }
    store_close(&k->store); /* of nothing: nothing */
    kit_open_with(k, k->options);
}

/* Somebody has the lock and did not say who. */
static void an_owner_without_a_name_is_an_owner(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    int fd = __real_open(path_of(k, "lock"), O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(__real_flock(fd, LOCK_EX), 0);
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &k->store, &info), ERR_CONFLICT);
    assert_non_null(strstr(info.text, "process ?"));
    close(fd);
    kit_open_with(k, k->options);
}

static void a_second_opener_is_told_who_has_the_store(void **state) {
    struct kit *k = *state;
    struct store *second = NULL;
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &second, &info), ERR_CONFLICT);
    char pid[32];
    snprintf(pid, sizeof(pid), "process %ld", (long)getpid());
    assert_non_null(strstr(info.text, pid));
    assert_null(second);
}

static void a_newer_store_is_refused(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    query(k, "PRAGMA user_version = 4711");
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &k->store, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, "newer"));
    query(k, "PRAGMA user_version = 4");
    kit_open_with(k, k->options);
}

static void an_older_store_learns_which_messages_are_tests(void **state) {
    struct kit *k = *state;
    struct store_key_put key = {.key = {.project = 1,
                                        .id = id_new(k->now_wall_ms),
                                        .name = STR("ci"),
                                        .prefix = STR("pc_test_a"),
                                        .scopes = SCOPE_SEND,
                                        .is_test = true,
                                        .created_wall_ms = k->now_wall_ms}};
    RUN_OK(k, STORE_KEY_PUT, &key);
    struct store_accept *test = kit_accept_for(k, TO("ann@example.net"));
    test->message.key_id = key.key.id;
    RUN_OK(k, STORE_ACCEPT, test);
    struct message_row *live = kit_accept(k, TO("ann@example.net"));
    store_close(&k->store);
    query(k, "ALTER TABLE message DROP COLUMN is_test");
    query(k, "ALTER TABLE api_key DROP COLUMN rate");
    query(k, "PRAGMA user_version = 1");
    kit_open_with(k, k->options);
    assert_true(kit_message(k, test->message.id).is_test);
    assert_false(kit_message(k, live->id).is_test);
}

static void an_older_store_finds_its_messages_in_smaller_buckets(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    query(k, "UPDATE counter SET next_message = 5000"); /* far from the first bucket */
    kit_open_with(k, k->options);
    kit_accept(k, TO("ann@example.net"));
    store_close(&k->store);
    query(k, "UPDATE term SET bucket = seq / 4096");
    query(k, "PRAGMA user_version = 3");
    kit_open_with(k, k->options);
    kit_accept(k, TO("ann@example.net"));
    assert_int_equal(
        kit_found(k,
                  (struct store_messages){.project = 1, .to = STR("ann@example.net"), .limit = 9}),
        2);
    assert_int_equal(
        kit_found(k,
                  (struct store_messages){.project = 1, .to = STR("bob@example.net"), .limit = 9}),
        0);
}

/* It stored the key of a test key's request without the space in front. */
static void a_repetition_finds_what_an_older_version_stored_for_a_test_key(void **state) {
    struct kit *k = *state;
    struct store_accept *first = kit_keyed(k, "key", 1), *again = kit_keyed(k, " key", 1),
                        *other = kit_keyed(k, " key", 2), *after = kit_keyed(k, " key", 2);
    RUN_OK(k, STORE_ACCEPT, first);
    RUN_OK(k, STORE_ACCEPT, again);
    assert_true(again->is_replay);
    assert_true(id_equal(&again->message.id, &first->message.id));
    RUN_OK(k, STORE_ACCEPT, other); /* what a live key used is none of its own */
    assert_false(other->is_replay);
    RUN_OK(k, STORE_ACCEPT, after);
    assert_true(after->is_replay);
    assert_true(id_equal(&after->message.id, &other->message.id));
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, " key", 1)), ERR_CONFLICT);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 2)), ERR_CONFLICT);
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, " ", 1));
    assert_int_equal(kit_totals(k).accepted, 3);
}

static void a_store_survives_closing(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    kit_reopen(k);
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[0].attempts, 1);
    assert_false(now.recipient[0].possible_duplicate);
    assert_int_equal(kit_due_count(k, INT64_MAX), 2);
    struct message_row *next = kit_accept(k, TO("ann@example.net"));
    assert_true(next->seq > m->seq);
    assert_int_equal(kit_totals(k).notifications_pending, 3); /* endpoints are known again */
}

static void what_was_under_way_at_a_stop_is_due_again_and_marked(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[1].key));
    assert_int_equal(kit_notify_claim(k)->count, 1);
    kit_reopen(k);
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[0].state, RECIPIENT_QUEUED);
    assert_false(now.recipient[0].possible_duplicate);
    assert_int_equal(now.recipient[1].state, RECIPIENT_QUEUED);
    assert_true(now.recipient[1].possible_duplicate);
    assert_int_equal(kit_due_count(k, clock_wall_ms()), 1); /* the test's clock is ahead */
    k->now_wall_ms += 365 * (int64_t)86400000;
    assert_int_equal(kit_notify_claim(k)->count, 1);
}

static void what_was_under_way_at_a_stop_keeps_its_place_in_the_queue(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    k->now_wall_ms = clock_wall_ms() - 60000;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_claim(k, m->recipient[0].key);
    kit_reopen(k);
    assert_int_equal(kit_message(k, m->id).recipient[0].due_wall_ms, m->recipient[0].due_wall_ms);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
}

/* It may be what crashes the process; then the others go in between. */
static void what_was_under_way_at_two_stops_lets_others_go_first(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    k->now_wall_ms = clock_wall_ms() - 60000;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    for (int stops = 0; stops < 2; stops++) {
        assert_true(kit_claim(k, m->recipient[0].key));
        if (stops == 1)
            assert_true(kit_claim(k, m->recipient[1].key));
        kit_reopen(k);
    }
    struct message_row now = kit_message(k, m->id);
    assert_true(now.recipient[0].due_wall_ms > k->now_wall_ms + 60000);
    assert_true(now.recipient[0].due_wall_ms <= clock_wall_ms() + 10000);
    assert_int_equal(now.recipient[1].due_wall_ms, m->recipient[1].due_wall_ms);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
}

/* A child accepts, claims and settles until it is killed; it tells what was confirmed to it. */
static void child_works(struct kit *k, int out) {
    for (int i = 0;; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        if (i % 5 == 4) {
            kit_resize(q, 3000000);
        }
        q->call.verb = STORE_ACCEPT;
        if (store_sync(k->store, &q->call) != OK ||
            write(out, &q->message.id, sizeof(q->message.id)) != sizeof(q->message.id))
            _exit(1);
        if (i % 2 == 0)
            kit_claim(k, q->message.recipient[0].key);
        if (i % 4 == 0)
            kit_settle(k, kit_result(k, q->message.recipient[0].key, RECIPIENT_DELIVERED));
    }
}

static void what_was_confirmed_survives_a_kill(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    for (int round = 0; round < 4; round++) {
        store_close(&k->store); /* no thread may live across the fork */
        int out[2];
        assert_int_equal(pipe(out), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            close(out[0]);
            kit_open_with(k, k->options);
            child_works(k, out[1]);
        }
        close(out[1]);
        struct id confirmed[64];
        size_t count = 0, most = 7 + (size_t)round * 9;
        while (count < most && read(out[0], &confirmed[count], sizeof(confirmed[0])) ==
                                   (ssize_t)sizeof(confirmed[0]))
            count++;
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        close(out[0]);
        assert_int_equal(count, most);
        kit_open_with(k, k->options);
        kit_check(k);
        assert_int_equal(kit_totals(k).by_state[RECIPIENT_SENDING], 0);
        for (size_t i = 0; i < count; i++) {
            struct store_content c = {.id = confirmed[i], .project = 1};
            RUN_OK(k, STORE_CONTENT, &c);
            assert_int_equal(message_size(c.message), i % 5 == 4 ? 3000000 : 1000);
            message_unref(&c.message);
        }
        assert_int_equal(query(k, "SELECT count(*) FROM upload"), 0);
        assert_int_equal(query(k, "SELECT count(*) FROM body b WHERE NOT EXISTS"
                                  " (SELECT 1 FROM message m WHERE m.body = b.key / 1024)"),
                         0);
    }
}

/* ---- a call that fails after it wrote ---- */

enum { CALLS = 12 };

/* Twice the same id is a defect of the caller that only the index notices, late. The batch is run
 * again with savepoints: the others are stored, with their notices and replays as they should be.
 */
static void a_call_that_fails_late_fails_alone(void **state) {
    struct kit *k = *state;
    struct message_row *first = kit_accept(k, TO("first@example.net"));
    struct store_accept *q[CALLS];
    for (int i = 0; i < CALLS; i++) {
        q[i] = kit_accept_for(k, TO("ann@new.example"));
        if (i % 3 == 1)
            q[i]->idempotency_key = STR("key"); /* replays of q[1] from the second on */
        if (i % 3 == 2)
            q[i]->message.id = first->id;
        if (i == 5 || i == 6) /* written before their batch; the one fails, the other must stay */
            kit_resize(q[i], 600000);
    }
    assert_int_equal(kit_accept_together(k, q, CALLS), 4);
    for (int i = 0; i < CALLS; i++) {
        assert_int_equal(q[i]->call.err, i % 3 == 2 ? ERR_INTERNAL : OK);
        assert_int_equal(q[i]->is_replay, i % 3 == 1 && i > 1);
        if (i % 3 == 1)
            assert_true(id_equal(&q[i]->message.id, &q[1]->message.id));
    }
    assert_int_equal(kit_totals(k).accepted, 1 + 4 + 1);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 6);
    assert_int_equal(query(k, "SELECT count(*) FROM upload"), 0);
    assert_int_equal(query(k, "SELECT count(*) FROM body"), 5 + 3);
    assert_true(store_health(k->store).is_writable);
}

/* ---- a handle that is lost: it is opened again ---- */

/* Until the store says why it is not writable, in these words; NULL: until it is writable. */
static void wait_for_health(struct kit *k, const char *words) {
    struct store_health h = store_health(k->store);
    for (int i = 0; i < 100 && (words == NULL ? !h.is_writable : strstr(h.text, words) == NULL);
         i++) {
        mailbox_wait(kit_box(k), 100);
        h = store_health(k->store);
    }
    if (words == NULL ? !h.is_writable : h.is_writable || strstr(h.text, words) == NULL)
        fail_msg("not %s: %s", words != NULL ? words : "writable", h.text);
}

static void lose_the_handle(struct kit *k) {
    expect_log("the store is not writable");
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = "COMMIT"});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("lost@example.net"))),
                     ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
}

enum { SEES_NO_LOCK = 1, CANNOT_LOOK = 2 };

/* Another program, as sqlite3 is: it looks for SQLite's lock, reads, and closes. It is begun before
 * this process has anything open, which SQLite would take for its own there. */
static pid_t start_other_program(int *tell) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        close(ends[0]);
        *tell = ends[1];
        return pid;
    }
    close(ends[1]);
    char path[128] = "";
    if (read(ends[0], path, sizeof(path) - 1) <= 0)
        _exit(CANNOT_LOOK);
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510};
    int fd = __real_open(path, O_RDWR | O_CLOEXEC);
    int result = fd < 0 || fcntl(fd, F_GETLK, &lock) != 0 ? CANNOT_LOOK : 0;
    result |= lock.l_type == F_UNLCK ? SEES_NO_LOCK : 0;
    close(fd);
    sqlite3 *db = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK ||
        sqlite3_exec(db, "SELECT count(*) FROM message", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_close(db) != SQLITE_OK)
        result |= CANNOT_LOOK;
    _exit(result);
}

/* Else who closes the store takes itself for the last, and removes the log that is written to. */
static void a_handle_that_is_opened_again_leaves_the_others_their_locks(void **state) {
    (void)state;
    int tell, status;
    pid_t other = start_other_program(&tell);
    struct kit *k = kit_new(STORE_SQLITE);
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_message(k, m->id); /* a reader has begun */
    lose_the_handle(k);
    wait_for_health(k, NULL);
    const char *path = path_of(k, "outbox.db");
    assert_int_equal(write(tell, path, strlen(path)), (ssize_t)strlen(path));
    close(tell);
    assert_int_equal(waitpid(other, &status, 0), other);
    struct stat st;
    bool has_log = stat(path_of(k, "outbox.db-wal"), &st) == 0;
    if (status != 0 || !has_log)
        fail_msg("another program ended with %d, the log is%s there", status,
                 has_log ? "" : " not");
    kit_accept(k, TO("ann@example.net"));
    kit_free(k);
}

/* A file system that was unmounted, a file that was moved: what is accepted into another file is
 * gone when that one is back. */
static void a_file_that_is_not_there_any_more_is_waited_for(void **state) {
    struct kit *k = *state;
    const char *path = path_of(k, "outbox.db"), *away = path_of(k, "away");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_int_equal(rename(path, away), 0);
    lose_the_handle(k);
    wait_for_health(k, "cannot find");
    assert_int_equal(logged("the store is not writable"), 2); /* why, and why it stays so */
    struct stat st;
    assert_int_equal(stat(path, &st), -1);
    /* another one in its place */
    int fd = __real_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    wait_for_health(k, "is not the file that was opened at the start");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))),
                     ERR_UNAVAILABLE);
    assert_int_equal(rename(away, path), 0);
    wait_for_health(k, NULL);
    kit_accept(k, TO("bob@example.net"));
    kit_message(k, m->id);
    assert_int_equal(kit_totals(k).accepted, 2);
}

/* It is the same file, but nothing is in it: it is not made anew under those who read in it. */
static void a_file_of_another_version_is_not_migrated_while_it_is_open(void **state) {
    struct kit *k = *state;
    query(k, "PRAGMA user_version = 3");
    lose_the_handle(k);
    wait_for_health(k, "was emptied or replaced");
    assert_int_equal(query(k, "PRAGMA user_version"), 3);
    query(k, "PRAGMA user_version = 4");
    wait_for_health(k, NULL);
    kit_accept(k, TO("ann@example.net"));
}

/* ---- a disk that fails: a VFS between SQLite and the system's ---- */

static struct {
    atomic_int write_rc, sync_rc; /* what the next calls answer; SQLITE_OK: pass on */
    atomic_llong room;            /* bytes until write_rc; 0: at once */
    atomic_int failed;            /* so many calls have */
} fault;

struct faulty_file {
    sqlite3_file base;
    sqlite3_file *real;
};

#define REAL(f) (((struct faulty_file *)(f))->real)

static int f_close(sqlite3_file *f) {
    return REAL(f)->pMethods->xClose(REAL(f));
}
static int f_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    return REAL(f)->pMethods->xRead(REAL(f), p, n, at);
}
static int f_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    int rc = atomic_load(&fault.write_rc);
    if (rc != SQLITE_OK && atomic_load(&fault.room) > 0) {
        atomic_fetch_sub(&fault.room, n);
        rc = SQLITE_OK;
    }
    atomic_fetch_add(&fault.failed, rc != SQLITE_OK);
    return rc != SQLITE_OK ? rc : REAL(f)->pMethods->xWrite(REAL(f), p, n, at);
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 n) {
    return REAL(f)->pMethods->xTruncate(REAL(f), n);
}
static int f_sync(sqlite3_file *f, int flags) {
    int rc = atomic_load(&fault.sync_rc);
    atomic_fetch_add(&fault.failed, rc != SQLITE_OK);
    return rc != SQLITE_OK ? rc : REAL(f)->pMethods->xSync(REAL(f), flags);
}
static int f_size(sqlite3_file *f, sqlite3_int64 *n) {
    return REAL(f)->pMethods->xFileSize(REAL(f), n);
}
static int f_lock(sqlite3_file *f, int l) {
    return REAL(f)->pMethods->xLock(REAL(f), l);
}
static int f_unlock(sqlite3_file *f, int l) {
    return REAL(f)->pMethods->xUnlock(REAL(f), l);
}
static int f_reserved(sqlite3_file *f, int *out) {
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out);
}
static int f_control(sqlite3_file *f, int op, void *arg) {
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}
static int f_sector(sqlite3_file *f) {
    return REAL(f)->pMethods->xSectorSize(REAL(f));
}
static int f_device(sqlite3_file *f) {
    return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f));
}
static int f_shm_map(sqlite3_file *f, int i, int n, int e, void volatile **p) {
    return REAL(f)->pMethods->xShmMap(REAL(f), i, n, e, p);
}
static int f_shm_lock(sqlite3_file *f, int at, int n, int flags) {
    return REAL(f)->pMethods->xShmLock(REAL(f), at, n, flags);
}
static void f_shm_barrier(sqlite3_file *f) {
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}
static int f_shm_unmap(sqlite3_file *f, int d) {
    return REAL(f)->pMethods->xShmUnmap(REAL(f), d);
}

static const sqlite3_io_methods faulty_methods = {
    .iVersion = 2,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_device,
    .xShmMap = f_shm_map,
    .xShmLock = f_shm_lock,
    .xShmBarrier = f_shm_barrier,
    .xShmUnmap = f_shm_unmap,
};

static int faulty_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    sqlite3_vfs *system = v->pAppData;
    struct faulty_file *ff = (struct faulty_file *)f;
    ff->real = (sqlite3_file *)(void *)(ff + 1);
    int rc = system->xOpen(system, name, ff->real, flags, out);
    f->pMethods = ff->real->pMethods != NULL ? &faulty_methods : NULL;
    return rc;
}

static void register_faulty_vfs(void) {
    static sqlite3_vfs v;
    if (v.zName != NULL)
        return;
    sqlite3_vfs *system = sqlite3_vfs_find(NULL);
    v = *system;
    v.zName = "faulty";
    v.szOsFile = (int)sizeof(struct faulty_file) + system->szOsFile;
    v.pAppData = system;
    v.xOpen = faulty_open;
    v.pNext = NULL;
    assert_int_equal(sqlite3_vfs_register(&v, 0), SQLITE_OK);
    /* Below the log's buffer, where a disk fails. */
    static sqlite3_vfs buffered;
    assert_int_equal(wal_file_register(&buffered, "buffered faulty", &v), SQLITE_OK);
}

static int faulty_setup(void **state) {
    struct kit *k = kit_new(STORE_SQLITE);
    register_faulty_vfs();
    store_close(&k->store);
    kit_open_with(k, (struct store_options){.backend = STORE_SQLITE, .vfs = "buffered faulty"});
    *state = k;
    return 0;
}

static void health_changed(struct store_notice *n) {
    ++*(int *)n->ctx;
    store_notice_free(&n);
}

/* The store says within a few seconds that it is writable again. */
static void wait_writable(struct kit *k, struct mailbox *box) {
    for (int i = 0; i < 10 && !store_health(k->store).is_writable; i++)
        mailbox_wait(box, 1000);
    assert_true(store_health(k->store).is_writable);
}

static void fail_and_recover(struct kit *k, atomic_int *what, int rc) {
    int changes = 0;
    struct mailbox *box = kit_box(k);
    store_watch(k->store, NOTICE_HEALTH, box, health_changed, &changes);
    struct message_row *before = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, before->recipient[0].key));
    atomic_store(what, rc);
    struct store_accept *lost = kit_accept_for(k, TO("bob@example.net"));
    assert_int_equal(RUN(k, STORE_ACCEPT, lost), ERR_UNAVAILABLE);
    assert_true(lost->call.info.text[0] != '\0');
    struct store_health h = store_health(k->store);
    assert_false(h.is_writable);
    assert_true(h.text[0] != '\0');
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("c@example.net"))), ERR_UNAVAILABLE);
    kit_message(k, before->id); /* reading goes on */
    atomic_store(what, SQLITE_OK);
    wait_writable(k, box);
    while (changes < 2) /* the notice follows the change */
        assert_true(mailbox_wait(box, 5000) > 0);
    assert_int_equal(changes, 2);
    /* a claim belongs to a job that lives: it was not taken away */
    assert_int_equal(kit_settle(k, kit_result(k, before->recipient[0].key, RECIPIENT_DELIVERED)),
                     OK);
    struct store_message gone = {.id = lost->message.id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    kit_accept(k, TO("ann@example.net"));
    assert_int_equal(kit_totals(k).accepted, 2);
    store_unwatch(k->store, box);
    kit_reopen(k);
    assert_int_equal(kit_totals(k).accepted, 2);
}

static void a_failed_sync_closes_the_handle_and_it_comes_back(void **state) {
    expect_log("the store is not writable");
    fail_and_recover(*state, &fault.sync_rc, SQLITE_IOERR_FSYNC);
}

static void a_failed_write_closes_the_handle_and_it_comes_back(void **state) {
    expect_log("the store is not writable");
    fail_and_recover(*state, &fault.write_rc, SQLITE_IOERR_WRITE);
}

static void a_full_disk_refuses_until_there_is_room(void **state) {
    expect_log("the store is not writable");
    fail_and_recover(*state, &fault.write_rc, SQLITE_FULL);
}

/* Tried each second, in vain: it is said once. */
static void fail_for_some_time(struct kit *k, atomic_int *what, int rc) {
    int changes = 0;
    struct mailbox *box = kit_box(k);
    store_watch(k->store, NOTICE_HEALTH, box, health_changed, &changes);
    kit_accept(k, TO("ann@example.net"));
    atomic_store(what, rc);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))),
                     ERR_UNAVAILABLE);
    int before = atomic_load(&fault.failed);
    while (changes < 2 && atomic_load(&fault.failed) < before + 4)
        mailbox_wait(box, 100);
    mailbox_wait(box, 0);
    assert_int_equal(changes, 1);
    assert_false(store_health(k->store).is_writable);
    atomic_store(what, SQLITE_OK);
    wait_writable(k, box);
    kit_accept(k, TO("ann@example.net"));
    store_unwatch(k->store, box);
    kit_reopen(k);
    assert_int_equal(kit_totals(k).accepted, 2);
}

static void a_disk_that_stays_full_is_told_of_once(void **state) {
    expect_log("the store is not writable");
    fail_for_some_time(*state, &fault.write_rc, SQLITE_FULL);
}

static void a_disk_that_goes_on_failing_is_told_of_once(void **state) {
    expect_log("the store is not writable");
    fail_for_some_time(*state, &fault.write_rc, SQLITE_IOERR_WRITE);
}

static void a_disk_that_syncs_no_more_is_told_of_once(void **state) {
    expect_log("the store is not writable");
    fail_for_some_time(*state, &fault.sync_rc, SQLITE_IOERR_FSYNC);
}

static void copy_file(struct kit *k, const char *from, const char *to) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execlp("cp", "cp", path_of(k, from), path_of(k, to), (char *)NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* What was refused stands whole in the log when its sync fails. Killed right after the handle was
 * opened again, the process must not find it there: opening writes over it (its auto_vacuum). */
static void what_was_refused_is_not_in_the_log_of_a_handle_that_came_back(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    kit_accept(k, TO("ann@example.net"));
    atomic_store(&fault.sync_rc, SQLITE_IOERR_FSYNC);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))),
                     ERR_UNAVAILABLE);
    atomic_store(&fault.sync_rc, SQLITE_OK);
    wait_for_health(k, NULL);
    copy_file(k, "outbox.db", "copy.db");
    copy_file(k, "outbox.db-wal", "copy.db-wal");
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(path_of(k, "copy.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM message", -1, &st, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int64(st, 0), 1);
    sqlite3_finalize(st);
    sqlite3_close(db);
}

/* A sweep that finds nothing needs no room. */
static void a_commit_that_writes_nothing_is_no_sign_of_room(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    atomic_store(&fault.write_rc, SQLITE_FULL);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("ann@example.net"))),
                     ERR_UNAVAILABLE);
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 10};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_false(store_health(k->store).is_writable);
    atomic_store(&fault.write_rc, SQLITE_OK);
    wait_for_health(k, NULL);
    kit_accept(k, TO("ann@example.net"));
}

static void a_big_body_that_does_not_fit_leaves_nothing(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    atomic_store(&fault.write_rc, SQLITE_FULL);
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    kit_resize(q, 2 * LIMIT_BATCH_BYTES);
    assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
    atomic_store(&fault.write_rc, SQLITE_OK);
    wait_writable(k, kit_box(k));
    kit_reopen(k);
    assert_int_equal(query(k, "SELECT count(*) FROM body"), 0);
    assert_int_equal(query(k, "SELECT count(*) FROM upload"), 0);
}

/* How much there is, which is looked at once a second, and how much there should be. */
static void look_at_the_words_of_the_floor(struct kit *k, int64_t floor_bytes) {
    char words[128];
    struct store_accept *q;
    int64_t before_mib, after_mib;
    int tries = 0;
    do {
        before_mib = store_health(k->store).disk_free_bytes >> 20;
        q = kit_accept_for(k, TO("bob@example.net"));
        assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
        after_mib = store_health(k->store).disk_free_bytes >> 20;
    } while (before_mib != after_mib && ++tries < 100);
    snprintf(words, sizeof(words), "%lld MiB of disk are free, fewer than the floor of %lld",
             (long long)before_mib, (long long)(floor_bytes >> 20));
    if (strstr(q->call.info.text, words) == NULL)
        fail_msg("%s: not in: %s", words, q->call.info.text);
}

static void below_the_floor_nothing_new_is_taken_but_results_are(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    expect_log("less room than disk_floor");
    store_set_disk_floor(k->store, INT64_MAX);
    struct store_accept *q = kit_accept_for(k, TO("bob@example.net"));
    struct id refused = q->message.id;
    assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
    look_at_the_words_of_the_floor(k, INT64_MAX);
    struct store_accept *large = kit_accept_for(k, TO("bob@example.net"));
    kit_resize(large, 2 * LIMIT_BODY_CHUNK);
    assert_int_equal(RUN(k, STORE_ACCEPT, large), ERR_UNAVAILABLE);
    assert_int_equal(query(k, "SELECT count(*) FROM body"), 1);
    assert_int_equal(kit_settle(k, kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED)), OK);
    store_set_disk_floor(k->store, 0);
    struct store_message look = {.id = refused, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &look), ERR_NOT_FOUND);
    kit_accept(k, TO("bob@example.net"));
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_DELIVERED], 1);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_QUEUED], 1);
}

/* Part of it is on the disk and cannot even be removed: the next big body takes its place. */
static void what_is_left_of_a_big_body_goes_before_the_next(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    atomic_store(&fault.room, LIMIT_BATCH_BYTES + LIMIT_BATCH_BYTES / 2);
    atomic_store(&fault.write_rc, SQLITE_FULL);
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    kit_resize(q, 2 * LIMIT_BATCH_BYTES);
    assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
    assert_int_equal(query(k, "SELECT count(*) FROM upload"), 1);
    atomic_store(&fault.write_rc, SQLITE_OK);
    wait_writable(k, kit_box(k));
    q = kit_accept_for(k, TO("ann@example.net"));
    kit_resize(q, 2 * LIMIT_BODY_CHUNK);
    assert_int_equal(RUN(k, STORE_ACCEPT, q), OK);
    assert_int_equal(query(k, "SELECT count(*) FROM upload"), 0);
    assert_int_equal(query(k, "SELECT count(*) FROM body"), 2);
}

enum { LARGE_BYTES = 40 * LIMIT_BODY_CHUNK };

struct order {
    int answered, large_at, small_at;
};

static void large_is_in(struct store_call *call) {
    struct order *o = call->ctx;
    assert_int_equal(call->err, OK);
    o->large_at = ++o->answered;
}

static void small_is_in(struct store_call *call) {
    struct order *o = call->ctx;
    assert_int_equal(call->err, OK);
    o->small_at = ++o->answered;
}

static void nobody_waits_for_a_large_body_of_somebody_else(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct order o = {0};
    struct store_accept *large = kit_accept_for(k, TO("ann@example.net")),
                        *next = kit_accept_for(k, TO("bob@example.net")),
                        *small = kit_accept_for(k, TO("cid@example.net"));
    struct store_accept *both[] = {large, next};
    for (size_t i = 0; i < 2; i++) {
        kit_resize(both[i], LARGE_BYTES);
        both[i]->call.verb = STORE_ACCEPT;
        both[i]->call.reply_to = box;
        both[i]->call.done = large_is_in;
        both[i]->call.ctx = &o;
    }
    small->call.verb = STORE_ACCEPT;
    small->call.reply_to = box;
    small->call.done = small_is_in;
    small->call.ctx = &o;
    store_post(k->store, &large->call);
    store_post(k->store, &next->call);
    store_post(k->store, &small->call);
    while (o.answered < 3)
        mailbox_wait(box, -1);
    assert_int_equal(o.small_at, 1);
    assert_int_equal(query(k, "SELECT count(*) FROM upload"), 0);
    assert_int_equal(query(k, "SELECT count(*) FROM body WHERE length(content) = 262144"), 80);
    assert_true(next->message.seq > small->message.seq);
    store_call_release(&large->call);
    store_call_release(&next->call);
    store_call_release(&small->call);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_are_for_the_owner_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(the_file_has_small_pages_and_can_shrink, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_opener_is_told_who_has_the_store, setup, teardown),
        cmocka_unit_test_setup_teardown(what_the_folder_refuses_is_told_or_does_not_matter, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_no_folder_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(an_owner_without_a_name_is_an_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_store_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(
            a_repetition_finds_what_an_older_version_stored_for_a_test_key, setup, teardown),
        cmocka_unit_test_setup_teardown(an_older_store_finds_its_messages_in_smaller_buckets, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_older_store_learns_which_messages_are_tests, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_store_survives_closing, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_waits_for_a_large_body_of_somebody_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(below_the_floor_nothing_new_is_taken_but_results_are, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_was_under_way_at_a_stop_is_due_again_and_marked, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_was_under_way_at_a_stop_keeps_its_place_in_the_queue,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_under_way_at_two_stops_lets_others_go_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_was_confirmed_survives_a_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(a_call_that_fails_late_fails_alone, setup, teardown),
        cmocka_unit_test(a_handle_that_is_opened_again_leaves_the_others_their_locks),
        cmocka_unit_test_setup_teardown(a_file_that_is_not_there_any_more_is_waited_for, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_file_of_another_version_is_not_migrated_while_it_is_open,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_sync_closes_the_handle_and_it_comes_back,
                                        faulty_setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_write_closes_the_handle_and_it_comes_back,
                                        faulty_setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_refuses_until_there_is_room, faulty_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_disk_that_stays_full_is_told_of_once, faulty_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_disk_that_goes_on_failing_is_told_of_once, faulty_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_disk_that_syncs_no_more_is_told_of_once, faulty_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            what_was_refused_is_not_in_the_log_of_a_handle_that_came_back, faulty_setup, teardown),
        cmocka_unit_test_setup_teardown(a_commit_that_writes_nothing_is_no_sign_of_room,
                                        faulty_setup, teardown),
        cmocka_unit_test_setup_teardown(a_big_body_that_does_not_fit_leaves_nothing, faulty_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_left_of_a_big_body_goes_before_the_next,
                                        faulty_setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
