/* What the hosts of a route say, and what it means when not all of them say it. */
#include "tests/unit/delivery/world.h"

enum { HOSTS_MOST = 3 };

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

/* A message to `to`, tried once. */
static struct id try_once(struct world *w, struct hosts *h, const char *to) {
    w->o.retry_ms[0] = 3600 * 1000;
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
        T(a_host_that_takes_some_recipients_refuses_no_login),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
