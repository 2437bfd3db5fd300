#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/mailbox.h"
#include "server/base/thread.h"

/* What notes report to: touched only by the thread that runs them. */
struct record {
    int count;
    int last[8]; /* by sender */
    bool in_order;
    struct mailbox *reply_to;
    struct event_base *base;
    int stop_at;
};

struct numbered {
    struct note note;
    struct record *record;
    int sender, number;
};

static void numbered_run(struct note *note) {
    struct numbered *n = CONTAINER_OF(note, struct numbered, note);
    struct record *r = n->record;
    if (n->number != r->last[n->sender] + 1)
        r->in_order = false;
    r->last[n->sender] = n->number;
    if (++r->count == r->stop_at && r->base != NULL)
        event_base_loopbreak(r->base);
    free(n);
}

static void send_number(struct mailbox *m, struct record *r, int sender, int number) {
    struct numbered *n = malloc(sizeof(*n));
    assert_non_null(n);
    *n = (struct numbered){{.run = numbered_run}, r, sender, number};
    mailbox_send(m, &n->note);
}

static bool is_readable(struct mailbox *m) {
    struct pollfd p = {.fd = mailbox_fd(m), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void notes_run_in_the_order_of_sending(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    assert_int_equal(mailbox_wait(m, 0), 0);
    for (int i = 1; i <= 100; i++)
        send_number(m, &r, 0, i);
    assert_int_equal(mailbox_wait(m, -1), 100);
    assert_int_equal(r.count, 100);
    assert_true(r.in_order);
    assert_int_equal(mailbox_wait(m, 0), 0);
    mailbox_free(&m);
    assert_null(m);
    mailbox_free(&m);
}

static void the_descriptor_is_readable_while_notes_wait(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    assert_false(is_readable(m));
    for (int i = 1; i <= 5; i++)
        send_number(m, &r, 0, i);
    assert_true(is_readable(m));
    assert_int_equal(mailbox_run(m, 3), 3);
    assert_true(is_readable(m));
    send_number(m, &r, 0, 6); /* goes behind those that are left */
    assert_int_equal(mailbox_run(m, 100), 3);
    assert_false(is_readable(m));
    assert_int_equal(mailbox_run(m, 100), 0);
    assert_true(r.in_order);
    mailbox_free(&m);
}

static void a_chain_is_taken_without_running(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    assert_null(mailbox_take(m, 0));
    for (int i = 1; i <= 5; i++)
        send_number(m, &r, 0, i);
    assert_int_equal(mailbox_run(m, 2), 2);
    struct note *chain = mailbox_take(m, -1);
    assert_int_equal(r.count, 2);
    int n = 0;
    for (struct note *next; chain != NULL; chain = next, n++) {
        next = chain->next;
        chain->run(chain);
    }
    assert_int_equal(n, 3);
    assert_true(r.in_order);
    assert_null(mailbox_take(m, 0));
    send_number(m, &r, 0, 6); /* the empty mailbox signals again */
    assert_true(is_readable(m));
    assert_int_equal(mailbox_wait(m, 0), 1);
    mailbox_free(&m);
}

static void waiting_ends_with_its_time(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    /* a signal is left over, without a note: waiting does not end early */
    send_number(m, &r, 0, 1);
    send_number(m, &r, 0, 2);
    assert_int_equal(mailbox_run(m, 1), 1);
    assert_int_equal(mailbox_wait(m, 0), 1);
    int64_t begin_mono_ms = clock_mono_ms();
    assert_int_equal(mailbox_wait(m, 30), 0);
    assert_true(clock_mono_ms() - begin_mono_ms >= 29);
    mailbox_free(&m);
}

static void what_is_left_runs_when_the_mailbox_ends(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    for (int i = 1; i <= 1000; i++)
        send_number(m, &r, 0, i);
    mailbox_free(&m);
    assert_int_equal(r.count, 1000);
    assert_true(r.in_order);
}

static void count_turn(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    struct record *r = arg;
    r->last[7] = r->count; /* notes that had run when the other event got its turn */
}

static void a_loop_gives_other_events_their_turn(void **state) {
    (void)state;
    struct event_base *base = event_base_new();
    struct record r = {.in_order = true, .base = base};
    struct mailbox *m = mailbox_new();
    for (int i = 1; i <= 600; i++)
        send_number(m, &r, 0, i);
    mailbox_attach(m, base);
    static const int want[] = {256, 512, 600, 600};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        assert_true(event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK) >= 0);
        assert_int_equal(r.count, want[i]);
    }
    /* an event of somebody else runs between two turns */
    struct mailbox *other = mailbox_new();
    struct event *e = event_new(base, mailbox_fd(other), EV_READ, count_turn, &r);
    assert_int_equal(event_add(e, NULL), 0);
    r = (struct record){.in_order = true, .base = base, .stop_at = 600};
    for (int i = 1; i <= 600; i++)
        send_number(m, &r, 0, i);
    struct record unused = {.in_order = true};
    send_number(other, &unused, 0, 1);
    event_base_dispatch(base);
    assert_int_equal(r.count, 600);
    assert_true(r.last[7] <= 256);
    assert_true(r.in_order);
    event_free(e);
    mailbox_detach(m);
    mailbox_detach(m);
    send_number(m, &r, 0, 601);
    event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    assert_int_equal(r.count, 600); /* detached */
    mailbox_attach(m, base);
    event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    assert_int_equal(r.count, 601);
    mailbox_free(&m);
    mailbox_free(&other);
    event_base_free(base);
}

enum { SENDERS = 4, NOTES = 20000 };

