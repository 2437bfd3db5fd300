/* A dialogue as text for people. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/limits.h"
#include "server/smtp/transcript.h"

static void test_lines_of_both_sides(void **state) {
    (void)state;
    struct transcript t;
    struct reply r = {
        .code = 550, .enhanced = {5, 1, 1}, .line_count = 3, .text = STR("no\n\nsuch")};
    transcript_init(&t, true);
    transcript_client(&t, STR("MAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\n"));
    transcript_server(&t, &r);
    transcript_note(&t, "message, %d octets", 7);
    assert_true(str_equal(transcript_text(&t),
                          STR("C: MAIL FROM:<a@b.c>\nC: RCPT TO:<d@e.f>\nS: 550-5.1.1 no\n"
                              "S: 550-5.1.1\nS: 550 5.1.1 such\nC: (message, 7 octets)\n")));
    transcript_release(&t);
}

static void test_it_is_cut_at_its_limit(void **state) {
    (void)state;
    struct transcript t;
    transcript_init(&t, true);
    for (int i = 0; i < 10000; i++)
        transcript_client(&t, STR("NOOP\r\n"));
    struct str text = transcript_text(&t);
    assert_true(text.n <= LIMIT_TRANSCRIPT && text.n > LIMIT_TRANSCRIPT - 32);
    assert_true(str_ends_with(text, STR("C: NOOP\n(cut)\n")));
    transcript_clear(&t);
    transcript_client(&t, STR("NOOP\r\n"));
    assert_true(str_equal(transcript_text(&t), STR("C: NOOP\n")));
    transcript_release(&t);
}

static void test_off_is_empty(void **state) {
    (void)state;
    struct transcript t;
    transcript_init(&t, false);
    transcript_client(&t, STR("NOOP\r\n"));
    transcript_note(&t, "x");
    assert_int_equal(transcript_text(&t).n, 0);
    transcript_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_of_both_sides),
        cmocka_unit_test(test_it_is_cut_at_its_limit),
        cmocka_unit_test(test_off_is_empty),
    };
    return cmocka_run_group_tests_name("transcript", tests, NULL, NULL);
}
