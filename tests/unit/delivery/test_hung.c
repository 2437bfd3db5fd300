/* Sites whose sessions hang hold up nobody but themselves. */
#include "tests/unit/delivery/world.h"

#include <limits.h>

#include "server/base/metrics.h"

/* As add_slow_route(), by the recipient's domain: one message can go both ways. */
static void add_slow_domain(struct world *w, struct slow *slow, const struct str *domain) {
    add_slow_route(w, slow);
    slow->route[0].recipient_domains = domain;
    slow->route[0].recipient_domain_count = 1;
}

static const struct str SLOW = {"slow.test", 9};

/* Mail is signed, and all sessions with the slow site hang. */
static void begin_hung(struct world *w, struct slow *slow, unsigned sessions) {
    expect_log("sessions are aborted");
    put_signing_domain(w, NULL);
    add_slow_domain(w, slow, &SLOW);
    slow->route[0].concurrency = sessions;
    start(w);
    for (unsigned i = 0; i < sessions; i++)
        submit(w, "hold@slow.test");
    await_counter(w, &slow->sink->held, (int)sessions);
}

/* Each is to be signed by the job for the site that hangs, which comes first. */
static void who_waits_for_a_signature_that_a_hung_site_makes_makes_it_itself(void **state) {
    struct world *w = *state;
    struct slow slow;
    enum { SESSIONS = 5 };
    w->route.concurrency = 1;
    begin_hung(w, &slow, SESSIONS);
    for (int i = 0; i < SESSIONS; i++)
        await_state(w, submit(w, "hold@slow.test,ok@example.net"), RECIPIENT_SENDING, 0);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    await_counter(w, &w->sink->messages, SESSIONS + 1);
    assert_int_equal(sink_get(&w->sink->signed_), SESSIONS + 1);
    end_slow(w, &slow);
}

/* Both sites hang when both recipients are claimed; in the second round they had just answered. */
static void whoever_has_a_session_first_signs(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    put_signing_domain(w, NULL);
    w->o.retry_ms[0] = 60000;
    w->route.concurrency = 1;
    add_slow_domain(w, &slow, &SLOW);
    slow.route[0].concurrency = 1;
    for (int slow_is_first = 0; slow_is_first <= 1; slow_is_first++) {
        struct sink *first = slow_is_first ? slow.sink : w->sink;
        struct sink *last = slow_is_first ? w->sink : slow.sink;
        int first_before = sink_get(&first->messages), last_before = sink_get(&last->messages);
        int held = sink_get(&w->sink->held), slow_held = sink_get(&slow.sink->held);
        if (w->delivery == NULL)
            start(w);
        submit(w, "hold@slow.test");
        submit(w, "hold@example.net");
        await_counter(w, &slow.sink->held, slow_held + 1);
        await_counter(w, &w->sink->held, held + 1);
        struct id id = submit(w, "ok1@slow.test,ok1@example.net");
        await_all(w, id, RECIPIENT_SENDING);
        submit(w, slow_is_first ? "ok2@slow.test" : "ok2@example.net");
        sink_on_loop(first->loop, sink_close_all, first);
        await_counter(w, &first->messages, first_before + 2);
        assert_int_equal(first->number[first_before], 1); /* it had its turn */
        sink_on_loop(last->loop, sink_close_all, last);
        await_counter(w, &last->messages, last_before + 1);
    }
    assert_int_equal(sink_get(&w->sink->signed_), 5); /* with what was held */
    assert_int_equal(sink_get(&slow.sink->signed_), 5);
    end_slow(w, &slow);
}

