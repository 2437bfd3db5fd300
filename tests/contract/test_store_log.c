/* The write-ahead log stays short, however much is written and read at once. */
#include "tests/contract/store_kit.h"

#include <sys/stat.h>

enum {
    READS = 8,   /* always so many on their way */
    WRITES = 16, /* and so many of these */
    MESSAGES = 6000,
    BODY = 100000, /* together far more than the log may hold */
    LOG_MOST = 200 * 1000 * 1000,
};

struct reading {
    struct load *load;
    struct store_events q;
};

struct writing {
    struct load *load;
    struct store_accept q;
    struct recipient_row recipient;
    struct str key;
};

struct load {
    struct kit *k;
    struct mailbox *box;
    int to_write, under_way;
    bool is_over;
    int64_t reads;
    struct reading reading[READS];
    struct writing writing[WRITES];
};

static void read_on(struct reading *r);

static void was_read(struct store_call *c) {
    struct reading *r = c->ctx;
    assert_int_equal(c->err, OK);
    store_call_release(c);
    r->load->under_way--;
    r->load->reads++;
    if (!r->load->is_over)
        read_on(r);
}

static void read_on(struct reading *r) {
    r->q = (struct store_events){
        .call = {.verb = STORE_EVENTS, .reply_to = r->load->box, .done = was_read, .ctx = r},
        .project = 1,
        .limit = 1000};
    r->load->under_way++;
    store_post(r->load->k->store, &r->q.call);
}

static void write_on(struct writing *w);

static void was_written(struct store_call *c) {
    struct writing *w = c->ctx;
    assert_int_equal(c->err, OK);
    store_call_release(c);
    w->load->under_way--;
    if (w->load->to_write > 0)
        write_on(w);
}

static void write_on(struct writing *w) {
    struct kit *k = w->load->k;
    w->load->to_write--;
    w->load->under_way++;
    w->key = STR("example.net");
    w->recipient = (struct recipient_row){
        .email = STR("ann@example.net"), .state = RECIPIENT_SUPPRESSED, .due_wall_ms = 1};
    w->q = (struct store_accept){
        .call = {.verb = STORE_ACCEPT, .reply_to = w->load->box, .done = was_written, .ctx = w},
        .message = {.id = id_new(k->now_wall_ms),
                    .project = 1,
                    .created_wall_ms = k->now_wall_ms,
                    .expires_wall_ms = k->now_wall_ms + 1000,
                    .from_email = STR("shop@example.org"),
                    .lane = LANE_TRANSACTIONAL,
                    .recipient_count = 1,
                    .recipient = &w->recipient},
        .queue_key = &w->key,
        .now_wall_ms = k->now_wall_ms};
    w->q.content = kit_content(w->q.message.id, BODY);
    store_post(k->store, &w->q.call);
}

static void the_log_stays_short_under_writing_and_reading(void **state) {
    struct kit *k = *state;
    struct load *l = mem_zalloc(sizeof(*l));
    const char *log = arena_printf(k->arena, "%s/outbox.db-wal", k->folder).p;
    *l = (struct load){.k = k, .box = kit_box(k), .to_write = MESSAGES};
    for (int i = 0; i < READS; i++) {
        l->reading[i].load = l;
        read_on(&l->reading[i]);
    }
    for (int i = 0; i < WRITES; i++) {
        l->writing[i].load = l;
        write_on(&l->writing[i]);
    }
    int64_t longest = 0;
    while (l->under_way > 0) {
        mailbox_wait(l->box, -1);
        l->is_over = l->to_write == 0;
        struct stat st;
        if (stat(log, &st) == 0 && st.st_size > longest)
            longest = st.st_size;
    }
    if (longest > LOG_MOST)
        fail_msg("the log grew to %lld MB during %lld reads", (long long)longest / 1000000,
                 (long long)l->reads);
    assert_true(l->reads > 10);
    free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
        the_log_stays_short_under_writing_and_reading, kit_sqlite_setup, kit_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
