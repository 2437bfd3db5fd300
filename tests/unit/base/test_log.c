#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/thread.h"

static const int64_t T = 1769860800123; /* 2026-01-31T12:00:00.123Z */
static const struct id an_id = {{0x01, 0x7f, 0x22, 0xe2, 0x79, 0xb0, 0x7c, 0xc3, 0x98, 0xc4, 0xdc,
                                 0x0c, 0x0c, 0x07, 0x39, 0x8f}};

static char *line(enum log_format format, enum log_level level, const char *message,
                  const struct log_field *fields) {
    struct buf b = BUF_INIT(100000);
    log_format_line(&b, format, level, T, "delivery", message, fields);
    assert_int_equal(buf_status(&b), OK);
    return buf_take(&b, NULL);
}

static void a_line_says_when_what_who_and_the_fields(void **state) {
    (void)state;
    const struct log_field fields[] = {
        LOG_ID("message", &an_id), LOG_STR("site", STR("mx.test")), LOG_INT("ms", -12), {0}};
    char *text = line(LOG_FORMAT_TEXT, LOG_INFO, "delivered", fields);
    assert_string_equal(text, "12:00:00.123 INFO  delivery: delivered "
                              "message=017f22e2-79b0-7cc3-98c4-dc0c0c07398f site=mx.test ms=-12\n");
    free(text);
    text = line(LOG_FORMAT_JSON, LOG_WARN, "delivered", fields);
    assert_string_equal(text, "{\"ts\":\"2026-01-31T12:00:00.123Z\",\"level\":\"warn\","
                              "\"room\":\"delivery\",\"msg\":\"delivered\","
                              "\"message\":\"017f22e2-79b0-7cc3-98c4-dc0c0c07398f\","
                              "\"site\":\"mx.test\",\"ms\":-12}\n");
    free(text);
    text = line(LOG_FORMAT_TEXT, LOG_ERROR, "nothing to add", NULL);
    assert_string_equal(text, "12:00:00.123 ERROR delivery: nothing to add\n");
    free(text);
}

static void test_T22_values_cannot_break_out(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct str in;
        const char *text, *json;
    } rows[] = {
        {"plain", {"a/b@c", 5}, "a/b@c", "\"a/b@c\""},
        {"space", {"a b", 3}, "\"a b\"", "\"a b\""},
        {"empty", {"", 0}, "\"\"", "\"\""},
        {"absent", {NULL, 0}, "-", "null"},
        {"a dash is not absent", {"-", 1}, "\"-\"", "\"-\""},
        {"quote and backslash", {"a\"\\", 3}, "\"a\\\"\\\\\"", "\"a\\\"\\\\\""},
        {"forged field", {"x level=error", 13}, "\"x level=error\"", "\"x level=error\""},
        {"forged line", {"x\r\ny", 4}, "\"x\\u000d\\u000ay\"", "\"x\\u000d\\u000ay\""},
        {"terminal escape", {"\x1b[2J", 4}, "\"\\u001b[2J\"", "\"\\u001b[2J\""},
        {"NUL", {"a\0b", 3}, "\"a\\u0000b\"", "\"a\\u0000b\""},
        {"DEL", {"\x7f", 1}, "\"\\u007f\"", "\"\\u007f\""},
        {"C1 CSI", {"\xc2\x9b", 2}, "\"\\u009b\"", "\"\\u009b\""},
        {"Latin-1", {"caf\xe9!", 5}, "\"caf\\ufffd!\"", "\"caf\\ufffd!\""},
        {"surrogate",
         {"\xed\xa0\x80", 3},
         "\"\\ufffd\\ufffd\\ufffd\"",
         "\"\\ufffd\\ufffd\\ufffd\""},
        {"line separator", {"\xe2\x80\xa8", 3}, "\"\\u2028\"", "\"\\u2028\""},
        {"right-to-left override", {"\xe2\x80\xae", 3}, "\"\\u202e\"", "\"\\u202e\""},
        {"other languages stay",
         {"\xc3\xa9\xf0\x9f\x93\xa8", 6},
         "\xc3\xa9\xf0\x9f\x93\xa8",
         "\"\xc3\xa9\xf0\x9f\x93\xa8\""},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        const struct log_field fields[] = {LOG_STR("k", rows[i].in), {0}};
        char want[200];
        char *got = line(LOG_FORMAT_TEXT, LOG_INFO, "m", fields);
        snprintf(want, sizeof(want), "12:00:00.123 INFO  delivery: m k=%s\n", rows[i].text);
        assert_string_equal(got, want);
        free(got);
        got = line(LOG_FORMAT_JSON, LOG_INFO, "m", fields);
        snprintf(want, sizeof(want), "\"msg\":\"m\",\"k\":%s}\n", rows[i].json);
        assert_string_equal(strstr(got, "\"msg\""), want);
        free(got);
    }
}

