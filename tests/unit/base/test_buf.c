#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "server/base/buf.h"

static void assert_holds(const struct buf *b, struct str want) {
    assert_int_equal(b->n, want.n);
    assert_true(str_equal(buf_str(b), want));
    if (b->p != NULL)
        assert_int_equal(b->p[b->n], '\0');
}

static void writes_follow_one_another(void **state) {
    (void)state;
    struct buf b = BUF_INIT(1000);
    assert_true(str_equal(buf_str(&b), STR("")));
    buf_put(&b, STR("a\0b"));
    buf_putc(&b, 'c');
    buf_putz(&b, "de");
    buf_put(&b, STR_NONE);
    buf_put(&b, STR(""));
    buf_printf(&b, "%s-%d", "f", 7);
    assert_int_equal(buf_status(&b), OK);
    assert_holds(&b, STR("a\0bcdef-7"));
    buf_release(&b);
    assert_null(b.p);
}

static void the_ceiling_is_exact(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 100; i++) {
        buf_putc(&b, (char)('a' + i % 26));
        assert_int_equal(buf_status(&b), OK);
    }
    assert_true(b.room <= 101);
    buf_putc(&b, 'x');
    assert_int_equal(buf_status(&b), ERR_LIMIT);
    assert_int_equal(b.n, 100);
    buf_release(&b);

    struct buf none = BUF_INIT(0);
    buf_put(&none, STR(""));
    assert_int_equal(buf_status(&none), OK);
    buf_putc(&none, 'x');
    assert_int_equal(buf_status(&none), ERR_LIMIT);
    buf_release(&none);
}

static void a_failed_buffer_ignores_writes_until_cleared(void **state) {
    (void)state;
    struct buf b = BUF_INIT(4);
    buf_putz(&b, "abc");
    buf_putz(&b, "de"); /* one too many: nothing of it goes in */
    buf_putc(&b, 'f');  /* this would fit */
    buf_printf(&b, "g");
    assert_null(buf_reserve(&b, 1));
    assert_int_equal(buf_status(&b), ERR_LIMIT);
    assert_holds(&b, STR("abc"));
    buf_clear(&b);
    assert_int_equal(buf_status(&b), OK);
    assert_holds(&b, STR(""));
    buf_printf(&b, "%s", "long text");
    assert_int_equal(buf_status(&b), ERR_LIMIT);
    buf_release(&b);
    assert_int_equal(buf_status(&b), OK);
    buf_putz(&b, "abcd");
    assert_int_equal(buf_status(&b), OK);
    buf_release(&b);
}

static void huge_sizes_fail_instead_of_wrapping(void **state) {
    (void)state;
    struct buf b = BUF_INIT(SIZE_MAX);
    buf_putz(&b, "abc");
    assert_null(buf_reserve(&b, SIZE_MAX - 3));
    assert_int_equal(buf_status(&b), ERR_LIMIT);
    buf_clear(&b);
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_int_equal(buf_status(&b), ERR_LIMIT);
    buf_release(&b);
}

static void large_contents_survive_growing(void **state) {
    (void)state;
    struct buf b = BUF_INIT(1 << 20);
    for (uint32_t i = 0; i < 1 << 18; i++)
        buf_put(&b, str_make(&i, sizeof(i)));
    assert_int_equal(buf_status(&b), OK);
    assert_int_equal(b.n, 1 << 20);
    for (uint32_t i = 0; i < 1 << 18; i++)
        assert_memory_equal(b.p + 4 * (size_t)i, &i, 4);
    buf_release_secret(&b);
}

static void a_buffer_can_be_appended_to_itself(void **state) {
    (void)state;
    struct buf b = BUF_INIT(1000);
    buf_putz(&b, "0123456789");
    for (int i = 0; i < 5; i++)
        buf_put(&b, buf_str(&b)); /* moves on the way */
    assert_int_equal(b.n, 320);
    for (size_t i = 0; i < b.n; i++)
        assert_int_equal(b.p[i], '0' + (char)(i % 10));
    buf_release(&b);
}

