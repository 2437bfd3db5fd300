#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/mime.h"

static void media_types_are_parsed_strictly(void **state) {
    (void)state;
    static const struct {
        const char *in;
        int parameters; /* -1: refused */
    } rows[] = {
        {"text/plain", 0},
        {"TEXT/Plain", 0},
        {"application/vnd.openxmlformats-officedocument.wordprocessingml.document", 0},
        {"image/svg+xml", 0},
        {"text/plain; charset=utf-8", 1},
        {"text/plain;charset=\"utf-8\" ; format=flowed", 2},
        {"text/plain; name*=utf-8''x%20y", 1},
        {"text/plain; x=\"a;b \\\" c\"", 1},
        {"text/plain;", 0},
        {"text/plain ; ", 0},
        {"", -1},
        {"text", -1},
        {"text/", -1},
        {"/plain", -1},
        {"text/plain/x", -1},
        {"text plain", -1},
        {" text/plain", -1},
        {"text/plain charset=utf-8", -1},
        {"text/plain; charset", -1},
        {"text/plain; charset=", -1},
        {"text/plain; =x", -1},
        {"text/plain; charset=\"utf-8", -1},
        {"text/plain; charset=\"utf-8\\", -1},
        {"text/plain; charset=a b", -1},
        {"text/plain; charset=a; CHARSET=b", -1},
        {"text/plain (comment)", -1},
        {"text/pl\xc3\xa4in", -1},
        {"text/plain\r\nX: y", -1},
        {"text/plain; x=\"a\nb\"", -1},
        {"text/plain\t; x=y", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct mime_type t;
        struct errinfo info = {0};
        enum err e = mime_type_parse(str_of(rows[i].in), &t, &info);
        if (rows[i].parameters < 0 ? e != ERR_INVALID || info.text[0] == 0
                                   : e != OK || t.parameter_count != (size_t)rows[i].parameters)
            fail_msg("'%s' -> %d, %zu parameters", rows[i].in, e, t.parameter_count);
    }
    struct mime_type t;
    assert_int_equal(mime_type_parse(STR("Text/Html; Charset=x"), &t, NULL), OK);
    assert_true(mime_type_is(&t, "text", "html"));
    assert_true(mime_type_is(&t, "text", NULL));
    assert_false(mime_type_is(&t, "text", "plain"));
    assert_true(mime_type_has_parameter(&t, "charset"));
    assert_false(mime_type_has_parameter(&t, "name"));
}

static void too_much_is_refused(void **state) {
    (void)state;
    struct buf b = BUF_INIT(4096);
    struct mime_type t;
    buf_putz(&b, "a/b");
    for (int i = 0; i < MIME_PARAMETERS_MAX; i++)
        buf_printf(&b, ";p%d=1", i);
    assert_int_equal(mime_type_parse(buf_str(&b), &t, NULL), OK);
    buf_putz(&b, ";x=1");
    assert_int_equal(mime_type_parse(buf_str(&b), &t, NULL), ERR_INVALID);
    buf_clear(&b);
    buf_putz(&b, "a/");
    while (b.n < MIME_TYPE_MAX)
        buf_putc(&b, 'b');
    assert_int_equal(mime_type_parse(buf_str(&b), &t, NULL), OK);
    buf_putc(&b, 'b');
    assert_int_equal(mime_type_parse(buf_str(&b), &t, NULL), ERR_INVALID);
    buf_release(&b);
}

static void test_M20_multiparts_are_delimited(void **state) {
    (void)state;
    static const uint8_t seed[16] = {1};
    struct buf out = BUF_INIT(4096);
    struct mime_writer w = {.out = &out, .seed = seed};
    mime_open(&w, "related", "text/html");
    char outer[MIME_BOUNDARY_SIZE];
    memcpy(outer, w.open[0].boundary, sizeof outer);
    mime_next(&w);
    mime_open(&w, "alternative", NULL);
    char inner[MIME_BOUNDARY_SIZE];
    memcpy(inner, w.open[1].boundary, sizeof inner);
    mime_next(&w);
    buf_putz(&out, "\r\na");
    mime_close(&w);
    mime_next(&w);
    buf_putz(&out, "\r\nb\r\n");
    mime_close(&w);
    char want[1024];
    snprintf(want, sizeof want,
             "Content-Type: multipart/related; type=\"text/html\";\r\n boundary=\"%s\"\r\n\r\n"
             "--%s\r\nContent-Type: multipart/alternative;\r\n boundary=\"%s\"\r\n\r\n"
             "--%s\r\n\r\na\r\n--%s--\r\n--%s\r\n\r\nb\r\n\r\n--%s--",
             outer, outer, inner, inner, inner, outer, outer);
    assert_string_equal(out.p, want);
    assert_string_not_equal(outer, inner);
    assert_int_equal(strlen(outer), 34);
    assert_memory_equal(outer, "=_", 2);
    buf_release(&out);
}

/* Contents hold the boundaries that the seed gives, one after the other. */
static void test_T14_a_boundary_is_never_in_a_part(void **state) {
    (void)state;
    static const uint8_t seed[16] = {7, 7, 7};
    struct buf content = BUF_INIT(1 << 16);
    char last[MIME_BOUNDARY_SIZE] = "";
    for (int i = 0; i < 20; i++) {
        struct buf out = BUF_INIT(4096);
        struct str parts[2] = {STR("harmless"), buf_str(&content)};
        struct mime_writer w = {
            .out = &out, .seed = seed, .unencoded = parts, .unencoded_count = 2};
        mime_open(&w, "mixed", NULL);
        assert_true(str_find(buf_str(&content), str_of(w.open[0].boundary)) < 0);
        assert_string_not_equal(w.open[0].boundary, last);
        memcpy(last, w.open[0].boundary, sizeof last);
        buf_printf(&content, "x\r\n--%s\r\nContent-Type: text/html\r\n\r\n--%s--\r\n", last, last);
        buf_release(&out);
    }
    buf_release(&content);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(media_types_are_parsed_strictly),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(test_M20_multiparts_are_delimited),
        cmocka_unit_test(test_T14_a_boundary_is_never_in_a_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
