/* How fast the store accepts, claims and settles: K posters keep W calls on their way each.
 *
 *     tool_store <folder> <messages> <posters> <outstanding each> [recipients] [body bytes]
 * [domains]
 *
 * Prints messages a second, calls a transaction and the time of one call for each of the phases.
 */
#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/thread.h"
#include "storage/store.h"

static size_t domains = 200;

static struct store *store;
static size_t messages, posters, outstanding, recipients = 3, body_bytes = 3072;
static struct metric *commits;

struct poster {
    struct thread *thread;
    struct mailbox *box;
    size_t first, next, end, done;
    int64_t slowest_us;
    int phase;
};

struct sent {
    struct poster *p;
    int64_t start_us;
    struct store_accept accept;
    struct store_claim claim;
    struct store_settle settle;
    struct settle_result result[16];
    struct attempt_row attempt;
    struct attempt_recipient attempt_recipient[16];
    bool is_claimed[16];
    struct str key[16];
    struct recipient_row r[16];
    recipient_key_t rkey[16];
    char text[16][64];
};

static int64_t *seq_of; /* message number -> seq */
static const char transcript[] =
    "S: 220 mx.example.net ESMTP\nC: EHLO out.example.org\nS: 250-mx.example.net\nS: "
    "250-PIPELINING\n"
    "S: 250-SIZE 52428800\nS: 250-STARTTLS\nS: 250 8BITMIME\nC: MAIL FROM:<b@example.org>\n"
    "S: 250 2.1.0 Ok\nC: RCPT TO:<a@example.net>\nS: 250 2.1.5 Ok\nC: DATA\nS: 354 go on\n"
    "C: (3072 octets)\nS: 250 2.0.0 Ok: queued as 4711\n";

static void post_next(struct poster *p, struct sent *s);

static void finished(struct store_call *c) {
    struct sent *s = c->ctx;
    struct poster *p = s->p;
    if (c->err != OK) {
        fprintf(stderr, "failed: %s\n", c->info.text);
        abort();
    }
    int64_t took = clock_mono_us() - s->start_us;
    if (took > p->slowest_us)
        p->slowest_us = took;
    if (p->phase == 0)
        seq_of[s->accept.message.created_wall_ms] = s->accept.message.seq;
    store_call_release(c);
    p->done++;
    post_next(p, s);
}

static void make_accept(struct poster *p, struct sent *s, size_t n) {
    int64_t now = clock_wall_ms();
    for (size_t i = 0; i < recipients; i++) {
        size_t d = ((n * recipients + i) * 2654435761u >> 7) % domains;
        int len = snprintf(s->text[i], sizeof(s->text[i]), "user%zu@domain%zu.example", n, d);
        struct str email = {s->text[i], (size_t)len};
        s->r[i] =
            (struct recipient_row){.email = email, .state = RECIPIENT_QUEUED, .due_wall_ms = now};
        s->key[i] = str_from(email, (size_t)str_find_char(email, '@') + 1);
    }
    struct id id = id_new(now);
    s->accept = (struct store_accept){
        .call = {.verb = STORE_ACCEPT, .reply_to = p->box, .done = finished, .ctx = s},
        .message = {.id = id,
                    .project = 1,
                    .key_id = id,
                    .created_wall_ms = (int64_t)n, /* finds it again */
                    .expires_wall_ms = now + 86400000,
                    .message_id = STR("<0193aaaa-bbbb-cccc-dddd-eeeeffff0000@example.org>"),
                    .mail_from = STR("bounce@example.org"),
                    .from_email = STR("shop@example.org"),
                    .from_name = STR("Shop"),
                    .from_domain = STR("example.org"),
                    .subject = STR("Your order has been shipped"),
                    .tags_json = STR("[\"shipping\"]"),
                    .lane = LANE_TRANSACTIONAL,
                    .recipient_count = recipients,
                    .recipient = s->r},
        .queue_key = s->key,
        .content = message_new(&id, mem_zalloc(body_bytes), body_bytes),
        .now_wall_ms = now};
}

static void make_claim(struct poster *p, struct sent *s, size_t n) {
    for (size_t i = 0; i < recipients; i++)
        s->rkey[i] = seq_of[n] * RECIPIENT_KEY_SPAN + (recipient_key_t)i;
    s->claim = (struct store_claim){
        .call = {.verb = STORE_CLAIM, .reply_to = p->box, .done = finished, .ctx = s},
        .key = s->rkey,
        .count = recipients,
        .now_wall_ms = clock_wall_ms(),
        .is_claimed = s->is_claimed};
}

