#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "server/base/id.h"
#include "server/base/thread.h"

static const int64_t T = 1769860800123;

static void an_id_is_a_version_7_uuid(void **state) {
    (void)state;
    struct id id = id_new(T);
    assert_int_equal(id.b[6] >> 4, 7);
    assert_int_equal(id.b[8] >> 6, 2);
    assert_true(id_wall_ms(&id) == T);
    assert_false(id_is_zero(&id));
    const struct id zero = {{0}};
    assert_true(id_is_zero(&zero));
    /* the time of RFC 9562 A.6 */
    struct id rfc = id_new(0x017F22E279B0);
    char text[ID_TEXT_SIZE];
    id_print(&rfc, text);
    assert_memory_equal(text, "017f22e2-79b0-7", 15);
}

static void ids_of_one_millisecond_ascend(void **state) {
    (void)state;
    struct id last = id_new(T + 1000);
    for (int i = 0; i < 200000; i++) {
        struct id id = id_new(T + 1000);
        assert_true(memcmp(last.b, id.b, ID_BYTES) < 0);
        last = id;
    }
    assert_true(id_wall_ms(&last) == T + 1000);
}

static void small_steps_back_still_ascend_and_large_ones_follow_the_clock(void **state) {
    (void)state;
    struct id a = id_new(T + 5000);
    struct id b = id_new(T + 4950);
    struct id c = id_new(T + 5001);
    assert_true(memcmp(a.b, b.b, ID_BYTES) < 0);
    assert_true(memcmp(b.b, c.b, ID_BYTES) < 0);
    struct id d = id_new(T + 2000);
    assert_true(id_wall_ms(&d) == T + 2000);
}

static void printing_and_parsing_are_inverse(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) {
        struct id id = id_new(T + i), back;
        char text[ID_TEXT_SIZE];
        id_print(&id, text);
        assert_int_equal(strlen(text), ID_TEXT);
        for (int j = 0; j < ID_TEXT; j++)
            assert_true(text[j] == ascii_lower(text[j]));
        assert_int_equal(id_parse(str_of(text), &back), OK);
        assert_true(id_equal(&id, &back));
    }
}

static void only_36_characters_of_uuid_are_an_id(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct str in;
        enum err want;
    } rows[] = {
        {"lower case", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398f", 36}, OK},
        {"upper case", {"017F22E2-79B0-7CC3-98C4-DC0C0C07398F", 36}, OK},
        {"no terminator needed", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398fXXX", 36}, OK},
        {"too long", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398f0", 37}, ERR_INVALID},
        {"too short", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398", 35}, ERR_INVALID},
        {"not hex", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398g", 36}, ERR_INVALID},
        {"dash moved", {"017f22e279-b0-7cc3-98c4-dc0c0c07398f", 36}, ERR_INVALID},
        {"NUL inside", {"017f22e2-79b0-7cc3-98c4-dc0c0c07398\0", 36}, ERR_INVALID},
        {"space in front", {" 017f22e2-79b0-7cc3-98c4-dc0c0c07398", 36}, ERR_INVALID},
        {"sign", {"+17f22e2-79b0-7cc3-98c4-dc0c0c07398f", 36}, ERR_INVALID},
        {"empty", {"", 0}, ERR_INVALID},
        {"absent", {NULL, 0}, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        struct id id = {{1, 2, 3}};
        assert_int_equal(id_parse(rows[i].in, &id), rows[i].want);
        assert_int_equal(id.b[15], rows[i].want == OK ? 0x8f : 0);
    }
}

enum { THREADS = 4, PER_THREAD = 5000 };
static struct id made[THREADS][PER_THREAD];

static void make_ids(void *arg) {
    struct id *row = arg;
    for (int i = 0; i < PER_THREAD; i++)
        row[i] = id_new(T + 9000);
}

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, ID_BYTES);
}

static void threads_never_make_the_same_id(void **state) {
    (void)state;
    struct thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start("ids", make_ids, made[i]);
    for (int i = 0; i < THREADS; i++)
        thread_join(&threads[i]);
    for (int i = 0; i < THREADS; i++)
        for (int j = 1; j < PER_THREAD; j++)
            assert_true(by_bytes(&made[i][j - 1], &made[i][j]) < 0);
    struct id *all = &made[0][0];
    qsort(all, (size_t)THREADS * PER_THREAD, sizeof(*all), by_bytes);
    for (size_t i = 1; i < (size_t)THREADS * PER_THREAD; i++)
        assert_false(id_equal(&all[i - 1], &all[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_id_is_a_version_7_uuid),
        cmocka_unit_test(ids_of_one_millisecond_ascend),
        cmocka_unit_test(small_steps_back_still_ascend_and_large_ones_follow_the_clock),
        cmocka_unit_test(printing_and_parsing_are_inverse),
        cmocka_unit_test(only_36_characters_of_uuid_are_an_id),
        cmocka_unit_test(threads_never_make_the_same_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
