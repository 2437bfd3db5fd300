/* What the hosts of a route say, and what it means when not all of them say it. */
#include "tests/unit/delivery/world.h"

enum { HOSTS_MOST = LIMIT_MX_ADDRESSES + 1 };

/* A route of several smarthosts, asked in this order; the last one is the world's own sink. */
struct hosts {
    struct sink *sink[HOSTS_MOST];
    struct smarthost host[HOSTS_MOST];
    size_t count;
};

static void add_host(struct hosts *h, struct sink *s) {
    char url[256], to[SOCKADDR_TEXT_SIZE];
    struct errinfo info = {0};
    sockaddr_print(&s->at, to);
    snprintf(url, sizeof(url), "smtp://%s?tls=none&priority=%zu", to, h->count + 1);
    assert_int_equal(smarthost_parse(str_of(url), &h->host[h->count], &info), OK);
    h->sink[h->count++] = s;
}

static void add_plain(struct hosts *h) {
    struct sink *s = sink_new(false, NULL);
    s->is_plain = true;
    add_host(h, s);
}

/* It is away for a moment. */
static void add_closed(struct hosts *h) {
    struct sink *s = sink_new(false, NULL);
    sink_on_loop(s->loop, sink_unlisten, s);
    add_host(h, s);
}

static void add_listing(struct hosts *h) {
    add_host(h, sink_new(false, "554 192.0.2.1 is listed at zen.spamhaus.org\r\n"));
}

/* A message to `to`, tried once. */
static struct id try_once(struct world *w, struct hosts *h, const char *to) {
    w->o.retry_ms[0] = w->o.retry_ms[1] = 3600 * 1000;
    w->route.smarthost = h->host;
    w->route.smarthost_count = h->count;
    start(w);
    return submit(w, to);
}

static void end(struct world *w, struct hosts *h) {
    delivery_stop(&w->delivery);
    for (size_t i = 0; i < h->count; i++) {
        if (h->sink[i] != w->sink)
            sink_free(&h->sink[i]);
    }
    memset(h, 0, sizeof(*h));
}

static const char UTF8[] = "ok-j\xc3\xb6rg@example.net";

static void every_host_is_asked_for_what_the_first_ones_do_not_offer(void **state) {
    struct world *w = *state;
    struct hosts h = {0};
    add_plain(&h);
    add_plain(&h);
    add_host(&h, w->sink);
    struct id id = try_once(w, &h, UTF8);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    assert_int_equal(sink_get(&w->sink->utf8_messages), 1);
    end(w, &h);
}

static void what_no_host_offers_is_refused_when_all_were_asked(void **state) {
    struct world *w = *state;
    struct hosts h = {0};
    add_plain(&h);
    add_plain(&h);
    add_plain(&h);
    await_state(w, try_once(w, &h, UTF8), RECIPIENT_BOUNCED, 1);
    end(w, &h);
    add_closed(&h);
    add_plain(&h);
    await_state(w, try_once(w, &h, UTF8), RECIPIENT_QUEUED, 1);
    end(w, &h);
}

static void a_blocklist_is_believed_when_every_host_reads_it(void **state) {
    struct world *w = *state;
    struct hosts h = {0};
    add_listing(&h);
    add_listing(&h);
    struct id id = try_once(w, &h, "ok@example.net");
    await_state(w, id, RECIPIENT_BOUNCED, 1);
    assert_int_equal(recipient(w, id, 0).last.class_, CLASS_BLOCKLIST);
    end(w, &h);
    add_closed(&h);
    add_listing(&h);
    id = try_once(w, &h, "ok@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    assert_int_equal(recipient(w, id, 0).last.class_, CLASS_BLOCKLIST);
    end(w, &h);
}

/* An attempt asks no more than so many: what they all say is not said by one of them less. */
static void of_more_hosts_than_are_asked_those_that_are_decide(void **state) {
    struct world *w = *state;
    struct hosts h = {0};
    for (int i = 0; i < HOSTS_MOST; i++)
        add_plain(&h);
    await_state(w, try_once(w, &h, UTF8), RECIPIENT_BOUNCED, 1);
    end(w, &h);
    for (int i = 0; i < HOSTS_MOST; i++)
        add_listing(&h);
    await_state(w, try_once(w, &h, "ok@example.net"), RECIPIENT_BOUNCED, 1);
    end(w, &h);
    add_closed(&h);
    for (int i = 1; i < HOSTS_MOST; i++)
        add_plain(&h);
    w->o.loops = 1;
    struct id id = try_once(w, &h, UTF8);
    await_state(w, id, RECIPIENT_QUEUED, 1);
    retry_now(w, id); /* it is known to be away, and not asked */
    await_state(w, id, RECIPIENT_QUEUED, 2);
    end(w, &h);
}

static void a_host_that_takes_some_recipients_refuses_no_login(void **state) {
    struct world *w = *state;
    struct hosts h = {0};
    add_host(&h, w->sink);
    struct id id = try_once(w, &h, "login@example.net,ok@example.net");
    await_counter(w, &w->sink->messages, 1);
    await_state(w, id, RECIPIENT_QUEUED, 1);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    end(w, &h);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_host_is_asked_for_what_the_first_ones_do_not_offer),
        T(what_no_host_offers_is_refused_when_all_were_asked),
        T(a_blocklist_is_believed_when_every_host_reads_it),
        T(of_more_hosts_than_are_asked_those_that_are_decide),
        T(a_host_that_takes_some_recipients_refuses_no_login),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
