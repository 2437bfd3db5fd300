#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>

#include "server/mail/message.h"

static char *bytes_of(const char *text) {
    return mem_dup(text, strlen(text));
}

static void bytes_are_shared_and_prefixed(void **state) {
    (void)state;
    struct id id = {{1, 2, 3}};
    struct message *m = message_new(&id, bytes_of("body\r\n"), 6);
    assert_false(message_is_signed(m));
    assert_int_equal(message_size(m), 6);
    struct message *once = message_new_prefixed(m, bytes_of("A: 1\r\n"), 6);
    struct message *twice = message_new_prefixed(once, bytes_of("B: 2\r\n"), 6);
    assert_true(message_is_signed(once) && message_is_signed(twice));
    assert_int_equal(message_size(once), 12);
    assert_int_equal(message_size(twice), 18);
    assert_true(id_equal(message_id_of(twice), &id));
    struct message_pieces p = message_bytes(twice);
    assert_true(str_equal(p.piece[0], STR("B: 2\r\nA: 1\r\n")));
    assert_true(str_equal(p.piece[1], STR("body\r\n")));
    assert_ptr_equal(p.piece[1].p, message_bytes(m).piece[1].p);
    message_unref(&m);
    assert_null(m);
    message_unref(&once);
    /* the last one keeps the bytes */
    assert_true(str_equal(message_bytes(twice).piece[1], STR("body\r\n")));
    message_unref(&twice);
    message_unref(&twice);
}

static void *ref_and_unref(void *arg) {
    for (int i = 0; i < 10000; i++) {
        struct message *m = message_ref(arg);
        struct message *p = message_new_prefixed(m, bytes_of("A: 1\r\n"), 6);
        message_unref(&m);
        message_unref(&p);
    }
    return NULL;
}

static void threads_share_a_message(void **state) {
    (void)state;
    struct id id = {{1}};
    struct message *m = message_new(&id, bytes_of("x\r\n"), 3);
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, ref_and_unref, m), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_true(str_equal(message_bytes(m).piece[1], STR("x\r\n")));
    message_unref(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_shared_and_prefixed),
        cmocka_unit_test(threads_share_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