static void make_settle(struct poster *p, struct sent *s, size_t n) {
    for (size_t i = 0; i < recipients; i++) {
        s->result[i] =
            (struct settle_result){.key = seq_of[n] * RECIPIENT_KEY_SPAN + (recipient_key_t)i,
                                   .state = RECIPIENT_DELIVERED,
                                   .counts = true,
                                   .last = {.stage = STAGE_END,
                                            .code = 250,
                                            .enhanced = "2.0.0",
                                            .text = STR("2.0.0 Ok: queued as 4711"),
                                            .mx = STR("mx.example.net")}};
        s->attempt_recipient[i] = (struct attempt_recipient){
            .index = (int)i, .action = VERDICT_DELIVERED, .result = s->result[i].last};
    }
    s->attempt = (struct attempt_row){.started_wall_ms = clock_wall_ms(),
                                      .took_ms = 20,
                                      .host = STR("mx.example.net"),
                                      .address = STR("192.0.2.1:25"),
                                      .transcript = str_of(transcript),
                                      .recipient = s->attempt_recipient,
                                      .recipient_count = recipients};
    s->settle = (struct store_settle){
        .call = {.verb = STORE_SETTLE, .reply_to = p->box, .done = finished, .ctx = s},
        .result = s->result,
        .count = recipients,
        .attempt = &s->attempt,
        .now_wall_ms = clock_wall_ms()};
}

static void post_next(struct poster *p, struct sent *s) {
    if (p->next == p->end)
        return;
    size_t n = p->next++;
    s->start_us = clock_mono_us();
    struct store_call *call = &s->accept.call;
    if (p->phase == 0) {
        make_accept(p, s, n);
    } else if (p->phase == 1) {
        make_claim(p, s, n);
        call = &s->claim.call;
    } else {
        make_settle(p, s, n);
        call = &s->settle.call;
    }
    store_post(store, call);
}

static void poster_main(void *arg) {
    struct poster *p = arg;
    struct sent *s = mem_zalloc(outstanding * sizeof(*s));
    for (size_t i = 0; i < outstanding; i++) {
        s[i].p = p;
        post_next(p, &s[i]);
    }
    while (p->done < p->end - p->first)
        mailbox_wait(p->box, -1);
    free(s);
}

static void run_phase(int phase, const char *name) {
    struct poster *p = mem_zalloc(posters * sizeof(*p));
    int64_t commits_before = metric_get(commits, 0), start_us = clock_mono_us();
    for (size_t i = 0; i < posters; i++) {
        p[i].phase = phase;
        p[i].first = p[i].next = messages * i / posters;
        p[i].end = messages * (i + 1) / posters;
        p[i].box = mailbox_new();
        p[i].thread = thread_start("poster", poster_main, &p[i]);
    }
    int64_t slowest = 0;
    for (size_t i = 0; i < posters; i++) {
        thread_join(&p[i].thread);
        mailbox_free(&p[i].box);
        if (p[i].slowest_us > slowest)
            slowest = p[i].slowest_us;
    }
    double s = (double)(clock_mono_us() - start_us) / 1e6;
    int64_t made = metric_get(commits, 0) - commits_before;
    printf("%-8s %9.0f messages/s  %7lld syncs (%6.1f messages each)  slowest call %.1f ms\n", name,
           (double)messages / s, (long long)made, (double)messages / (double)made,
           (double)slowest / 1e3);
    free(p);
}

static size_t number(const char *z) {
    uint64_t v = 0;
    if (str_parse_u64(str_of(z), 100000000, &v) != OK || v == 0) {
        fprintf(stderr, "not a number: %s\n", z);
        exit(2);
    }
    return (size_t)v;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: tool_store folder messages posters outstanding [recipients] [body] "
                        "[domains]\n");
        return 2;
    }
    messages = number(argv[2]);
    posters = number(argv[3]);
    outstanding = number(argv[4]);
    if (argc > 5)
        recipients = number(argv[5]);
    if (argc > 6)
        body_bytes = number(argv[6]);
    if (argc > 7)
        domains = number(argv[7]);
    ASSERT(recipients <= 16);
    seq_of = mem_zalloc(messages * sizeof(*seq_of));
    struct errinfo info = {0};
    if (store_open(&(struct store_options){.backend = STORE_SQLITE, .folder = argv[1]}, &store,
                   &info) != OK) {
        fprintf(stderr, "%s\n", info.text);
        return 1;
    }
    commits = metric_counter("postchute_store_commits_total", "");
    run_phase(0, "accept");
    run_phase(1, "claim");
    run_phase(2, "settle");
    enum err e = store_check(store, &info);
    printf("check: %s %s\n", err_name(e), info.text);
    store_close(&store);
    free(seq_of);
    return e == OK ? 0 : 1;
}
