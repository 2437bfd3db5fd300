/* The committer over a backend that does what the test says: which calls share a transaction, what
 * becomes of the others when one fails, and of the store when a transaction is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "server/base/limits.h"
#include "server/base/thread.h"
#include "storage/store_ops.h"
#include "tests/unit/log_watch.h"

enum { CALLS = 16 };

/* ---- the backend ---- */

struct backend {
    int number;
};

/* What it answers, and what it was asked. Set while no call is under way. */
static struct {
    enum err begin, commit, savepoint, release, rollback_to;
    bool stage_fails;
    atomic_bool writes_nothing;
    enum err write[2][CALLS]; /* of the n-th call of a batch, at the first and the second try */
    int64_t writes[CALLS];    /* ... after having written so many rows */
    _Atomic(enum backend_status) status;
    _Atomic(enum err) open, probe;
    atomic_int opened, closed, probed;
    int begun, committed, rolled_back, savepoints, staged, unstaged;
    int turn; /* of the batch: 0, 1 */
    size_t at, batch_size[CALLS];
    int64_t changes;
    sem_t stopping;
    sem_t entered, go_on; /* the first write of a batch waits when `holds` */
    atomic_bool holds;
    atomic_int naps_most; /* at so many of its naps somebody comes */
    struct world *world;
    struct store_key_put napping[CALLS];
    int naps;
} f;

static enum err fake_open(const struct store_options *o, const struct backend_file *was,
                          struct backend **out, struct errinfo *info) {
    (void)o;
    assert_non_null(was); /* claims of jobs that live are theirs */
    assert_int_equal(was->inode, 4711);
    if (f.open != OK)
        return err_set(info, f.open, "store", "still broken");
    *out = mem_zalloc(sizeof(**out));
    (*out)->number = ++f.opened;
    f.status = BACKEND_READY;
    return OK;
}
static void fake_file(const struct backend *b, struct backend_file *out) {
    (void)b;
    out->inode = 4711;
}
static void fake_close(struct backend **bp) {
    f.closed += *bp != NULL;
    free(*bp);
    *bp = NULL;
}
static enum err fake_begin(struct backend *b) {
    assert_non_null(b);
    f.at = 0;
    f.begun++;
    return f.begin;
}
static enum err fake_commit(struct backend *b) {
    (void)b;
    f.batch_size[f.committed++ % CALLS] = f.at;
    f.turn = 0;
    return f.commit;
}
static void fake_rollback(struct backend *b) {
    (void)b;
    f.rolled_back++;
    f.turn = 1;
}
static enum err fake_savepoint(struct backend *b) {
    (void)b;
    f.savepoints++;
    return f.savepoint;
}
static enum err fake_release(struct backend *b) {
    (void)b;
    return f.release;
}
static enum err fake_rollback_to(struct backend *b) {
    (void)b;
    return f.rollback_to;
}
static int64_t fake_changes(const struct backend *b) {
    (void)b;
    return f.changes;
}
static bool fake_has_written(const struct backend *b) {
    (void)b;
    return !f.writes_nothing;
}
static enum backend_status fake_status(const struct backend *b) {
    (void)b;
    return f.status;
}
static const char *fake_text(const struct backend *b) {
    (void)b;
    return "as the test says";
}
static size_t fake_stage(struct backend *b, struct store_call *call, size_t at) {
    (void)b;
    assert_int_equal(call->verb, STORE_ACCEPT);
    size_t size = message_size(CONTAINER_OF(call, struct store_accept, call)->content);
    f.staged++;
    if (f.stage_fails)
        f.status = BACKEND_FULL;
    return at + LIMIT_BODY_CHUNK < size ? at + LIMIT_BODY_CHUNK : size;
}
static void fake_unstage(struct backend *b) {
    (void)b;
    f.unstaged++;
}
static enum err fake_probe(struct backend *b) {
    (void)b;
    f.probed++;
    return f.probe;
}
static void fake_totals(const struct backend *b, int64_t *accepted, int64_t by_state[]) {
    (void)b;
    *accepted = 1;
    by_state[RECIPIENT_QUEUED] = 1;
}
static enum err fake_write(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)b;
    if (atomic_exchange(&f.holds, false)) {
        sem_post(&f.entered);
        sem_wait(&f.go_on);
    }
    size_t n = f.at++;
    f.changes += f.writes[n % CALLS];
    effects_kind(fx, NOTICE_KEYS);
    (void)store_call_arena(call);
    enum err e = f.write[f.turn][n % CALLS];
    return e == OK ? OK : err_set(&call->info, e, "", "as the test says");
}