/* Its site had no place for it until the signer was claimed. */
static void who_comes_late_waits_for_no_signer_of_a_hung_site(void **state) {
    struct world *w = *state;
    struct slow slow;
    w->o.retry_ms[0] = 60000;
    w->route.concurrency = 1;
    begin_hung(w, &slow, 1);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    await_state(w, submit(w, "hold@example.net"), RECIPIENT_SENDING, 0);
    struct id id = submit(w, "ok@slow.test,ok@example.net");
    await_state(w, id, RECIPIENT_SENDING, 0);
    assert_int_equal(recipient(w, id, 1).state, RECIPIENT_QUEUED);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    await_counter(w, &w->sink->held, 2);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    await_counter(w, &w->sink->messages, 1);
    assert_int_equal(sink_get(&w->sink->signed_), 3); /* with what was held */
    end_slow(w, &slow);
}

/* Nobody waits before it there, but it may not begin: half of all sessions hang. */
static void who_waits_for_a_signer_that_has_no_session_left_signs(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    enum { SESSIONS = 4, HANG = SESSIONS / 2 };
    put_signing_domain(w, NULL);
    add_slow_domain(w, &slow, &SLOW);
    w->o.sessions_max = SESSIONS;
    start(w);
    for (int i = 0; i < HANG; i++)
        submit(w, "hold@slow.test");
    await_counter(w, &slow.sink->held, HANG);
    struct id id = submit(w, "ok@slow.test,ok@example.net");
    await_counter(w, &w->sink->messages, 1);
    await_state(w, id, RECIPIENT_SENDING, 0);
    assert_int_equal(sink_get(&w->sink->signed_), 1);
    end_slow(w, &slow);
}

/* They took mail, and hang now with all that they may have. */
static void proven_sites_that_hang_leave_a_session_to_others(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    enum { SESSIONS = 4 };
    add_slow_route(w, &slow);
    slow.route[0].concurrency = 5;
    w->o.sessions_max = SESSIONS;
    start(w);
    submit_slow(w, "ok@one.test", 1);
    await_completed(w, 1);
    submit_slow(w, "hold@one.test", 10);
    await_counter(w, &slow.sink->held, SESSIONS - 1);
    submit(w, "ok@example.net");
    await_completed(w, 2);
    submit(w, "ok@example.net");
    await_completed(w, 3);
    assert_int_equal(sink_get(&slow.sink->held), SESSIONS - 1);
    end_slow(w, &slow);
}

static int64_t signatures(void) {
    return metric_get(metric_counter("postchute_delivery_signed_total", ""), 0);
}

static bool is_signed_again(struct world *w, void *arg) {
    (void)w;
    return signatures() > *(int64_t *)arg;
}

static bool second_is_claimed(struct world *w, void *arg) {
    return recipient(w, *(struct id *)arg, 1).state == RECIPIENT_SENDING;
}

/* A message that is signed: one of its recipients is tried again and again, the other is claimed,
 * and waits behind a session that hangs. */
static struct id begin_half_claimed(struct world *w, struct slow *slow) {
    w->sink->later_times = INT_MAX;
    begin_hung(w, slow, 1);
    struct id id = submit(w, "later@example.net,claimed@slow.test");
    await_counter(w, &w->sink->later_seen, 2);
    assert_true(wait_until(w, second_is_claimed, &id));
    return id;
}

struct look {
    struct sink *sink;
    const char *words;
    bool are_there;
};

static void look_at_data(void *arg) {
    struct look *l = arg;
    l->are_there = str_find(buf_str(&l->sink->data), str_of(l->words)) > 0;
}

static bool says(struct sink *s, const char *words) {
    struct look l = {.sink = s, .words = words};
    sink_on_loop(s->loop, look_at_data, &l);
    return l.are_there;
}

