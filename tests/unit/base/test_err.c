#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/base/table.h" /* and err.h */

static void every_error_has_its_own_name(void **state) {
    (void)state;
    for (unsigned i = 0; i < ERR_COUNT; i++) {
        assert_non_null(err_name((enum err)i));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(err_name((enum err)i), err_name((enum err)j));
    }
    assert_string_equal(err_name(OK), "ok");
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    assert_string_equal(err_name(ERR_COUNT), "unknown");
}

static void the_reason_is_kept_and_the_error_returned(void **state) {
    (void)state;
    struct errinfo info = {0};
    assert_int_equal(err_set(&info, ERR_INVALID, "port", "%d is not a port", 70000), ERR_INVALID);
    assert_string_equal(info.field, "port");
    assert_string_equal(info.text, "70000 is not a port");
    assert_int_equal(err_set(&info, ERR_LIMIT, NULL, "full"), ERR_LIMIT);
    assert_string_equal(info.field, "");
    assert_int_equal(err_set(NULL, ERR_AGAIN, "x", "%s", "y"), ERR_AGAIN);
}

static void long_reasons_are_cut(void **state) {
    (void)state;
    char text[1000];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    struct errinfo info;
    assert_int_equal(err_set(&info, ERR_INVALID, text, "%s", text), ERR_INVALID);
    assert_int_equal(strlen(info.field), sizeof(info.field) - 1);
    assert_int_equal(strlen(info.text), sizeof(info.text) - 1);
}

static void context_can_be_added_to_a_reason(void **state) {
    (void)state;
    struct errinfo info = {.field = "key", .text = "no such file"};
    assert_int_equal(err_set(&info, ERR_NOT_FOUND, info.field, "dkim: %s", info.text),
                     ERR_NOT_FOUND);
    assert_string_equal(info.field, "key");
    assert_string_equal(info.text, "dkim: no such file");
}

static void a_broken_promise_aborts(void **state) {
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        err_assert_failed("1 == 2", "x.c", 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    ASSERT(1 == 1);
}

static int exit_code_of(void (*fn)(void)) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        fn();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void need_something(void) {
    NEED(getpid() == 0);
}

/* What a hash table does that gets no memory. */
static void uthash_gives_up(void) {
    uthash_fatal("");
}

static void want_of_small_memory_has_its_own_exit_code(void **state) {
    (void)state;
    assert_int_equal(exit_code_of(need_something), ERR_EXIT_MEMORY);
    assert_int_equal(exit_code_of(uthash_gives_up), ERR_EXIT_MEMORY);
    NEED(1 == 1);
}

static void a_shortage_is_noted_until_it_is_forgotten(void **state) {
    (void)state;
    assert_false(mem_is_short());
    free(mem_try_zalloc(10));
    free(mem_noting_malloc(10));
    assert_false(mem_is_short());
    mem_note_short();
    free(mem_try_zalloc(10));
    assert_true(mem_is_short());
    mem_forget_short();
    assert_false(mem_is_short());
}

static void a_list_grows_and_keeps_what_is_in_it(void **state) {
    (void)state;
    int *list = mem_regrow(NULL, sizeof(*list), 2);
    list[0] = 1;
    list[1] = 2;
    list = mem_regrow(list, sizeof(*list), 1000);
    list[999] = 3;
    assert_int_equal(list[0] + list[1] + list[999], 6);
    free(list);
}

static void memory_is_zero_or_a_copy(void **state) {
    (void)state;
    char *p = mem_zalloc(100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(p[i], 0);
    free(p);
    p = mem_dup("abc", 4);
    assert_string_equal(p, "abc");
    free(p);
    free(mem_zalloc(0));
    free(mem_dup(NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_has_its_own_name),
        cmocka_unit_test(the_reason_is_kept_and_the_error_returned),
        cmocka_unit_test(long_reasons_are_cut),
        cmocka_unit_test(context_can_be_added_to_a_reason),
        cmocka_unit_test(a_broken_promise_aborts),
        cmocka_unit_test(want_of_small_memory_has_its_own_exit_code),
        cmocka_unit_test(a_shortage_is_noted_until_it_is_forgotten),
        cmocka_unit_test(a_list_grows_and_keeps_what_is_in_it),
        cmocka_unit_test(memory_is_zero_or_a_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