static const struct store_ops fake_ops = {
    .name = "fake",
    .open = fake_open,
    .file = fake_file,
    .close = fake_close,
    .begin = fake_begin,
    .commit = fake_commit,
    .rollback = fake_rollback,
    .savepoint = fake_savepoint,
    .savepoint_release = fake_release,
    .savepoint_rollback = fake_rollback_to,
    .change_count = fake_changes,
    .has_written = fake_has_written,
    .status = fake_status,
    .status_text = fake_text,
    .stage = fake_stage,
    .unstage = fake_unstage,
    .probe = fake_probe,
    .totals = fake_totals,
    .write =
        {
            [STORE_ACCEPT] = fake_write,
            [STORE_CLAIM] = fake_write,
            [STORE_SETTLE] = fake_write,
            [STORE_CANCEL] = fake_write,
            [STORE_RETRY] = fake_write,
            [STORE_EXPIRE] = fake_write,
            [STORE_RETAIN] = fake_write,
            [STORE_MEND] = fake_write,
            [STORE_NOTIFY_REPLAY] = fake_write,
            [STORE_KEY_PUT] = fake_write,
            [STORE_KEYS_USED] = fake_write,
        },
};

/* ---- what the test has ---- */

/* The disk (--wrap). */
static atomic_llong disk_free_bytes; /* -1: it cannot be asked */
int __wrap_statvfs(const char *path, struct statvfs *out);
int __wrap_statvfs(const char *path, struct statvfs *out) {
    (void)path;
    long long free_bytes = disk_free_bytes;
    if (free_bytes < 0)
        return -1;
    *out = (struct statvfs){.f_frsize = 1, .f_bavail = (fsblkcnt_t)free_bytes};
    return 0;
}

struct world {
    struct committer *c;
    struct watch_list *watches;
    struct content_budget *budget;
    struct mailbox *box;
    size_t done;
    int heard;
    struct store_key_put first; /* see hold() */
};

static void heard(struct store_notice *n) {
    ++*(int *)n->ctx;
    store_notice_free(&n);
}

static int setup(void **state) {
    struct world *w = *state = mem_zalloc(sizeof(*w));
    memset(&f, 0, sizeof(f));
    disk_free_bytes = INT64_MAX;
    sem_init(&f.entered, 0, 0);
    sem_init(&f.go_on, 0, 0);
    sem_init(&f.stopping, 0, 0);
    w->box = mailbox_new();
    w->watches = watch_list_new();
    w->budget = content_budget_new(1000);
    watch_list_add(w->watches, NOTICE_KEYS, w->box, heard, &w->heard);
    struct backend *b = mem_zalloc(sizeof(*b));
    f.opened = 1;
    w->c = committer_start(&fake_ops, &(struct store_options){.folder = "/nonexistent/folder"}, b,
                           NULL, w->watches, w->budget);
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    committer_stop(&w->c);
    assert_int_equal(f.opened, f.closed);
    watch_list_free(&w->watches);
    watch_list_free(&w->watches);
    content_budget_unref(&w->budget);
    mailbox_free(&w->box);
    sem_destroy(&f.entered);
    sem_destroy(&f.go_on);
    sem_destroy(&f.stopping);
    free(w);
    return 0;
}

static void done(struct store_call *call) {
    struct world *w = call->ctx;
    w->done++;
}

static void post(struct world *w, struct store_call *call, enum store_verb verb) {
    *call = (struct store_call){.verb = verb, .reply_to = w->box, .done = done, .ctx = w};
    committer_post(w->c, call);
}

static void wait_done(struct world *w, size_t count) {
    while (w->done < count)
        mailbox_wait(w->box, -1);
}

static enum err run(struct world *w, enum store_verb verb) {
    struct store_key_put q = {0}; /* nothing of it is looked at */
    size_t before = w->done;
    post(w, &q.call, verb);
    wait_done(w, before + 1);
    store_call_release(&q.call);
    return q.call.err;
}

/* The first call has a transaction to itself, which is under way until it is let go: what is posted
 * meanwhile shares the next ones. */
static void hold(struct world *w) {
    w->done = 0;
    f.holds = true;
    post(w, &w->first.call, STORE_KEY_PUT);
    sem_wait(&f.entered);
}

static void first_is_done(struct world *w) {
    assert_int_equal(w->first.call.err, OK);
    store_call_release(&w->first.call);
}

/* And waits for so many that were posted behind it. */
static void let_go(struct world *w, size_t count) {
    sem_post(&f.go_on);
    wait_done(w, count + 1);
    first_is_done(w);
}

