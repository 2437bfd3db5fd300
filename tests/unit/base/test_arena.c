#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/arena.h"

static void memory_is_zeroed_aligned_and_apart(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 4000, 4096, 5000, 70000, 1, 300000, 3};
    enum { COUNT = sizeof(sizes) / sizeof(sizes[0]) };
    struct arena *a = arena_new();
    for (int round = 0; round < 3; round++) {
        unsigned char *got[COUNT];
        size_t total = 0;
        for (size_t i = 0; i < COUNT; i++) {
            got[i] = arena_alloc(a, sizes[i]);
            assert_int_equal((uintptr_t)got[i] % _Alignof(max_align_t), 0);
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(got[i][j], 0);
            memset(got[i], (int)i + 1, sizes[i]);
            total += sizes[i];
        }
        for (size_t i = 0; i < COUNT; i++)
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(got[i][j], i + 1);
        for (size_t i = 1; i < COUNT; i++)
            assert_ptr_not_equal(got[i], got[i - 1]);
        assert_int_equal(arena_size(a), total);
        arena_clear(a);
        assert_int_equal(arena_size(a), 0);
    }
    arena_free(&a);
    assert_null(a);
    arena_free(&a);
}

static void many_small_things_fit(void **state) {
    (void)state;
    struct arena *a = arena_new();
    int *things[20000];
    for (int i = 0; i < 20000; i++) {
        things[i] = ARENA_NEW(a, int);
        *things[i] = i;
    }
    for (int i = 0; i < 20000; i++)
        assert_int_equal(*things[i], i);
    int *row = ARENA_ARRAY(a, int, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(row[i], 0);
    arena_free(&a);
}

static void text_is_copied_with_a_nul(void **state) {
    (void)state;
    struct arena *a = arena_new();
    char source[] = "abcdef";
    struct str copy = arena_dup(a, str_make(source + 1, 3));
    char *z = arena_dupz(a, str_make(source + 2, 2));
    source[2] = 'X';
    assert_true(str_equal(copy, STR("bcd")));
    assert_int_equal(copy.p[3], '\0');
    assert_string_equal(z, "cd");
    assert_true(str_is_absent(arena_dup(a, STR_NONE)));
    assert_false(str_is_absent(arena_dup(a, STR(""))));
    assert_string_equal(arena_dupz(a, STR_NONE), "");
    struct str made = arena_printf(a, "%s:%d", "port", 25);
    assert_true(str_equal(made, STR("port:25")));
    assert_int_equal(made.p[made.n], '\0');
    arena_free(&a);
}

static void what_is_printed_beyond_a_block_leaves_no_trace(void **state) {
    (void)state;
    char text[400] = "";
    memset(text, 'x', sizeof text - 1);
    for (size_t length = 0; length < sizeof text; length++) {
        struct arena *a = arena_new();
        for (int i = 0; i < 60; i++) { /* over several blocks */
            struct str s = arena_printf(a, "%.*s", (int)length, text);
            assert_int_equal(s.n, length);
            assert_memory_equal(s.p, text, length);
            assert_int_equal(s.p[length], 0);
            const char *next = arena_alloc(a, 16);
            for (size_t j = 0; j < 16; j++)
                assert_int_equal(next[j], 0);
        }
        arena_free(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_aligned_and_apart),
        cmocka_unit_test(many_small_things_fit),
        cmocka_unit_test(text_is_copied_with_a_nul),
        cmocka_unit_test(what_is_printed_beyond_a_block_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