static void test_T22_any_bytes_give_one_json_object_on_one_line(void **state) {
    (void)state;
    uint32_t seed = 12345;
    for (int i = 0; i < 3000; i++) {
        char bytes[700];
        size_t n = (size_t)i % sizeof(bytes);
        for (size_t j = 0; j < n; j++) {
            seed = seed * 1664525 + 1013904223;
            bytes[j] = (char)(seed >> 24);
        }
        const struct log_field fields[] = {LOG_STR("value", str_make(bytes, n)), {0}};
        char *got = line(LOG_FORMAT_JSON, LOG_INFO, "m", fields);
        json_error_t error;
        json_t *o = json_loads(got, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
        assert_non_null(o);
        assert_true(json_is_string(json_object_get(o, "value")));
        json_decref(o);
        assert_ptr_equal(strchr(got, '\n'), got + strlen(got) - 1);
        free(got);
        got = line(LOG_FORMAT_TEXT, LOG_INFO, "m", fields);
        assert_ptr_equal(strchr(got, '\n'), got + strlen(got) - 1);
        assert_false(str_has_control(str_make(got, strlen(got) - 1), false));
        free(got);
    }
}

static void long_values_are_cut_between_characters(void **state) {
    (void)state;
    char value[600];
    memset(value, 'x', sizeof(value));
    memcpy(value + 510, "\xe2\x82\xac", 3); /* over the edge */
    const struct log_field fields[] = {LOG_STR("k", str_make(value, sizeof(value))), {0}};
    char *got = line(LOG_FORMAT_TEXT, LOG_INFO, "m", fields);
    const char *at = strstr(got, "k=\"");
    assert_non_null(at);
    assert_int_equal(strlen(at), 3 + 510 + 3 + 2); /* k=" ... three points, quote, LF */
    assert_string_equal(at + 3 + 510, "...\"\n");
    free(got);
    const struct log_field fits[] = {LOG_STR("k", str_make(value, 510)), {0}};
    got = line(LOG_FORMAT_TEXT, LOG_INFO, "m", fits);
    assert_null(strstr(got, "..."));
    free(got);
}

static void levels_are_read_and_obeyed(void **state) {
    (void)state;
    enum log_level level = LOG_DEBUG;
    assert_int_equal(log_parse_level(STR("warn"), &level), OK);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_parse_level(STR("ERROR"), &level), OK);
    assert_int_equal(level, LOG_ERROR);
    assert_int_equal(log_parse_level(STR("warning"), &level), ERR_INVALID);
    assert_int_equal(log_parse_level(STR(""), &level), ERR_INVALID);
    assert_int_equal(level, LOG_ERROR);
    log_setup(LOG_WARN, LOG_FORMAT_TEXT);
    assert_false(log_is_on(LOG_DEBUG));
    assert_false(log_is_on(LOG_INFO));
    assert_true(log_is_on(LOG_WARN));
    assert_true(log_is_on(LOG_ERROR));
    log_setup(LOG_INFO, LOG_FORMAT_TEXT);
}

enum { THREADS = 4, LINES = 200 };

static void write_lines(void *arg) {
    for (int i = 0; i < LINES; i++) {
        log_info("test", "line", LOG_INT("thread", (intptr_t)arg), LOG_INT("line", i));
        log_debug("test", "not shown");
    }
}

static void lines_of_threads_never_mix(void **state) {
    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    int saved = dup(STDERR_FILENO);
    /* appending, as when standard error is a log file */
    assert_int_equal(fcntl(fileno(file), F_SETFL, O_APPEND), 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    log_setup(LOG_INFO, LOG_FORMAT_JSON);
    struct thread *threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        threads[i] = thread_start("log", write_lines, (void *)i);
    for (int i = 0; i < THREADS; i++)
        thread_join(&threads[i]);
    log_setup(LOG_INFO, LOG_FORMAT_TEXT);
    dup2(saved, STDERR_FILENO);
    close(saved);

    int next[THREADS] = {0};
    char text[1000];
    rewind(file);
    while (fgets(text, sizeof(text), file) != NULL) {
        json_t *o = json_loads(text, 0, NULL);
        assert_non_null(o);
        int thread = (int)json_integer_value(json_object_get(o, "thread"));
        assert_in_range(thread, 0, THREADS - 1);
        assert_int_equal(json_integer_value(json_object_get(o, "line")), next[thread]++);
        int64_t at;
        assert_int_equal(
            clock_parse_rfc3339(str_of(json_string_value(json_object_get(o, "ts"))), &at), OK);
        json_decref(o);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(next[i], LINES);
    fclose(file);
}

/* What a signal handler may say: the same lines, without a value that needs escapes. */
static void a_signal_handler_writes_the_same_lines(void **state) {
    (void)state;
    int ends[2], saved = dup(STDERR_FILENO);
    char text[600];
    assert_int_equal(pipe(ends), 0);
    for (int format = 0; format < 2; format++) {
        assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
        log_setup(LOG_WARN, format ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
        log_signal_safe(LOG_INFO, "test", "not shown", "n", 1);
        log_signal_safe(LOG_ERROR, "test", "happened", "n", -7);
        log_setup(LOG_INFO, LOG_FORMAT_TEXT);
        dup2(saved, STDERR_FILENO);
        ssize_t n = read(ends[0], text, sizeof text - 1);
        assert_in_range(n, 1, 599);
        text[n] = 0;
        assert_ptr_equal(strchr(text, '\n'), text + n - 1);
        if (format) {
            json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
            assert_string_equal(json_string_value(json_object_get(o, "msg")), "happened");
            assert_string_equal(json_string_value(json_object_get(o, "level")), "error");
            assert_int_equal(json_integer_value(json_object_get(o, "n")), -7);
            json_decref(o);
        } else {
            assert_non_null(strstr(text, " ERROR test: happened n=-7\n"));
        }
    }
    close(saved);
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_says_when_what_who_and_the_fields),
        cmocka_unit_test(test_T22_values_cannot_break_out),
        cmocka_unit_test(test_T22_any_bytes_give_one_json_object_on_one_line),
        cmocka_unit_test(long_values_are_cut_between_characters),
        cmocka_unit_test(levels_are_read_and_obeyed),
        cmocka_unit_test(lines_of_threads_never_mix),
        cmocka_unit_test(a_signal_handler_writes_the_same_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