/* The next transaction is held, too. */
static void hold_next(void) {
    f.holds = true;
    sem_post(&f.go_on);
    sem_wait(&f.entered);
}

static void run_batch(struct world *w, struct store_key_put *q, size_t count) {
    hold(w);
    for (size_t i = 0; i < count; i++)
        post(w, &q[i].call, STORE_KEY_PUT);
    let_go(w, count);
    f.begun = f.committed = f.rolled_back = f.savepoints = 0;
}

static void release(struct store_key_put *q, size_t count) {
    for (size_t i = 0; i < count; i++)
        store_call_release(&q[i].call);
}

/* Many calls in one transaction, and what the next one shares. */
static void post_many(struct world *w, struct store_key_put *q, int count) {
    for (int i = 0; i < count; i++)
        post(w, &q[i].call, STORE_KEY_PUT);
}

static bool becomes_writable(struct world *w) {
    for (int i = 0; i < 200 && !committer_health(w->c).is_writable; i++)
        mailbox_wait(w->box, 50);
    return committer_health(w->c).is_writable;
}

/* A nap of the committer (--wrap). The nap is none; at the first ones somebody comes. */
int __real_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left) {
    (void)t;
    (void)left;
    if (f.naps < f.naps_most)
        post(f.world, &f.napping[f.naps].call, STORE_KEY_PUT);
    f.naps++;
    return 0;
}

/* Whoever stops it has told it so, and waits for its end. */
void __real_thread_join(struct thread **tp);
void __wrap_thread_join(struct thread **tp);
void __wrap_thread_join(struct thread **tp) {
    sem_post(&f.stopping);
    __real_thread_join(tp);
}

/* ---- one fails ---- */

static void a_refusal_disturbs_nobody(void **state) {
    struct world *w = *state;
    struct store_key_put q[4] = {0};
    hold(w);
    for (int i = 0; i < 4; i++)
        post(w, &q[i].call, STORE_KEY_PUT);
    /* not before the first is through: it is the first of its batch, too */
    let_go(w, 4);
    release(q, 4);
    assert_int_equal(f.batch_size[1], 4); /* they shared one */
    f.write[0][1] = ERR_CONFLICT;
    f.write[0][2] = ERR_NOT_FOUND;
    run_batch(w, q, 4);
    assert_int_equal(q[0].call.err, OK);
    assert_int_equal(q[1].call.err, ERR_CONFLICT);
    assert_int_equal(q[2].call.err, ERR_NOT_FOUND);
    assert_int_equal(q[3].call.err, OK);
    assert_null(q[1].call.arena);
    assert_non_null(q[0].call.arena);
    release(q, 4);
}

static void who_fails_after_writing_fails_alone_at_the_second_try(void **state) {
    struct world *w = *state;
    static const struct {
        enum err e;
        int writes;
        int rolled_back;
    } rows[] = {{ERR_CONFLICT, 0, 0}, {ERR_CONFLICT, 1, 1}, {ERR_INTERNAL, 0, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_key_put q[3] = {0};
        f.begun = f.rolled_back = f.savepoints = 0;
        hold(w);
        for (int k = 0; k < 3; k++)
            post(w, &q[k].call, STORE_KEY_PUT);
        f.write[0][1] = f.write[1][1] = rows[i].e;
        f.writes[1] = rows[i].writes;
        let_go(w, 3);
        assert_int_equal(q[0].call.err, OK);
        assert_int_equal(q[1].call.err, rows[i].e);
        assert_int_equal(q[2].call.err, OK);
        assert_int_equal(f.rolled_back, rows[i].rolled_back);
        assert_int_equal(f.savepoints, 3 * rows[i].rolled_back);
        assert_int_equal(f.begun, 2 + rows[i].rolled_back);
        release(q, 3);
    }
}

static void a_savepoint_that_fails_loses_the_batch(void **state) {
    expect_log("a transaction was lost");
    struct world *w = *state;
    f.write[0][0] = ERR_INTERNAL;
    f.savepoint = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_int_equal(f.rolled_back, 2);
    f.savepoint = OK;
    f.release = ERR_UNAVAILABLE;
    f.turn = 0;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    f.release = OK;
    f.turn = 0;
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    f.write[1][0] = ERR_INTERNAL;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_INTERNAL);
    f.rollback_to = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_true(committer_health(w->c).is_writable); /* the handle is well */
}

/* ---- all fail ---- */

