/* The contract of the outbox, on every backend. Who is told what was committed, and many at once.
 * After each test store_check() recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

#include "server/base/limits.h"
#include <sched.h>

#include "server/base/thread.h"

/* ---- notices ---- */

struct heard {
    size_t due, gone, message, complete, notify, keys, webhooks, domains;
    struct outgoing *outgoing;
    struct str key;
};

static void hear(struct store_notice *n) {
    struct heard *h = n->ctx;
    h->message += n->kind == NOTICE_MESSAGE;
    h->complete += n->kind == NOTICE_MESSAGE && n->is_complete;
    h->notify += n->kind == NOTICE_NOTIFY;
    h->keys += n->kind == NOTICE_KEYS;
    h->webhooks += n->kind == NOTICE_WEBHOOKS;
    h->domains += n->kind == NOTICE_DOMAINS;
    h->gone += n->kind == NOTICE_GONE ? n->due_count : 0;
    if (n->kind == NOTICE_DUE) {
        h->due += n->due_count;
        outgoing_unref(&h->outgoing);
        h->outgoing = outgoing_ref(n->due[0].outgoing);
    }
    store_notice_free(&n);
}

static void watchers_hear_of_what_was_committed(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct heard all = {0}, due = {0};
    store_watch(k->store, 0xFFFF, box, hear, &all);
    store_watch(k->store, NOTICE_DUE, box, hear, &due);
    kit_webhook(k, 1, "recipient.delivered");
    struct store_accept *q = kit_keyed(k, "key", 1);
    struct message *content = message_ref(q->content);
    RUN_OK(k, STORE_ACCEPT, q);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 2)), ERR_CONFLICT);
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
    mailbox_wait(box, 0);
    assert_int_equal(all.due, 1); /* not of the refused one, not of the replay */
    assert_int_equal(due.due, 1);
    assert_int_equal(all.webhooks, 1);
    assert_int_equal(due.webhooks, 0);
    assert_true(all.outgoing->message == content); /* it rides along */
    kit_attempt(k, q->message.recipient[0].key, RECIPIENT_DELIVERED);
    struct message_row *m = kit_accept(k, TO("b@example.net", "c@example.net"));
    struct store_cancel x = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_CANCEL, &x);
    mailbox_wait(box, 0);
    assert_int_equal(all.message, 2);
    assert_int_equal(all.complete, 2);
    assert_true(all.notify >= 1);
    assert_int_equal(all.due, 3);
    assert_int_equal(all.gone, 2);
    store_unwatch(k->store, box);
    kit_accept(k, TO("d@example.net"));
    mailbox_wait(box, 0);
    assert_int_equal(all.due, 3);
    outgoing_unref(&all.outgoing);
    outgoing_unref(&due.outgoing);
    message_unref(&content);
}

static void watchers_hear_of_a_retry_and_of_an_endpoint_that_fails(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct heard h = {0};
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    store_watch(k->store, 0xFFFF, box, hear, &h);
    struct store_retry q = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RETRY, &q);
    mailbox_wait(box, 0);
    assert_int_equal(h.due, 1);
    assert_int_equal(h.message, 1);
    assert_int_equal(h.complete, 0); /* it goes on */
    struct notify_result failed = {.seq = c->notification[0].seq,
                                   .state = NOTIFICATION_FAILED,
                                   .counts = true,
                                   .mark_failing = true};
    assert_int_equal(kit_notify_settle(k, failed), OK);
    mailbox_wait(box, 0);
    assert_int_equal(h.webhooks, 1);
    store_unwatch(k->store, box);
    outgoing_unref(&h.outgoing);
}

static void large_and_too_many_contents_do_not_ride_along(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct heard h = {0};
    store_watch(k->store, NOTICE_DUE, box, hear, &h);
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    kit_resize(q, LIMIT_BODY_CHUNK + 1);
    RUN_OK(k, STORE_ACCEPT, q);
    mailbox_wait(box, 0);
    assert_null(h.outgoing->message);
    outgoing_unref(&h.outgoing);
    /* 2 MiB of 256 KiB each are carried; no more until some are let go */
    for (int i = 0; i < 30; i++) {
        q = kit_accept_for(k, TO("ann@example.net"));
        kit_resize(q, LIMIT_BODY_CHUNK);
        RUN_OK(k, STORE_ACCEPT, q);
    }
    size_t carried = 0, count = 0;
    struct note *list = mailbox_take(box, 0), *next;
    for (struct note *n = list; n != NULL; n = n->next, count++)
        carried += CONTAINER_OF(n, struct store_notice, note)->due[0].outgoing->message != NULL;
    assert_int_equal(count, 30);
    assert_int_equal(carried, 8);
    for (struct note *n = list; n != NULL; n = next) {
        next = n->next;
        n->run(n);
    }
    outgoing_unref(&h.outgoing);
    q = kit_accept_for(k, TO("ann@example.net"));
    RUN_OK(k, STORE_ACCEPT, q);
    mailbox_wait(box, 0);
    assert_non_null(h.outgoing->message);
    outgoing_unref(&h.outgoing);
    store_unwatch(k->store, box);
}

/* ---- many threads ---- */

enum { WORKERS = 4, EACH = 60 };
struct worker {
    struct kit *k;
    struct thread *thread;
    struct store_accept *q[EACH];
};

