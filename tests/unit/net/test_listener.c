/* A listener when the process, or the kernel, has nothing left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/net/listener.h"
#include "tests/unit/net/ends.h"

static int refused_accepts, refused_adds; /* still to come */
static int accepted;

int __real_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags);
int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags);
int __real_event_add(struct event *e, const struct timeval *timeout);
int __wrap_event_add(struct event *e, const struct timeval *timeout);

int __wrap_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags) {
    if (refused_accepts == 0)
        return __real_accept4(fd, a, n, flags);
    refused_accepts--;
    errno = EMFILE;
    return -1;
}

/* Of descriptors; a timer needs none of the kernel's memory. */
int __wrap_event_add(struct event *e, const struct timeval *timeout) {
    if (refused_adds == 0 || event_get_fd(e) < 0)
        return __real_event_add(e, timeout);
    refused_adds--;
    return -1;
}

static void on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    (void)ctx, (void)peer;
    close(fd);
    accepted++;
}

static void it_accepts_again_when_there_is_room(void **state) {
    (void)state;
    for (int adds = 0; adds < 3; adds++) {
        struct loop *l = loop_new();
        struct sockaddr_any at = loopback(0);
        struct listener *listener;
        assert_int_equal(listener_open(l, &at, on_accept, NULL, &listener, NULL), OK);
        at = listener_address(listener);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&at.ss, at.len), 0);
        accepted = 0;
        refused_accepts = 1;
        refused_adds = adds;
        TURN_UNTIL(l, accepted == 1);
        assert_int_equal(refused_accepts + refused_adds, 0);
        close(fd);
        listener_close(&listener);
        loop_free(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_accepts_again_when_there_is_room)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