static void nobody_is_told_of_what_is_not_committed(void **state) {
    expect_log("a transaction was lost");
    struct world *w = *state;
    f.commit = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->heard, 0);
    f.commit = OK;
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->heard, 1);
    f.write[0][0] = ERR_CONFLICT;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_CONFLICT);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->heard, 1);
    f.write[0][0] = OK;
    f.begin = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    f.begin = OK;
    f.write[0][0] = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_int_equal(f.closed, 0);
}

static void a_broken_handle_is_closed_and_opened_until_it_works(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    f.status = BACKEND_BROKEN;
    f.open = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_int_equal(f.closed, 1);
    struct store_health h = committer_health(w->c);
    assert_false(h.is_writable);
    assert_string_equal(h.text, "as the test says");
    int begun = f.begun;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_int_equal(f.begun, begun); /* there is nothing to begin on */
    while (strcmp(committer_health(w->c).text, "still broken") != 0)
        mailbox_wait(w->box, 50);
    f.open = OK;
    assert_true(becomes_writable(w));
    assert_int_equal(f.opened, 2);
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
}

static void a_full_disk_is_probed_until_there_is_room(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    f.status = BACKEND_FULL;
    f.probe = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_false(committer_health(w->c).is_writable);
    while (f.probed == 0)
        mailbox_wait(w->box, 50);
    assert_false(committer_health(w->c).is_writable);
    f.probe = OK;
    assert_true(becomes_writable(w));
    assert_int_equal(f.closed, 0);
    /* a commit shows it, too */
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    assert_false(committer_health(w->c).is_writable);
    f.probe = ERR_UNAVAILABLE;
    f.status = BACKEND_READY;
    f.writes_nothing = true; /* but one that wrote nothing needed no room */
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    assert_false(committer_health(w->c).is_writable);
    f.writes_nothing = false;
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    assert_true(committer_health(w->c).is_writable);
}

/* The next probe and the one after it have ended: the answers of this one were seen. */
static void wait_for_probes(struct world *w) {
    int before = f.probed;
    while (f.probed < before + 2)
        mailbox_wait(w->box, 50);
}

static void a_few_pages_that_fit_are_no_room(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    f.status = BACKEND_FULL;
    f.probe = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    disk_free_bytes = LIMIT_BATCH_BYTES - 1;
    wait_for_probes(w);
    f.status = BACKEND_READY;
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    assert_false(committer_health(w->c).is_writable);
    f.probe = OK;
    wait_for_probes(w);
    assert_false(committer_health(w->c).is_writable);
    f.writes_nothing = true;
    disk_free_bytes = LIMIT_BATCH_BYTES;
    wait_for_probes(w);
    assert_false(committer_health(w->c).is_writable);
    f.writes_nothing = false;
    assert_true(becomes_writable(w));
}

/* What opens and cannot be written to is closed again. */
static void a_handle_that_came_back_has_written(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    f.status = BACKEND_BROKEN;
    f.probe = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    while (f.closed < 3)
        mailbox_wait(w->box, 50);
    assert_false(committer_health(w->c).is_writable);
    f.probe = OK;
    assert_true(becomes_writable(w));
    assert_int_equal(f.opened, f.closed + 1);
}

/* ---- contents that go in before ---- */

static enum err run_large(struct world *w, size_t bytes) {
    struct store_accept q = {0};
    size_t before = w->done;
    q.call = (struct store_call){.verb = STORE_ACCEPT, .reply_to = w->box, .done = done, .ctx = w};
    struct id id = {{1}};
    q.content = message_new(&id, mem_zalloc(bytes + 1), bytes);
    committer_post(w->c, &q.call);
    wait_done(w, before + 1);
    assert_null(q.content);
    store_call_release(&q.call);
    return q.call.err;
}

static void a_large_content_goes_in_first_and_what_is_unused_out_again(void **state) {
    expect_log("a transaction was lost");
    expect_log("the store is not writable");
    struct world *w = *state;
    assert_int_equal(run_large(w, LIMIT_BODY_CHUNK), OK);
    assert_int_equal(f.staged, 0);
    f.committed = 0;
    assert_int_equal(run_large(w, 2 * LIMIT_BODY_CHUNK + 1), OK);
    assert_int_equal(f.staged, 3);
    assert_int_equal(f.committed, 4); /* a piece each, then the verb */
    assert_int_equal(f.unstaged, 1);
    f.stage_fails = true;
    assert_int_equal(run_large(w, LIMIT_BODY_CHUNK + 1), ERR_UNAVAILABLE);
    assert_int_equal(f.unstaged, 2);
    f.stage_fails = false;
    f.status = BACKEND_READY;
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
    f.status = BACKEND_BROKEN; /* then there is nothing to remove it from */
    assert_int_equal(run_large(w, LIMIT_BODY_CHUNK + 1), ERR_UNAVAILABLE);
    assert_int_equal(f.staged, 5);
    assert_int_equal(f.unstaged, 2);
    assert_int_equal(run_large(w, LIMIT_BODY_CHUNK + 1),
                     ERR_UNAVAILABLE); /* and nothing to write to */
    assert_int_equal(f.staged, 5);
}

