/* What the store does without memory and without locks: it says so, or ends the process with a
 * reason. Allocations and locks are made to fail by the linker (--wrap), in a process of its own
 * where that ends it. */
#include "tests/contract/store_kit.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "storage/store_ops.h"
#include "tests/unit/patience.h"

/* ---- in their place ---- */

static atomic_int locks_left = -1;  /* so many more are made, then one is not; -1: all are */
static atomic_bool is_memory_short; /* for what asks whether there is some */

static bool is_refused(void) {
    return locks_left >= 0 && locks_left-- == 0;
}

int __real_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a);
int __wrap_pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *a) {
    return is_refused() ? ENOMEM : __real_pthread_mutex_init(m, a);
}
int __real_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *a);
int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *a);
int __wrap_pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *a) {
    return is_refused() ? ENOMEM : __real_pthread_cond_init(c, a);
}
int __real_pthread_condattr_init(pthread_condattr_t *a);
int __wrap_pthread_condattr_init(pthread_condattr_t *a);
int __wrap_pthread_condattr_init(pthread_condattr_t *a) {
    return is_refused() ? ENOMEM : __real_pthread_condattr_init(a);
}
int __real_pthread_rwlock_init(pthread_rwlock_t *l, const pthread_rwlockattr_t *a);
int __wrap_pthread_rwlock_init(pthread_rwlock_t *l, const pthread_rwlockattr_t *a);
int __wrap_pthread_rwlock_init(pthread_rwlock_t *l, const pthread_rwlockattr_t *a) {
    return is_refused() ? ENOMEM : __real_pthread_rwlock_init(l, a);
}
void *__real_mem_try_zalloc(size_t n);
void *__wrap_mem_try_zalloc(size_t n);
void *__wrap_mem_try_zalloc(size_t n) {
    return is_memory_short ? NULL : __real_mem_try_zalloc(n);
}
static atomic_int registers_left = -1; /* so many more work, then one does not; -1: all do */

int __real_sqlite3_vfs_register(sqlite3_vfs *v, int is_default);
int __wrap_sqlite3_vfs_register(sqlite3_vfs *v, int is_default);
int __wrap_sqlite3_vfs_register(sqlite3_vfs *v, int is_default) {
    if (registers_left >= 0 && registers_left-- == 0)
        return SQLITE_NOMEM;
    return __real_sqlite3_vfs_register(v, is_default);
}
/* A build with counters writes down what was reached, also when it ends so. */
void __gcov_dump(void) __attribute__((weak));
_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);
_Noreturn void __wrap__exit(int status) {
    if (__gcov_dump != NULL)
        __gcov_dump();
    __real__exit(status);
}

/* ---- the process ends ---- */

/* The status with which a child ends that does this. */
static int end_of(void (*fn)(struct kit *k, int n), struct kit *k, int n) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(1);
        fn(k, n);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void open_without_lock(struct kit *k, int n) {
    locks_left = n;
    if (store_open(&k->options, &k->store, NULL) != OK)
        _exit(2);
    if (locks_left < 0)
        _exit(3); /* one was refused, and nobody noticed */
}

static void without_a_lock_it_does_not_start(void **state) {
    struct kit *k = *state;
    static const enum store_backend backends[] = {STORE_SQLITE, STORE_MEMORY};
    if (is_under_memcheck())
        skip(); /* what a child held when it ended would count as lost, and be its status */
    store_close(&k->store); /* no thread may live across a fork */
    for (size_t i = 0; i < 2; i++) {
        k->options.backend = backends[i];
        int n = 0, status;
        while ((status = end_of(open_without_lock, k, n)) != 0) {
            assert_int_equal(status, ERR_EXIT_MEMORY);
            n++;
        }
        print_message("%d locks\n", n);
        assert_true(n > 5);
    }
    k->options.backend = STORE_SQLITE;
    kit_open_with(k, k->options);
}

static void *no_memory(size_t n) {
    (void)n;
    mem_note_short();
    return NULL;
}

static void read_tags(struct kit *k, int n) {
    struct str *tags;
    if (n == 0)
        json_set_alloc_funcs(no_memory, free);
    if (tags_parse(STR("[\"\\u0061\"]"), k->arena, &tags) != 1)
        _exit(2);
}

/* Without its tags a message would be stored, and not found. */
static void without_memory_no_tag_is_left_out(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    assert_int_equal(end_of(read_tags, k, 0), ERR_EXIT_MEMORY);
    assert_int_equal(end_of(read_tags, k, 1), 0);
    kit_open_with(k, k->options);
}

/* ---- it says so ---- */

static void wait_writable(struct kit *k) {
    for (int i = 0; i < 100 && !store_health(k->store).is_writable; i++)
        mailbox_wait(kit_box(k), 100);
    assert_true(store_health(k->store).is_writable);
}

static struct store_accept *signed_message(struct kit *k, size_t size) {
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    message_unref(&q->content);
    struct message *plain = kit_content(q->message.id, size);
    char *prefix = mem_zalloc(5);
    memcpy(prefix, "a:b\r\n", 5);
    q->content = message_new_prefixed(plain, prefix, 5);
    message_unref(&plain);
    return q;
}

