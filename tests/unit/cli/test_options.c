#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/cli/options.h"

static const struct option_spec specs[] = {
    {"to", 0, OPTION_TEXT, "ADDRESS", "a recipient"},
    {"wait", 'w', OPTION_OPTIONAL, "SECONDS", "waits"},
    {"json", 'j', OPTION_FLAG, NULL, "prints JSON"},
    {"data", 'd', OPTION_TEXT, "FOLDER", "the store"},
};
enum { SPEC_COUNT = sizeof specs / sizeof specs[0] };

/* Words separated by spaces; at most 16. */
static int split(char *line, char **argv) {
    int n = 0;
    for (char *save = NULL, *w = strtok_r(line, " ", &save); w && n < 16;
         w = strtok_r(NULL, " ", &save))
        argv[n++] = w;
    return n;
}

static void print_parsed(const struct options *o, struct buf *out) {
    for (size_t i = 0; i < o->value_count; i++)
        buf_printf(out, "%s=%s;", o->value[i].spec->name,
                   o->value[i].text ? o->value[i].text : "(none)");
    for (size_t i = 0; i < o->word_count; i++)
        buf_printf(out, "[%s]", o->word[i]);
}

static void options_and_words_are_told_apart(void **state) {
    (void)state;
    static const struct {
        const char *line, *want;
    } rows[] = {
        {"", ""},
        {"a b", "[a][b]"},
        {"--to x", "to=x;"},
        {"--to=x", "to=x;"},
        {"--to=", "to=;"},
        {"--to=a=b", "to=a=b;"},
        {"--to --json", "to=--json;"}, /* a value may look like an option */
        {"--to x --to y", "to=x;to=y;"},
        {"word --json more", "json=(none);[word][more]"},
        {"-j -d folder", "json=(none);data=folder;"},
        {"-d=folder", "data=folder;"},
        {"--wait 5", "wait=(none);[5]"}, /* an optional value only with = */
        {"--wait=5", "wait=5;"},
        {"-w=5", "wait=5;"},
        {"-", "[-]"},
        {"-- --to x", "[--to][x]"},
        {"--json -- -", "json=(none);[-]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char line[64], *argv[16];
        snprintf(line, sizeof line, "%s", rows[i].line);
        struct options o;
        struct errinfo info = {0};
        struct buf got = BUF_INIT(512);
        int argc = split(line, argv);
        assert_int_equal(options_parse(specs, SPEC_COUNT, argc, argv, &o, &info), OK);
        print_parsed(&o, &got);
        assert_string_equal(got.p ? got.p : "", rows[i].want);
        options_release(&o);
        buf_release(&got);
    }
}

static void faults_name_the_option(void **state) {
    (void)state;
    static const struct {
        const char *line, *field, *text;
    } rows[] = {
        {"--too x", "--too", "no such option"},
        {"--t x", "--t", "no such option"}, /* no abbreviations */
        {"--tox=x", "--tox", "no such option"},
        {"-x", "-x", "no such option"},
        {"-jd", "-jd", "no such option"}, /* no bundles */
        {"--=x", "--", "no such option"},
        {"--to", "--to", "needs a value: ADDRESS"},
        {"--json=1", "--json", "takes no value"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char line[64], *argv[16];
        snprintf(line, sizeof line, "%s", rows[i].line);
        struct options o;
        struct errinfo info = {0};
        int argc = split(line, argv);
        assert_int_equal(options_parse(specs, SPEC_COUNT, argc, argv, &o, &info), ERR_INVALID);
        assert_string_equal(info.field, rows[i].field);
        assert_non_null(strstr(info.text, rows[i].text));
        options_release(&o);
    }
}

static void values_are_found_by_name(void **state) {
    (void)state;
    char line[] = "--to a --wait --to b --data 7 -w=30";
    char *argv[16];
    struct options o;
    int64_t n = 0;
    struct errinfo info = {0};
    int argc = split(line, argv);
    assert_int_equal(options_parse(specs, SPEC_COUNT, argc, argv, &o, NULL), OK);
    assert_true(options_has(&o, "wait"));
    assert_false(options_has(&o, "json"));
    assert_string_equal(options_text(&o, "to", NULL), "b"); /* the last one */
    assert_string_equal(options_nth(&o, "to", 0), "a");
    assert_string_equal(options_nth(&o, "to", 1), "b");
    assert_null(options_nth(&o, "to", 2));
    assert_null(options_nth(&o, "wait", 1));
    assert_string_equal(options_text(&o, "json", "fallback"), "fallback");
    assert_int_equal(options_number(&o, "wait", 1, 60, 10, &n, &info), OK);
    assert_int_equal(n, 30);
    assert_int_equal(options_number(&o, "json", 1, 60, 10, &n, &info), OK);
    assert_int_equal(n, 10);
    assert_int_equal(options_number(&o, "wait", 31, 60, 10, &n, &info), ERR_INVALID);
    assert_int_equal(options_number(&o, "wait", 1, 29, 10, &n, &info), ERR_INVALID);
    assert_string_equal(info.field, "--wait");
    assert_int_equal(options_number(&o, "to", 1, 29, 10, &n, &info), ERR_INVALID);
    options_release(&o);
}

static void help_shows_every_option(void **state) {
    (void)state;
    struct buf out = BUF_INIT(4096);
    options_print(specs, SPEC_COUNT, &out);
    assert_non_null(strstr(out.p, "      --to ADDRESS          a recipient\n"));
    assert_non_null(strstr(out.p, "  -w, --wait[=SECONDS]      waits\n"));
    assert_non_null(strstr(out.p, "  -j, --json                prints JSON\n"));
    buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_words_are_told_apart),
        cmocka_unit_test(faults_name_the_option),
        cmocka_unit_test(values_are_found_by_name),
        cmocka_unit_test(help_shows_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