static void reserved_room_is_filled_by_hand(void **state) {
    (void)state;
    struct buf b = BUF_INIT(100);
    char *p = buf_reserve(&b, 50);
    assert_non_null(p);
    memcpy(p, "hello", 5);
    buf_advance(&b, 5);
    assert_holds(&b, STR("hello"));
    p = buf_reserve(&b, 95);
    assert_non_null(p);
    memset(p, 'x', 95);
    buf_advance(&b, 95);
    assert_int_equal(b.n, 100);
    assert_non_null(buf_reserve(&b, 0));
    buf_advance(&b, 0);
    assert_null(buf_reserve(&b, 1));
    buf_release(&b);
    buf_advance(&b, 0);
    buf_putz(&b, "kept");
    memset(buf_reserve(&b, 20), 'x', 20);
    buf_advance(&b, 0); /* nothing of it after all: a NUL still ends what is there */
    assert_string_equal(b.p, "kept");
    buf_release(&b);
}

static void bytes_go_from_both_ends(void **state) {
    (void)state;
    struct buf b = BUF_INIT(100);
    buf_consume(&b, 0);
    buf_truncate(&b, 0);
    buf_putz(&b, "abcdef");
    buf_consume(&b, 2);
    assert_holds(&b, STR("cdef"));
    buf_truncate(&b, 3);
    assert_holds(&b, STR("cde"));
    buf_consume(&b, 3);
    assert_holds(&b, STR(""));
    buf_release(&b);
}

static void taken_bytes_belong_to_the_caller(void **state) {
    (void)state;
    struct buf b = BUF_INIT(100);
    size_t n = 99;
    char *p = buf_take(&b, &n);
    assert_string_equal(p, "");
    assert_int_equal(n, 0);
    free(p);
    buf_putz(&b, "abc");
    p = buf_take(&b, &n);
    assert_string_equal(p, "abc");
    assert_int_equal(n, 3);
    free(p);
    assert_null(b.p);
    buf_putz(&b, "again");
    p = buf_take(&b, NULL);
    assert_string_equal(p, "again");
    free(p);
}

static void room_that_is_not_used_is_given_back(void **state) {
    (void)state;
    struct buf b = BUF_INIT(100000);
    buf_fit(&b);
    assert_null(b.p);
    memset(buf_reserve(&b, 8000), 'x', 1000);
    buf_advance(&b, 1000);
    buf_fit(&b);
    assert_int_equal(b.room, 1001);
    assert_int_equal(b.n, 1000);
    assert_int_equal(b.p[1000], 0);
    buf_putz(&b, "more");
    assert_memory_equal(b.p + 999, "xmore", 6);
    buf_release(&b);
}

static void what_is_printed_beyond_the_room_leaves_no_trace(void **state) {
    (void)state;
    for (size_t length = 0; length < 300; length++) {
        struct buf b = BUF_INIT(200);
        char text[301] = "";
        memset(text, 'x', length);
        buf_putz(&b, "begun:");
        size_t had = b.n;
        buf_printf(&b, "%s", text);
        if (had + length <= 200) {
            assert_int_equal(buf_status(&b), OK);
            assert_int_equal(b.n, had + length);
            assert_string_equal(b.p + had, text);
        } else {
            assert_int_equal(buf_status(&b), ERR_LIMIT);
            assert_string_equal(b.p, "begun:");
            assert_int_equal(b.n, had);
        }
        buf_release(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_follow_one_another),
        cmocka_unit_test(the_ceiling_is_exact),
        cmocka_unit_test(a_failed_buffer_ignores_writes_until_cleared),
        cmocka_unit_test(huge_sizes_fail_instead_of_wrapping),
        cmocka_unit_test(large_contents_survive_growing),
        cmocka_unit_test(a_buffer_can_be_appended_to_itself),
        cmocka_unit_test(reserved_room_is_filled_by_hand),
        cmocka_unit_test(bytes_go_from_both_ends),
        cmocka_unit_test(taken_bytes_belong_to_the_caller),
        cmocka_unit_test(room_that_is_not_used_is_given_back),
        cmocka_unit_test(what_is_printed_beyond_the_room_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