static void a_key_that_was_removed_signs_nothing_more_whoever_is_claimed(void **state) {
    struct world *w = *state;
    struct slow slow;
    struct id id = begin_half_claimed(w, &slow);
    int64_t before = signatures();
    put_key(w, NULL, "s2");
    if (!wait_until(w, is_signed_again, &before))
        fail_msg("the signature of the key that is gone is used");
    assert_int_equal(recipient(w, id, 1).state, RECIPIENT_SENDING);
    __atomic_store_n(&w->sink->later_times, 0, __ATOMIC_SEQ_CST);
    await_counter(w, &w->sink->messages, 1);
    assert_true(says(w->sink, " s=s2;"));
    /* and the claimed one, now that there is room */
    sink_on_loop(slow.sink->loop, sink_close_all, slow.sink);
    await_counter(w, &slow.sink->messages, 1);
    assert_true(says(slow.sink, " s=s2;"));
    end_slow(w, &slow);
}

static void a_domain_of_somebody_else_that_changes_has_nothing_signed_again(void **state) {
    struct world *w = *state;
    struct slow slow;
    enum { TRIES = 8 };
    struct id id = begin_half_claimed(w, &slow);
    int64_t before = signatures();
    for (int i = 0; i < TRIES; i++) {
        put_key_of(w, "example.com", NULL, "s1");
        await_counter(w, &w->sink->later_seen, sink_get(&w->sink->later_seen) + 1);
    }
    assert_int_equal(signatures(), before);
    assert_int_equal(recipient(w, id, 1).state, RECIPIENT_SENDING);
    __atomic_store_n(&w->sink->later_times, 0, __ATOMIC_SEQ_CST);
    await_counter(w, &w->sink->messages, 1);
    end_slow(w, &slow);
}

static bool is_dead(struct world *w, void *arg) {
    (void)w;
    (void)arg;
    return logged("site does not answer, paused") > 0;
}

static bool is_put_off(struct world *w, void *arg) {
    struct recipient_row r = recipient(w, *(struct id *)arg, 0);
    return r.state == RECIPIENT_QUEUED && r.due_wall_ms > clock_wall_ms() + 60 * 1000;
}

/* Accepted for a smarthost in whose place are many sites by now. */
static void a_site_that_is_dead_parks_no_queue_that_others_share(void **state) {
    struct world *w = *state;
    struct slow slow;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer, paused");
    w->queue_key = "shared";
    w->o.site_dead_ms = 3600 * 1000;
    add_slow_domain(w, &slow, &SLOW);
    slow.route[0].concurrency = 1;
    sink_on_loop(slow.sink->loop, sink_unlisten, slow.sink);
    start(w);
    for (int i = 0; i < 10; i++)
        submit(w, "ok@slow.test");
    assert_true(wait_until(w, is_dead, NULL));
    struct id id = submit(w, "ok@slow.test");
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_true(wait_until(w, is_put_off, &id));
    assert_int_equal(recipient(w, id, 0).attempts, 0);
    end_slow(w, &slow);
}

/* One a second, and each takes longer. */
static void bulk_mail_with_a_rate_waits_for_no_transaction_to_end(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    w->route.rate_per_s = 1;
    start(w);
    for (int i = 0; i < 3; i++)
        submit_with(w, "hold@example.net", &(struct message_row){.lane = LANE_BULK});
    await_counter(w, &w->sink->held, 2);
    delivery_stop(&w->delivery);
}

/* Claimed before the sessions hang: all that goes in a second. */
static void bulk_mail_with_a_rate_that_hangs_leaves_a_place_to_others(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    w->route.concurrency = 5;
    w->route.rate_per_s = 10;
    for (int i = 0; i < 20; i++)
        submit_with(w, "hold@example.net", &(struct message_row){.lane = LANE_BULK});
    start(w);
    await_counter(w, &w->sink->held, 4);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->held), 4);
    delivery_stop(&w->delivery);
}

/* Whoever comes after the first dozen finds memory full of contents that wait for the slow
 * site. They are given up, and read and signed again when their turn comes. */
