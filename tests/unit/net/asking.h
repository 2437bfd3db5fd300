/* asking: a resolver's upstream, a mailbox that answers come to, and questions of the test's
 * thread: what the tests of dns share. In a header since each test is one program of one file.
 *
 *     static int begin(void **state) { (void)state; return begin_asking(rows); }
 *     ...
 *     struct dns_query q;
 *     put_question(d, &q, DNS_A, "a.example", false);
 *     wait_for(1);
 *     dns_query_release(&q);
 *
 * Thread: the test's.
 */
#pragma once

#include "server/base/clock.h"
#include "server/net/dns.h"
#include "tests/unit/net/responder.h"
#include "tests/unit/patience.h"

static struct responder server;
static struct mailbox *box;
static int answers; /* since the last wait */

static inline int begin_asking(const struct rr *rows) {
    responder_start(&server, rows);
    box = mailbox_new();
    answers = 0;
    return 0;
}

static inline int end_asking(void **state) {
    (void)state;
    mailbox_free(&box);
    responder_stop(&server);
    return 0;
}

static inline struct dns *start(const struct dns_options *o) {
    struct dns *d;
    struct errinfo info = {0};
    if (dns_start(o, &d, &info) != OK)
        fail_msg("dns_start: %s", info.text);
    return d;
}

static inline void count_answer(struct note *n) {
    (void)n;
    answers++;
}

/* `q` lives until its answer was counted. */
static inline void put_question(struct dns *d, struct dns_query *q, enum dns_type type,
                                const char *name, bool use_search) {
    *q = (struct dns_query){
        .note.run = count_answer, .reply_to = box, .type = type, .use_search = use_search};
    snprintf(q->name, sizeof q->name, "%s", name);
    dns_ask(d, q);
}

static inline void wait_for(int n) {
    int64_t until_mono_ms = clock_mono_ms() + patience_ms(30000);
    while (answers < n && clock_mono_ms() < until_mono_ms)
        mailbox_wait(box, 100);
    assert_int_equal(answers, n);
    answers = 0;
}