struct sender {
    struct mailbox *to;
    struct record *record;
    int index;
};

static void send_many(void *arg) {
    struct sender *s = arg;
    for (int i = 1; i <= NOTES; i++)
        send_number(s->to, s->record, s->index, i);
}

static void start_senders(struct mailbox *m, struct record *r, struct sender senders[SENDERS],
                          struct thread *threads[SENDERS]) {
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){m, r, i};
        threads[i] = thread_start("sender", send_many, &senders[i]);
    }
}

static void a_waiting_owner_gets_all_notes_of_many_senders(void **state) {
    (void)state;
    struct record r = {.in_order = true};
    struct mailbox *m = mailbox_new();
    struct sender senders[SENDERS];
    struct thread *threads[SENDERS];
    start_senders(m, &r, senders, threads);
    while (r.count < SENDERS * NOTES)
        assert_true(mailbox_wait(m, 30000) > 0);
    for (int i = 0; i < SENDERS; i++)
        thread_join(&threads[i]);
    assert_true(r.in_order);
    assert_int_equal(mailbox_wait(m, 0), 0);
    mailbox_free(&m);
}

static void a_loop_gets_all_notes_of_many_senders(void **state) {
    (void)state;
    struct event_base *base = event_base_new();
    struct record r = {.in_order = true, .base = base, .stop_at = SENDERS * NOTES};
    struct mailbox *m = mailbox_new();
    mailbox_attach(m, base);
    struct sender senders[SENDERS];
    struct thread *threads[SENDERS];
    start_senders(m, &r, senders, threads);
    const struct timeval patience = {.tv_sec = 30};
    event_base_loopexit(base, &patience);
    event_base_dispatch(base);
    for (int i = 0; i < SENDERS; i++)
        thread_join(&threads[i]);
    assert_int_equal(r.count, SENDERS * NOTES);
    assert_true(r.in_order);
    mailbox_free(&m);
    event_base_free(base);
}

/* A question that comes back as its own answer, again and again. */
struct ball {
    struct note note;
    struct mailbox *ours, *theirs;
    int bounces;
    bool stop;
};

static void ball_home(struct note *note);

static void ball_away(struct note *note) {
    struct ball *b = CONTAINER_OF(note, struct ball, note);
    note->run = ball_home;
    mailbox_send(b->ours, note);
}

static void ball_home(struct note *note) {
    struct ball *b = CONTAINER_OF(note, struct ball, note);
    b->bounces++;
    note->run = ball_away;
}

static void stop_run(struct note *note) {
    CONTAINER_OF(note, struct ball, note)->stop = true;
}

struct player {
    struct mailbox *box;
    struct ball *stop;
};

static void play(void *arg) {
    struct player *p = arg;
    while (!p->stop->stop)
        mailbox_wait(p->box, 30000);
}

static void an_answer_is_the_same_note_sent_back(void **state) {
    (void)state;
    struct ball ball = {.note.run = ball_away, .ours = mailbox_new(), .theirs = mailbox_new()};
    struct ball stop = {.note.run = stop_run};
    struct player player = {ball.theirs, &stop};
    struct thread *t = thread_start("player", play, &player);
    for (int i = 0; i < 5000; i++) {
        mailbox_send(ball.theirs, &ball.note);
        assert_int_equal(mailbox_wait(ball.ours, 30000), 1);
    }
    assert_int_equal(ball.bounces, 5000);
    mailbox_send(ball.theirs, &stop.note);
    thread_join(&t);
    mailbox_free(&ball.ours);
    mailbox_free(&ball.theirs);
}

/* Asks in a mailbox of its own, which ends with the answer: the one who answers may still be on its
 * way out of mailbox_send(). */
struct question {
    struct note note;
    struct mailbox *asker;
    bool is_answered;
};

static void question_answered(struct note *note) {
    CONTAINER_OF(note, struct question, note)->is_answered = true;
}

static void answer_question(struct note *note) {
    struct question *q = CONTAINER_OF(note, struct question, note);
    note->run = question_answered;
    mailbox_send(q->asker, note);
}

static void a_mailbox_may_end_with_the_answer(void **state) {
    enum { QUESTIONS = 50000 };
    (void)state;
    struct mailbox *theirs = mailbox_new();
    struct ball stop = {.note.run = stop_run};
    struct player player = {theirs, &stop};
    struct thread *t = thread_start("player", play, &player);
    for (int i = 0; i < QUESTIONS; i++) {
        struct question q = {.note.run = answer_question, .asker = mailbox_new()};
        mailbox_send(theirs, &q.note);
        while (!q.is_answered)
            mailbox_wait(q.asker, 0); /* sees the answer as early as can be */
        mailbox_free(&q.asker);
    }
    mailbox_send(theirs, &stop.note);
    thread_join(&t);
    mailbox_free(&theirs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_run_in_the_order_of_sending),
        cmocka_unit_test(the_descriptor_is_readable_while_notes_wait),
        cmocka_unit_test(a_chain_is_taken_without_running),
        cmocka_unit_test(waiting_ends_with_its_time),
        cmocka_unit_test(what_is_left_runs_when_the_mailbox_ends),
        cmocka_unit_test(a_loop_gives_other_events_their_turn),
        cmocka_unit_test(a_waiting_owner_gets_all_notes_of_many_senders),
        cmocka_unit_test(a_loop_gets_all_notes_of_many_senders),
        cmocka_unit_test(an_answer_is_the_same_note_sent_back),
        cmocka_unit_test(a_mailbox_may_end_with_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