/* ---- what shares a transaction ---- */

static void a_batch_ends_at_its_limits(void **state) {
    struct world *w = *state;
    struct store_claim q[4] = {0};
    struct store_accept a[4] = {0};
    struct id id = {{1}};
    hold(w);
    static const size_t counts[] = {600, 400, 1, 5000};
    for (int i = 0; i < 4; i++) {
        post(w, &q[i].call, STORE_CLAIM);
        q[i].count = counts[i];
    }
    for (int i = 0; i < 4; i++) {
        a[i].content = message_new(&id, mem_zalloc(1001), 1000);
        post(w, &a[i].call, STORE_ACCEPT);
    }
    let_go(w, 8);
    for (int i = 0; i < 4; i++) {
        store_call_release(&q[i].call);
        store_call_release(&a[i].call);
    }
    assert_int_equal(f.batch_size[0], 1);
    assert_int_equal(f.batch_size[1], 2); /* 600 and 400 rows */
    assert_int_equal(f.batch_size[2], 1); /* 1, for the next is too large for any */
    assert_int_equal(f.batch_size[3], 1);
    assert_int_equal(f.batch_size[4], 4);
    assert_int_equal(f.committed, 5);
}

/* A call can write more than it weighs: its events go to each endpoint that wants them. The others
 * go in next, in their order, as if they had waited. */
static void a_batch_ends_when_much_was_written(void **state) {
    struct world *w = *state;
    struct store_key_put q[5] = {0};
    struct store_claim p[2] = {0};
    hold(w);
    post_many(w, q, 5);
    for (int i = 0; i < 2; i++)
        post(w, &p[i].call, STORE_CLAIM);
    f.writes[0] = LIMIT_BATCH_CHANGES / 2;
    f.writes[2] = LIMIT_BATCH_CHANGES / 2;
    f.write[0][1] = ERR_CONFLICT;
    let_go(w, 7);
    assert_int_equal(f.batch_size[1], 3);
    assert_int_equal(f.batch_size[2], 3);
    assert_int_equal(f.batch_size[3], 1);
    assert_int_equal(f.committed, 4);
    for (int i = 0; i < 5; i++)
        assert_int_equal(q[i].call.err, i == 1 || i == 4 ? ERR_CONFLICT : OK);
    assert_int_equal(p[0].call.err, OK);
    store_call_release(&p[0].call);
    store_call_release(&p[1].call);
    release(q, 5);
}

/* What was not run yet is not lost with those that were, and a try with savepoints ends, too. */
static void what_is_left_of_a_batch_shares_no_failure(void **state) {
    expect_log("a transaction was lost");
    struct world *w = *state;
    struct store_key_put q[3] = {0};
    hold(w);
    post_many(w, q, 3);
    f.writes[1] = LIMIT_BATCH_CHANGES;
    f.write[0][1] = ERR_CONFLICT;
    f.write[1][1] = ERR_CONFLICT;
    let_go(w, 3);
    assert_int_equal(f.batch_size[1], 2);
    assert_int_equal(f.batch_size[2], 1);
    assert_int_equal(f.rolled_back, 1);
    assert_int_equal(f.savepoints, 2);
    assert_int_equal(q[0].call.err, OK);
    assert_int_equal(q[1].call.err, ERR_CONFLICT);
    assert_int_equal(q[2].call.err, OK);
    release(q, 3);
    f.write[0][1] = f.write[1][1] = OK;
    f.writes[0] = LIMIT_BATCH_CHANGES;
    f.writes[1] = 0;
    hold(w);
    post_many(w, q, 3);
    hold_next();
    f.commit = ERR_UNAVAILABLE;
    hold_next();
    f.commit = OK;
    let_go(w, 3);
    assert_int_equal(q[0].call.err, ERR_UNAVAILABLE);
    assert_int_equal(q[1].call.err, OK);
    assert_int_equal(q[2].call.err, OK);
    release(q, 3);
}

/* The one whose content is all in comes last, and is not put off for ever, whether others of its
 * batch are put back or not. */
