/* T24: whatever words a message, a search, a key or an endpoint has, SQLite only ever sees the
 * constant texts of the program; the words are bound to them. */
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

static struct {
    pthread_mutex_t mu;
    size_t seen, bad;
    char first_bad[200];
} traced = {.mu = PTHREAD_MUTEX_INITIALIZER};

/* On every thread of the store. */
static int on_statement(unsigned kind, void *ctx, void *statement, void *text) {
    (void)ctx, (void)text;
    const char *sql = kind == SQLITE_TRACE_STMT ? sqlite3_sql(statement) : NULL;
    pthread_mutex_lock(&traced.mu);
    traced.seen += sql != NULL;
    if (sql != NULL && strstr(sql, MARK) != NULL && traced.bad++ == 0)
        snprintf(traced.first_bad, sizeof traced.first_bad, "%s", sql);
    pthread_mutex_unlock(&traced.mu);
    return 0;
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

static void test_T24_no_word_is_ever_in_a_statement(void **state) {
    (void)state;
    assert_int_equal(sqlite3_auto_extension((void (*)(void))on_open), SQLITE_OK);
    struct kit *k = kit_new(STORE_SQLITE);
    for (size_t i = 0; i < HOSTILE; i++) {
        put_message(k, hostile[i]);
        search(k, hostile[i]);
        put_settings(k, hostile[i]);
    }
    kit_free(k);
    sqlite3_reset_auto_extension();
    assert_true(traced.seen > 100); /* it was looked at */
    if (traced.bad > 0)
        fail_msg("%zu statements hold a word of somebody else's, first: %s", traced.bad,
                 traced.first_bad);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_T24_no_word_is_ever_in_a_statement)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