static void who_waits_for_a_slow_site_takes_no_room_from_what_others_read(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    enum { COUNT = 40 };
    put_signing_domain(w, NULL);
    add_slow_domain(w, &slow, &SLOW);
    slow.route[0].concurrency = 1;
    w->o.retry_ms[0] = 60000;
    w->o.content_bytes_max = 4096;
    const struct message_row first = {.created_wall_ms = clock_wall_ms() - 1000};
    submit_with(w, "hold@slow.test", &first);
    for (int i = 0; i < COUNT; i++) /* before the start: no content comes with a notice */
        submit(w, "ok@example.net,ok@slow.test");
    start(w);
    await_counter(w, &w->sink->messages, COUNT);
    assert_int_equal(sink_get(&slow.sink->messages), 0);
    sink_on_loop(slow.sink->loop, sink_close_all, slow.sink);
    await_counter(w, &slow.sink->messages, COUNT);
    assert_int_equal(sink_get(&w->sink->signed_), COUNT);
    assert_int_equal(sink_get(&slow.sink->signed_), COUNT + 1); /* with what was held */
    end_slow(w, &slow);
}

/* What is claimed for it keeps its content, until it gives up; of the memory for contents there is
 * always some left. */
static void what_a_hung_site_has_claimed_leaves_room_for_what_others_read(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    add_slow_domain(w, &slow, &SLOW);
    w->o.content_bytes_max = 1024;
    for (int i = 0; i < 40; i++) /* before the start: no content comes with a notice */
        submit(w, "hold@slow.test");
    submit(w, "ok@example.net");
    start(w);
    await_completed(w, 1);
    assert_in_range(sink_get(&slow.sink->held), 1, 5);
    end_slow(w, &slow);
}

/* A message with a content that was taken for the slow site before, and takes all that there is;
 * and one of that size for the other. */
static struct id begin_full(struct world *w, struct slow *slow, int64_t size_bytes) {
    expect_log("sessions are aborted");
    const struct message_row first = {.created_wall_ms = clock_wall_ms() - 1000};
    add_slow_domain(w, slow, &SLOW);
    w->o.content_bytes_max = 300;
    submit_with(w, "hold@slow.test", &first); /* before the start: no content comes with a notice */
    struct id id =
        submit_with(w, "ok@example.net", &(struct message_row){.size_bytes = size_bytes});
    start(w);
    await_counter(w, &slow->sink->held, 1);
    return id;
}

static void who_has_no_room_for_its_content_is_passed_by_who_needs_none(void **state) {
    struct world *w = *state;
    struct slow slow;
    struct id id = begin_full(w, &slow, 100); /* more than half of what is left */
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_int_equal(recipient(w, id, 0).state, RECIPIENT_QUEUED);
    /* and has its turn as soon as there is some */
    sink_on_loop(slow.sink->loop, sink_close_all, slow.sink);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    end_slow(w, &slow);
}

static void a_content_that_is_larger_than_all_the_room_waits_for_no_other(void **state) {
    struct world *w = *state;
    struct slow slow;
    await_state(w, begin_full(w, &slow, 1000), RECIPIENT_DELIVERED, 1);
    assert_int_equal(sink_get(&slow.sink->open_now), 1);
    end_slow(w, &slow);
}

/* Read from the store as soon as it is due: it is not with the notice. */
static struct id submit_later(struct world *w, const char *to, int64_t size_bytes) {
    const struct message_row like = {.created_wall_ms = clock_wall_ms() + 200,
                                     .size_bytes = size_bytes};
    return submit_with(w, to, &like);
}