static void a_large_one_goes_with(struct world *w, int others) {
    struct store_key_put q[CALLS] = {0};
    struct id id = {{1}};
    struct store_accept a = {
        .content = message_new(&id, mem_zalloc(LIMIT_BODY_CHUNK + 2), LIMIT_BODY_CHUNK + 1)};
    f.writes[0] = LIMIT_BATCH_CHANGES;
    hold(w);
    post(w, &a.call, STORE_ACCEPT);
    post_many(w, q, others);
    let_go(w, (size_t)others + 1);
    assert_int_equal(f.batch_size[1], 1); /* with a piece each */
    assert_int_equal(f.batch_size[2], 1);
    assert_int_equal(f.batch_size[3], 2);
    assert_int_equal(f.batch_size[4], others - 3);
    assert_int_equal(f.unstaged, 1);
    assert_int_equal(a.call.err, OK);
    for (int i = 0; i < others; i++)
        assert_int_equal(q[i].call.err, OK);
    store_call_release(&a.call);
    release(q, (size_t)others);
}

static void a_large_one_goes_in_with_any_batch(void **state) {
    a_large_one_goes_with(*state, 3);
}

static void a_large_one_goes_in_before_those_that_are_put_back(void **state) {
    a_large_one_goes_with(*state, 4);
}

/* Who does not say how many recipients a message has is taken to have the most. */
static void what_changes_whole_messages_weighs_all_their_recipients(void **state) {
    struct world *w = *state;
    struct store_cancel c[4] = {{.recipient_count = 0}};
    struct store_retry r[2] = {{.recipient_count = 0}};
    static const size_t recipients[] = {0, 0, 600, 1};
    hold(w);
    for (int i = 0; i < 4; i++) {
        post(w, &c[i].call, STORE_CANCEL);
        c[i].recipient_count = recipients[i];
    }
    for (int i = 0; i < 2; i++) {
        post(w, &r[i].call, STORE_RETRY);
        r[i].recipient_count = i == 0 ? 300 : 0;
    }
    let_go(w, 6);
    for (int i = 0; i < 4; i++)
        store_call_release(&c[i].call);
    for (int i = 0; i < 2; i++)
        store_call_release(&r[i].call);
    assert_int_equal(f.batch_size[1], 1);
    assert_int_equal(f.batch_size[2], 1);
    assert_int_equal(f.batch_size[3], 3); /* 600, 1 and 300 recipients */
    assert_int_equal(f.batch_size[4], 1);
    assert_int_equal(f.committed, 5);
}

static void a_step_of_a_sweep_weighs_what_it_may_change(void **state) {
    struct world *w = *state;
    struct store_expire e = {.most = 0};
    struct store_retain r = {.most = 0};
    struct store_mend m = {.most = 0};
    struct store_notify_replay n = {.seq = 0};
    hold(w);
    post(w, &e.call, STORE_EXPIRE);
    post(w, &r.call, STORE_RETAIN);
    post(w, &m.call, STORE_MEND);
    post(w, &n.call, STORE_NOTIFY_REPLAY);
    e.most = r.most = m.most = n.most = LIMIT_BATCH_ROWS / 2;
    let_go(w, 4);
    store_call_release(&e.call);
    store_call_release(&r.call);
    store_call_release(&m.call);
    store_call_release(&n.call);
    for (int i = 1; i < 5; i++)
        assert_int_equal(f.batch_size[i], 1);
    assert_int_equal(f.committed, 5);
}

/* A batch has a thousand calls at most, and 4 MiB. */
static void many_calls_and_large_ones_are_several_batches(void **state) {
    enum { MANY = LIMIT_BATCH_ROWS + 3 };
    struct world *w = *state;
    struct store_key_put *q = mem_zalloc(MANY * sizeof(*q));
    hold(w);
    post_many(w, q, MANY);
    let_go(w, MANY);
    release(q, MANY);
    free(q);
    assert_int_equal(f.batch_size[1], LIMIT_BATCH_ROWS);
    assert_int_equal(f.batch_size[2], 3);
    struct store_settle s[3] = {0};
    struct attempt_row a = {.transcript = {NULL, LIMIT_BATCH_BYTES - 100000}}; /* not looked at */
    f.committed = 0;
    hold(w);
    for (int i = 0; i < 3; i++) {
        post(w, &s[i].call, STORE_SETTLE);
        s[i].attempt = i < 2 ? &a : NULL;
    }
    let_go(w, 3);
    for (int i = 0; i < 3; i++)
        store_call_release(&s[i].call);
    assert_int_equal(f.batch_size[1], 1);
    assert_int_equal(f.batch_size[2], 2);
}

