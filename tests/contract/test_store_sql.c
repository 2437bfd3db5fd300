/* T24: whatever words a message, a search, a key or an endpoint has, SQLite only ever sees the
 * constant texts of the program, those of storage/sqlite/sql.inc; the words are bound to them. */
#include "tests/contract/store_kit.h"
#include "tests/unit/log_watch.h"

#include <pthread.h>
#include <sqlite3.h>

#include "server/base/digest.h"

/* What no constant text has, and what would end a literal, begin a comment or a statement. */
#define MARK "zq7mark"
static const char *const hostile[] = {MARK "' OR '1'='1",
                                      MARK "\"; DROP TABLE message; --",
                                      MARK "`) UNION SELECT pem FROM key --",
                                      MARK "\\' OR 1=1 /*",
                                      MARK "%' ESCAPE '\\",
                                      MARK "?1 :a @b $c",
                                      MARK "'||(SELECT 1)||'"};
enum { HOSTILE = sizeof hostile / sizeof hostile[0] };

static const char *const constant[] = {
#define SQL(name, text) text,
#include "storage/sqlite/sql.inc"
#undef SQL
};
enum { CONSTANTS = sizeof constant / sizeof constant[0] };

/* The statements of opening and closing (pragmas, the schema) are literals of their own: from
 * `is_open` on there is the set and nothing else. */
static struct {
    pthread_mutex_t mu;
    bool is_open;
    size_t seen, bad;
    bool was_run[CONSTANTS];
    char first_bad[200];
} traced = {.mu = PTHREAD_MUTEX_INITIALIZER};

/* Its place in the set; CONSTANTS: it is none of them. */
static size_t find_constant(const char *sql) {
    size_t i = 0;
    while (i < CONSTANTS && strcmp(constant[i], sql) != 0)
        i++;
    return i;
}

/* On every thread of the store. */
static int on_statement(unsigned kind, void *ctx, void *statement, void *text) {
    (void)ctx, (void)text;
    const char *sql = kind == SQLITE_TRACE_STMT ? sqlite3_sql(statement) : NULL;
    if (sql == NULL)
        return 0;
    const size_t place = find_constant(sql);
    pthread_mutex_lock(&traced.mu);
    traced.seen++;
    if (place < CONSTANTS)
        traced.was_run[place] = true;
    if ((strstr(sql, MARK) != NULL || (traced.is_open && place == CONSTANTS)) && traced.bad++ == 0)
        snprintf(traced.first_bad, sizeof traced.first_bad, "%s", sql);
    pthread_mutex_unlock(&traced.mu);
    return 0;
}

static void now_open(bool is_open) {
    pthread_mutex_lock(&traced.mu);
    traced.is_open = is_open;
    pthread_mutex_unlock(&traced.mu);
}

static int on_open(sqlite3 *db, char **error, const struct sqlite3_api_routines *api) {
    (void)error, (void)api;
    return sqlite3_trace_v2(db, SQLITE_TRACE_STMT, on_statement, NULL);
}

static void put_message(struct kit *k, const char *words) {
    struct store_accept *q = kit_accept_for(k, TO("a@example.net"));
    q->message.message_id = q->message.mail_from = q->message.from_email = q->message.from_name =
        q->message.from_domain = q->message.subject = q->message.external_id = str_of(words);
    q->message.recipient[0].email = str_of(words);
    ((struct str *)q->queue_key)[0] = str_of(words);
    q->idempotency_key = str_of(words);
    RUN_OK(k, STORE_ACCEPT, q);
    kit_claim(k, q->message.recipient[0].key);
    struct settle_result r = kit_result(k, q->message.recipient[0].key, RECIPIENT_QUEUED);
    r.last.text = r.last.mx = r.last.tls = str_of(words);
    r.due_wall_ms = k->now_wall_ms + 1000;
    struct store_settle settle = {.result = &r, .count = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_SETTLE, &settle);
}

static void search(struct kit *k, const char *words) {
    struct str filters[5];
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 5; j++)
            filters[j] = j == i ? str_of(words) : STR_NONE;
        struct store_messages q = {.project = -1,
                                   .state = filters[0],
                                   .to = filters[1],
                                   .from = filters[2],
                                   .tag = filters[3],
                                   .external_id = filters[4],
                                   .limit = 10};
        (void)!RUN(k, STORE_MESSAGES, &q); /* a state that is none finds nothing or is refused */
        if (i == 1 || i == 2 || i == 4)
            assert_int_equal(q.count, 1); /* what was bound is found as it is */
    }
}

static void put_settings(struct kit *k, const char *words) {
    struct store_key_put key = {.key = {.id = id_new(k->now_wall_ms),
                                        .project = 1,
                                        .name = str_of(words),
                                        .prefix = str_of(words),
                                        .scopes = SCOPE_SEND,
                                        .created_wall_ms = k->now_wall_ms}};
    struct str list = str_of(words);
    key.key.from_domains = &list;
    key.key.from_domain_count = 1;
    digest_sha256(str_of(words), key.key.hash);
    RUN_OK(k, STORE_KEY_PUT, &key);
    struct store_webhook_put hook = {.webhook = {.id = id_new(k->now_wall_ms),
                                                 .project = 1,
                                                 .url = str_of(words),
                                                 .secret = str_of(words),
                                                 .events = &list,
                                                 .event_count = 1,
                                                 .description = str_of(words),
                                                 .created_wall_ms = k->now_wall_ms}};
    RUN_OK(k, STORE_WEBHOOK_PUT, &hook);
    struct store_domain_delete domain = {.name = str_of(words), .project = 1};
    assert_int_equal(RUN(k, STORE_DOMAIN_DELETE, &domain), ERR_NOT_FOUND);
}

/* What is none of the set is seen as such. */
static void test_a_statement_of_another_text_is_noticed(void **state) {
    (void)state;
    assert_true(find_constant(constant[0]) == 0);
    assert_true(find_constant("BEGIN IMMEDIATE ") == CONSTANTS);
    assert_true(find_constant("SELECT 1") == CONSTANTS);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_auto_extension((void (*)(void))on_open), SQLITE_OK);
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    now_open(true);
    assert_int_equal(sqlite3_exec(db, "SELECT 1", NULL, NULL, NULL), SQLITE_OK);
    now_open(false);
    sqlite3_close(db);
    sqlite3_reset_auto_extension();
    assert_int_equal(traced.bad, 1);
    assert_string_equal(traced.first_bad, "SELECT 1");
    traced.bad = traced.seen = 0;
    traced.first_bad[0] = '\0';
}

static void test_T24_no_word_is_ever_in_a_statement(void **state) {
    (void)state;
    assert_int_equal(sqlite3_auto_extension((void (*)(void))on_open), SQLITE_OK);
    struct kit *k = kit_new(STORE_SQLITE);
    now_open(true);
    for (size_t i = 0; i < HOSTILE; i++) {
        put_message(k, hostile[i]);
        search(k, hostile[i]);
        put_settings(k, hostile[i]);
    }
    now_open(false);
    kit_free(k);
    sqlite3_reset_auto_extension();
    size_t kinds = 0;
    for (size_t i = 0; i < CONSTANTS; i++)
        kinds += traced.was_run[i];
    assert_true(traced.seen > 100 && kinds > 30); /* it was looked at */
    if (traced.bad > 0)
        fail_msg("%zu statements are none of the constant set, first: %s", traced.bad,
                 traced.first_bad);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_statement_of_another_text_is_noticed),
        cmocka_unit_test(test_T24_no_word_is_ever_in_a_statement)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