/* One waits that would have room but for a content that passed it, and that hangs. */
static void a_content_that_waits_for_one_that_hangs_holds_up_others_for_a_moment(void **state) {
    expect_log("sessions are aborted");
    enum { KIB = 1024 };
    struct world *w = *state;
    struct slow slow;
    add_slow_domain(w, &slow, &SLOW);
    w->o.content_bytes_max = 64 * KIB;
    w->o.retry_ms[0] = 600 * 1000;
    start(w);
    submit_later(w, "hold@example.net", 8 * KIB);
    submit_later(w, "hold@slow.test", 8 * KIB);
    await_counter(w, &w->sink->held, 1);
    await_counter(w, &slow.sink->held, 1);
    struct id waits = submit_later(w, "ok@example.net", 26 * KIB); /* more than half of the rest */
    mailbox_wait(w->box, 400);
    submit_later(w, "hold@slow.test", 8 * KIB);
    await_counter(w, &slow.sink->held, 2);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    struct id small = submit_later(w, "ok@example.net", 0);
    struct id large = submit_later(w, "ok@example.net", 4 * KIB);
    await_state(w, small, RECIPIENT_DELIVERED, 1);
    await_state(w, large, RECIPIENT_DELIVERED, 1);
    assert_int_equal(recipient(w, waits, 0).state, RECIPIENT_QUEUED);
    sink_on_loop(slow.sink->loop, sink_close_all, slow.sink);
    await_state(w, waits, RECIPIENT_DELIVERED, 1);
    end_slow(w, &slow);
}

static bool has_room(struct world *w, struct id id, int64_t until_mono_ms) {
    while (recipient(w, id, 0).state == RECIPIENT_QUEUED) {
        if (clock_mono_ms() >= until_mono_ms)
            return false;
        mailbox_wait(w->box, 20);
    }
    return true;
}

/* One waits until there is nothing else. Another one has some of it at any time, and goes
 * when the next one has some. In a turn that is longer than they take, all of them end. */
static void contents_that_follow_each_other_keep_no_larger_one_waiting(void **state) {
    expect_log("sessions are aborted");
    enum { ROOM = 64 * 1024, LARGE = ROOM / 2, SIZE = 1024, STEPS = 16, STEP_MS = 3000 };
    struct world *w = *state;
    struct slow slow;
    add_slow_domain(w, &slow, &SLOW);
    w->o.content_bytes_max = ROOM;
    w->o.retry_ms[0] = 600 * 1000;
    start(w);
    struct sink *sink[] = {w->sink, slow.sink};
    const char *to[] = {"hold@example.net", "hold@slow.test"};
    submit_later(w, to[1], SIZE);
    await_counter(w, &slow.sink->held, 1);
    struct id large = submit_later(w, "ok@example.net", LARGE);
    for (int i = 0; i < STEPS; i++) {
        submit_later(w, to[i % 2], SIZE);
        if (has_room(w, large, clock_mono_ms() + STEP_MS))
            break;
        struct sink *before = sink[(i + 1) % 2];
        sink_on_loop(before->loop, sink_close_all, before);
    }
    await_state(w, large, RECIPIENT_DELIVERED, 1);
    end_slow(w, &slow);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(who_waits_for_a_signature_that_a_hung_site_makes_makes_it_itself),
        T(whoever_has_a_session_first_signs),
        T(who_comes_late_waits_for_no_signer_of_a_hung_site),
        T(who_waits_for_a_signer_that_has_no_session_left_signs),
        T(proven_sites_that_hang_leave_a_session_to_others),
        T(a_key_that_was_removed_signs_nothing_more_whoever_is_claimed),
        T(a_domain_of_somebody_else_that_changes_has_nothing_signed_again),
        T(a_site_that_is_dead_parks_no_queue_that_others_share),
        T(bulk_mail_with_a_rate_waits_for_no_transaction_to_end),
        T(bulk_mail_with_a_rate_that_hangs_leaves_a_place_to_others),
        T(who_waits_for_a_slow_site_takes_no_room_from_what_others_read),
        T(what_a_hung_site_has_claimed_leaves_room_for_what_others_read),
        T(who_has_no_room_for_its_content_is_passed_by_who_needs_none),
        T(a_content_that_is_larger_than_all_the_room_waits_for_no_other),
        T(a_content_that_waits_for_one_that_hangs_holds_up_others_for_a_moment),
        T(contents_that_follow_each_other_keep_no_larger_one_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