/* Calls are counted, too, whatever there is in them. */
static void calls_of_nothing_end_a_batch_as_well(void **state) {
    enum { MANY = LIMIT_BATCH_ROWS + 2 };
    struct world *w = *state;
    struct store_claim *q = mem_zalloc(MANY * sizeof(*q));
    hold(w);
    for (int i = 0; i < MANY; i++)
        post(w, &q[i].call, STORE_CLAIM);
    let_go(w, MANY);
    assert_int_equal(f.batch_size[1], LIMIT_BATCH_ROWS);
    assert_int_equal(f.batch_size[2], 2);
    for (int i = 0; i < MANY; i++)
        store_call_release(&q[i].call);
    free(q);
}

/* What nobody waits for is collected for a moment, but not when much has come together. */
static void many_patient_calls_wait_no_longer(void **state) {
    enum { MANY = 70 };
    struct world *w = *state;
    struct store_claim q[MANY] = {0};
    hold(w);
    for (int i = 0; i < MANY; i++) {
        q[i].count = 10;
        post(w, &q[i].call, STORE_CLAIM);
    }
    let_go(w, MANY);
    assert_int_equal(f.batch_size[1], MANY);
    for (int i = 0; i < MANY; i++)
        store_call_release(&q[i].call);
}

/* After a batch of many the next one waits while somebody comes at each nap, eight naps long. */
static void a_crowd_is_waited_for_a_few_naps_long(void **state) {
    enum { MANY = 40 };
    struct world *w = f.world = *state;
    static const struct {
        int naps_most, naps, batch;
    } rows[] = {{0, 1, 1}, {3, 4, 4}, {CALLS, 8, 9}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_key_put *q = mem_zalloc((MANY + 1) * sizeof(*q));
        memset(f.napping, 0, sizeof(f.napping));
        f.committed = 0;
        f.naps_most = 0;
        hold(w);
        post_many(w, q, MANY);
        hold_next(); /* all of them are in one */
        f.naps = 0;
        f.naps_most = rows[i].naps_most;
        post(w, &q[MANY].call, STORE_KEY_PUT);
        int came = rows[i].naps_most < rows[i].naps ? rows[i].naps_most : rows[i].naps;
        let_go(w, (size_t)(MANY + 1 + came));
        assert_int_equal(f.naps, rows[i].naps);
        assert_int_equal(f.batch_size[1], MANY);
        assert_int_equal(f.batch_size[2], rows[i].batch);
        release(q, MANY + 1);
        release(f.napping, CALLS);
        free(q);
        f.naps_most = 0; /* it forgets the crowd */
        assert_int_equal(run(w, STORE_KEY_PUT), OK);
    }
}

static void stop(void *arg) {
    struct world *w = arg;
    committer_stop(&w->c);
}

/* Stopped while it would wait for more: for none then. */
static void who_stops_waits_for_no_crowd(void **state) {
    enum { MANY = 8 };
    for (int turn = 0; turn < 2; turn++) {
        struct world *w = f.world = *state;
        struct store_key_put *q = mem_zalloc((MANY + 1) * sizeof(*q));
        hold(w);
        post_many(w, q, MANY);
        hold_next();
        post(w, &q[MANY].call, turn == 0 ? STORE_KEY_PUT : STORE_CLAIM);
        f.naps = 0;
        struct thread *t = thread_start("stop", stop, w);
        sem_wait(&f.stopping);
        sem_post(&f.go_on);
        __real_thread_join(&t);
        assert_null(w->c);
        mailbox_wait(w->box, 0);
        assert_int_equal(w->done, MANY + 2);
        assert_int_equal(f.naps, 0);
        first_is_done(w);
        release(q, MANY + 1);
        free(q);
        if (turn == 0) {
            teardown(state);
            setup(state);
        }
    }
}

/* More than one batch waits when it is told to end. */
static void all_that_waits_is_done_before_it_stops(void **state) {
    enum { MANY = LIMIT_BATCH_ROWS + 3 };
    struct world *w = *state;
    struct store_key_put *q = mem_zalloc(MANY * sizeof(*q));
    hold(w);
    post_many(w, q, MANY);
    struct thread *t = thread_start("stop", stop, w);
    sem_wait(&f.stopping);
    sem_post(&f.go_on);
    __real_thread_join(&t);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->done, MANY + 1);
    assert_int_equal(f.batch_size[2], 3);
    first_is_done(w);
    release(q, MANY);
    free(q);
}