static void a_content_without_memory_is_neither_stored_nor_read(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    static const size_t sizes[] = {10, 3 * LIMIT_BODY_CHUNK};
    for (size_t i = 0; i < 2; i++) {
        struct store_accept *q = signed_message(k, sizes[i]);
        is_memory_short = true;
        assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
        is_memory_short = false;
        assert_non_null(strstr(q->call.info.text, "memory"));
        wait_writable(k);
        struct store_message gone = {.id = q->message.id, .project = 1};
        assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
        q = signed_message(k, sizes[i]);
        RUN_OK(k, STORE_ACCEPT, q);
        struct store_content c = {.id = q->message.id, .project = 1};
        is_memory_short = true;
        assert_int_equal(RUN(k, STORE_CONTENT, &c), ERR_UNAVAILABLE);
        is_memory_short = false;
        assert_null(c.message);
        assert_non_null(strstr(c.call.info.text, "memory"));
        RUN_OK(k, STORE_CONTENT, &c); /* the handle is well */
        assert_int_equal(message_size(c.message), 5 + sizes[i]);
        assert_memory_equal(message_bytes(c.message).piece[1].p, "a:b\r\n", 5);
        message_unref(&c.message);
    }
}

/* A later opening does what the first had no memory for. */
static void a_store_opens_when_there_is_memory_again(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    sqlite3_vfs *own = sqlite3_vfs_find("postchute");
    assert_non_null(own);
    assert_int_equal(sqlite3_vfs_unregister(own), SQLITE_OK);
    registers_left = 0;
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &k->store, &info), ERR_UNAVAILABLE);
    assert_non_null(strstr(info.text, "cannot open"));
    assert_int_equal(registers_left, -1);
    assert_int_equal(store_open(&k->options, &k->store, &info), OK);
    kit_accept(k, TO("ann@example.net"));
}

/* However many rows a migration changes: there are never more of them in memory than the cache
 * holds, of which the writer has 4 MiB. */
static void opens_with_its_cache_alone(struct kit *k, const char *sql) {
    char path[100];
    sqlite3 *db;
    snprintf(path, sizeof(path), "%s/outbox.db", k->folder);
    store_close(&k->store);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(db));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    sqlite3_memory_highwater(1);
    kit_open_with(k, k->options);
    assert_in_range(sqlite3_memory_highwater(0), 1, 8 << 20);
}

static void search_terms_are_moved_with_the_memory_of_the_cache(void **state) {
    opens_with_its_cache_alone(
        *state, "WITH n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 399999)"
                " INSERT INTO term (bucket, hash, seq)"
                " SELECT i / 8 / 4096, i * 7919 % 1000003, i / 8 + 1 FROM n;"
                "UPDATE counter SET next_message = 50001;"
                "PRAGMA user_version = 3");
}

static void test_messages_are_marked_with_the_memory_of_the_cache(void **state) {
    struct kit *k = *state;
    struct store_key_put key = {.key = {.project = 1,
                                        .id = id_new(k->now_wall_ms),
                                        .name = STR("ci"),
                                        .prefix = STR("pc_test_a"),
                                        .scopes = SCOPE_SEND,
                                        .is_test = true,
                                        .created_wall_ms = k->now_wall_ms}};
    RUN_OK(k, STORE_KEY_PUT, &key);
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->message.key_id = key.key.id;
    RUN_OK(k, STORE_ACCEPT, q);
    opens_with_its_cache_alone(
        k, "BEGIN;"
           "CREATE TEMP TABLE row AS SELECT * FROM message;"
           "CREATE TEMP TABLE number (n INTEGER PRIMARY KEY);"
           "CREATE TEMP TRIGGER again AFTER INSERT ON number BEGIN"
           " UPDATE row SET seq = new.n, id = randomblob(16), metadata = zeroblob(3000);"
           " INSERT INTO message SELECT * FROM row; END;"
           "WITH n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
           " INSERT INTO number SELECT i FROM n;"
           "ALTER TABLE message DROP COLUMN is_test;"
           "ALTER TABLE api_key DROP COLUMN rate;"
           "UPDATE counter SET next_message = 5001;"
           "PRAGMA user_version = 1;"
           "COMMIT");
    assert_true(kit_message(k, q->message.id).is_test);
    opens_with_its_cache_alone(k, "DELETE FROM message WHERE seq >= 10"); /* they have no rest */
}

int main(void) {
    /* as the store sets it, but with statistics: what comes first is what counts */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 1);
    sqlite3_config(SQLITE_CONFIG_STMTJRNL_SPILL, -1);
    sqlite3_initialize();
#define TEST(f) cmocka_unit_test_setup_teardown(f, kit_sqlite_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(without_a_lock_it_does_not_start),
        TEST(without_memory_no_tag_is_left_out),
        TEST(a_store_opens_when_there_is_memory_again),
        TEST(a_content_without_memory_is_neither_stored_nor_read),
        TEST(search_terms_are_moved_with_the_memory_of_the_cache),
        TEST(test_messages_are_marked_with_the_memory_of_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
