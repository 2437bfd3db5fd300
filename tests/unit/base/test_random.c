#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/base/random.h"
#include "server/base/thread.h"

static void sizes_are_filled_and_nothing_beyond(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 127, 128, 129, 512, 513, 5000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned char seen[5001] = {0}, p[5001];
        for (int round = 0; round < 40; round++) {
            memset(p, 0, sizeof(p));
            random_bytes(p, sizes[i]);
            assert_int_equal(p[sizes[i]], 0);
            for (size_t j = 0; j < sizes[i]; j++)
                seen[j] |= p[j];
        }
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_not_equal(seen[j], 0); /* false alarm: 1 in 256^40 */
    }
}

static void numbers_do_not_repeat(void **state) {
    (void)state;
    uint64_t last = random_u64(), bits = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t v = random_u64();
        assert_true(v != last);
        bits |= v ^ last;
        last = v;
    }
    assert_true(bits == UINT64_MAX);
}

static void below_is_below_and_reaches_everything(void **state) {
    (void)state;
    unsigned seen[10] = {0};
    for (int i = 0; i < 10000; i++) {
        uint64_t v = random_below(10);
        assert_true(v < 10);
        seen[v]++;
    }
    for (int i = 0; i < 10; i++) { /* 1000 +- 10 standard deviations of 30 */
        assert_true(seen[i] > 700);
        assert_true(seen[i] < 1300);
    }
    assert_true(random_below(1) == 0);
    /* Of three quarters of the range, a plain remainder draws the first third every other time. */
    unsigned first_third = 0;
    for (int i = 0; i < 10000; i++)
        first_third += random_below(UINT64_C(3) << 62) < UINT64_C(1) << 62;
    assert_in_range(first_third, 2900, 3800);
    for (int i = 0; i < 100; i++)
        assert_true(random_below((UINT64_MAX >> 1) + 2) <= (UINT64_MAX >> 1) + 1);
}

static void a_forked_child_draws_other_numbers(void **state) {
    (void)state;
    (void)random_u64(); /* the buffer of this thread is filled */
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        uint64_t v = random_u64();
        _exit(write(fd[1], &v, sizeof(v)) == (ssize_t)sizeof(v) ? 0 : 1);
    }
    uint64_t ours = random_u64(), theirs = 0;
    assert_int_equal(read(fd[0], &theirs, sizeof(theirs)), sizeof(theirs));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(ours != theirs);
    close(fd[0]);
    close(fd[1]);
}

static void draw(void *arg) {
    *(uint64_t *)arg = random_u64();
}

static void threads_draw_other_numbers(void **state) {
    (void)state;
    uint64_t v[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        struct thread *t = thread_start("draw", draw, &v[i]);
        thread_join(&t);
    }
    assert_true(v[0] != v[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_filled_and_nothing_beyond),
        cmocka_unit_test(numbers_do_not_repeat),
        cmocka_unit_test(below_is_below_and_reaches_everything),
        cmocka_unit_test(a_forked_child_draws_other_numbers),
        cmocka_unit_test(threads_draw_other_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