static void what_was_posted_is_done_before_it_stops(void **state) {
    struct world *w = *state;
    struct store_key_put q[CALLS] = {0};
    hold(w);
    for (int i = 0; i < CALLS; i++)
        post(w, &q[i].call, i % 2 == 0 ? STORE_KEY_PUT : STORE_KEYS_USED);
    sem_post(&f.go_on);
    committer_stop(&w->c);
    assert_null(w->c);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->done, CALLS + 1);
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(q[i].call.err, OK);
    first_is_done(w);
    release(q, CALLS);
}

static void see_disk(struct world *w, int64_t free_bytes) {
    disk_free_bytes = free_bytes;
    while (committer_health(w->c).disk_free_bytes != free_bytes)
        mailbox_wait(w->box, 50);
}

static void a_disk_that_cannot_be_asked_has_room(void **state) {
    struct world *w = *state;
    see_disk(w, 1);
    disk_free_bytes = -1;
    while (committer_health(w->c).disk_free_bytes != INT64_MAX)
        mailbox_wait(w->box, 50);
    committer_set_floor(w->c, INT64_MAX);
    assert_int_equal(run(w, STORE_KEYS_USED), OK);
    assert_int_equal(run_large(w, 1), OK);
}

/* The log is told, not at each look: what is not accepted is answered to others. */
static void the_floor_is_told_when_it_is_crossed(void **state) {
    static const char TOLD[] = "less room than disk_floor";
    struct world *w = *state;
    expect_log(TOLD);
    committer_set_floor(w->c, 20);
    assert_int_equal(logged(TOLD), 0);
    see_disk(w, 19);
    see_disk(w, 18); /* the look before has ended */
    assert_int_equal(logged(TOLD), 1);
    see_disk(w, 20);
    see_disk(w, 19);
    see_disk(w, 18);
    assert_int_equal(logged(TOLD), 2);
    committer_set_floor(w->c, 18);
    committer_set_floor(w->c, 19);
    committer_set_floor(w->c, 20);
    assert_int_equal(logged(TOLD), 3);
    assert_int_equal(committer_health(w->c).disk_floor_bytes, 20);
}

/* Nothing hangs on somebody listening. */
static void what_the_log_would_be_told_is_so_in_silence(void **state) {
    struct world *w = *state;
    silence_log();
    see_disk(w, 10);
    committer_set_floor(w->c, 11);
    assert_int_equal(run_large(w, 1), ERR_UNAVAILABLE);
    committer_set_floor(w->c, 10);
    assert_int_equal(run_large(w, 1), OK);
    f.status = BACKEND_BROKEN;
    f.open = ERR_UNAVAILABLE;
    assert_int_equal(run(w, STORE_KEY_PUT), ERR_UNAVAILABLE);
    while (strcmp(committer_health(w->c).text, "still broken") != 0)
        mailbox_wait(w->box, 50);
    f.open = OK;
    assert_true(becomes_writable(w));
    assert_int_equal(run(w, STORE_KEY_PUT), OK);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_refusal_disturbs_nobody),
        TEST(who_fails_after_writing_fails_alone_at_the_second_try),
        TEST(a_savepoint_that_fails_loses_the_batch),
        TEST(nobody_is_told_of_what_is_not_committed),
        TEST(a_broken_handle_is_closed_and_opened_until_it_works),
        TEST(a_full_disk_is_probed_until_there_is_room),
        TEST(a_few_pages_that_fit_are_no_room),
        TEST(a_handle_that_came_back_has_written),
        TEST(a_large_content_goes_in_first_and_what_is_unused_out_again),
        TEST(a_batch_ends_at_its_limits),
        TEST(a_batch_ends_when_much_was_written),
        TEST(what_is_left_of_a_batch_shares_no_failure),
        TEST(a_large_one_goes_in_with_any_batch),
        TEST(a_large_one_goes_in_before_those_that_are_put_back),
        TEST(what_changes_whole_messages_weighs_all_their_recipients),
        TEST(a_step_of_a_sweep_weighs_what_it_may_change),
        TEST(many_calls_and_large_ones_are_several_batches),
        TEST(calls_of_nothing_end_a_batch_as_well),
        TEST(many_patient_calls_wait_no_longer),
        TEST(a_crowd_is_waited_for_a_few_naps_long),
        TEST(who_stops_waits_for_no_crowd),
        TEST(all_that_waits_is_done_before_it_stops),
        TEST(what_was_posted_is_done_before_it_stops),
        TEST(a_disk_that_cannot_be_asked_has_room),
        TEST(the_floor_is_told_when_it_is_crossed),
        TEST(what_the_log_would_be_told_is_so_in_silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