static void work(void *arg) {
    struct worker *w = arg;
    for (int i = 0; i < EACH; i++) {
        struct store_accept *q = w->q[i];
        q->call.verb = STORE_ACCEPT;
        ASSERT(store_sync(w->k->store, &q->call) == OK);
        recipient_key_t key = q->message.recipient[0].key;
        bool is_claimed = false;
        struct store_claim c = {.call = {.verb = STORE_CLAIM},
                                .key = &key,
                                .count = 1,
                                .now_wall_ms = w->k->now_wall_ms,
                                .is_claimed = &is_claimed};
        ASSERT(store_sync(w->k->store, &c.call) == OK && is_claimed);
        struct settle_result r =
            kit_result(w->k, key, i % 3 == 0 ? RECIPIENT_QUEUED : RECIPIENT_DELIVERED);
        struct store_settle s = {.call = {.verb = STORE_SETTLE},
                                 .result = &r,
                                 .count = 1,
                                 .now_wall_ms = w->k->now_wall_ms};
        ASSERT(store_sync(w->k->store, &s.call) == OK);
        struct store_message m = {
            .call = {.verb = STORE_MESSAGE}, .id = q->message.id, .project = 1};
        ASSERT(store_sync(w->k->store, &m.call) == OK);
        ASSERT(m.message.recipient[0].state == r.state); /* sees what was done before */
        store_call_release(&m.call);
    }
}

static size_t reading_threads(void) {
    size_t count = 0;
    DIR *d = opendir("/proc/self/task");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "r");
        if (f != NULL && fgets(name, sizeof(name), f) != NULL)
            count += strncmp(name, "store-read-", 11) == 0;
        if (f != NULL)
            fclose(f);
    }
    closedir(d);
    return count;
}

static void as_many_threads_read_as_are_asked_for(void **state) {
    struct kit *k = *state;
    static const size_t readers[] = {0, 1, 2, 5};
    for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
        size_t want = readers[i] == 0 ? 2 : readers[i];
        k->options.readers = readers[i];
        kit_reopen(k);
        /* a thread gives itself its name */
        for (int n = 0; n < 1000 && reading_threads() != want; n++)
            mailbox_wait(kit_box(k), 10);
        assert_int_equal(reading_threads(), want);
    }
}

static void many_threads_share_the_store(void **state) {
    struct kit *k = *state;
    k->failing_budget = 0; /* others call meanwhile */
    kit_webhook(k, 1, "*");
    struct worker w[WORKERS] = {{.k = k}, {.k = k}, {.k = k}, {.k = k}};
    for (int i = 0; i < WORKERS; i++)
        for (int j = 0; j < EACH; j++)
            w[i].q[j] = kit_accept_for(k, j % 2 ? TO("a@one.example") : TO("b@two.example"));
    for (int i = 0; i < WORKERS; i++)
        w[i].thread = thread_start("worker", work, &w[i]);
    for (int i = 0; i < WORKERS; i++)
        thread_join(&w[i].thread);
    struct store_totals t = kit_totals(k);
    assert_int_equal(t.accepted, WORKERS * EACH);
    assert_int_equal(t.by_state[RECIPIENT_QUEUED], WORKERS * EACH / 3);
    /* accepted, deferred | delivered, completed */
    assert_int_equal(t.notifications_pending,
                     WORKERS * EACH + WORKERS * EACH + WORKERS * EACH * 2 / 3);
}

/* Whoever begins to watch and then reads misses nothing, whatever is being committed meanwhile. */
struct seen {
    recipient_key_t key;
    bool is_told, is_answered;
};

static void see(struct store_notice *n) {
    struct seen *s = n->ctx;
    for (size_t i = 0; i < n->due_count; i++)
        s->is_told |= n->due[i].key == s->key || s->key == 0;
    store_notice_free(&n);
}

static void saw(struct store_call *c) {
    struct store_accept *q = CONTAINER_OF(c, struct store_accept, call);
    struct seen *s = c->ctx;
    assert_int_equal(c->err, OK);
    s->key = q->message.recipient[0].key;
    s->is_answered = true;
}

static void a_watch_that_begins_in_a_commit_misses_nothing(void **state) {
    struct kit *k = *state;
    k->failing_budget = 0; /* others call meanwhile */
    struct mailbox *box = kit_box(k);
    for (int i = 0; i < 300; i++) {
        struct seen s = {0};
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->call =
            (struct store_call){.verb = STORE_ACCEPT, .reply_to = box, .done = saw, .ctx = &s};
        store_post(k->store, &q->call);
        if (i % 3 == 0)
            sched_yield();
        store_watch(k->store, NOTICE_DUE, box, see, &s);
        struct store_due *d = kit_due(k, k->now_wall_ms);
        while (!s.is_answered)
            mailbox_wait(box, -1);
        mailbox_wait(box, 0);
        for (size_t r = 0; r < d->count; r++)
            s.is_told |= d->due[r].key == s.key;
        kit_due_release(d);
        store_unwatch(k->store, box);
        mailbox_wait(box, 0);
        if (!s.is_told)
            fail_msg("the recipient of turn %d was neither told nor read", i);
        kit_attempt(k, s.key, RECIPIENT_DELIVERED);
    }
}

#define TESTS(T)                                                                                   \
    T(watchers_hear_of_what_was_committed),                                                        \
        T(watchers_hear_of_a_retry_and_of_an_endpoint_that_fails),                                 \
        T(large_and_too_many_contents_do_not_ride_along),                                          \
        T(as_many_threads_read_as_are_asked_for), T(many_threads_share_the_store),                 \
        T(a_watch_that_begins_in_a_commit_misses_nothing)

MAIN_ON_EVERY_BACKEND(TESTS)
