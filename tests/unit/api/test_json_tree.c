#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "server/base/limits.h"
#include "tests/unit/api/json_same.h"
#include "tests/unit/api/malformed.inc"

static const char *const good[] = {
    "0",
    "-0",
    "12",
    "-9223372036854775808",
    "9223372036854775807",
    "1.5",
    "-0.0e-0",
    "1E+2",
    " \t\r\n null ",
    "true",
    "false",
    "\"\"",
    "[]",
    "{}",
    "[ ]",
    "{ }",
    "[[],{},[{}]]",
    "[1,2.5,\"a\",null,true,false]",
    "{\"a\":1,\"b\":{\"a\":2},\"\":3}",
    "\"a plain string that is longer than a word of the machine\"",
    "\"eight888\"",
    "\"seven77\"",
    "\"nine99999\"",
    "\"1234567\\\"90123456\\\\\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\uFFFF\\u007f\\u0080\"",
    "\"\x7f caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xef\xbf\xbf\"",
    "[\"\\n\",\"plain\",\"\\t\\t\",{\"\\u0061b\":\"\\u0062\",\"\\\"\":\"\\\\\"}]",
    "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,\"j\":10,\"aa\":11}",
};

struct parsed {
    struct arena *arena;
    char *text;
    struct json_node *root;
    struct errinfo info;
    enum err err;
};

static struct parsed parse(const char *text, size_t size) {
    struct parsed p = {.arena = arena_new(), .text = malloc(size + 1)};
    assert_non_null(p.text);
    memcpy(p.text, text, size);
    p.err = json_parse(p.text, size, p.arena, &p.root, &p.info);
    return p;
}

static void done(struct parsed *p) {
    arena_free(&p->arena);
    free(p->text);
}

static void what_is_json_is_read_as_another_reader_reads_it(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct parsed p = parse(good[i], strlen(good[i]));
        json_t *v = json_loads(good[i], JSON_DECODE_ANY, NULL);
        if (p.err != OK || v == NULL || !json_is_same(p.root, v))
            fail_msg("%s: %s", good[i], p.info.text);
        json_decref(v);
        done(&p);
    }
}

static void what_is_cut_off_is_not_json(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        for (size_t n = 0; n < strlen(good[i]); n++) {
            struct parsed p = parse(good[i], n);
            json_t *v = json_loadb(good[i], n, JSON_DECODE_ANY, NULL);
            assert_int_equal(p.err == OK, v != NULL);
            json_decref(v);
            done(&p);
        }
}

static void what_is_refused_leaves_the_text_as_it_was(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(not_json) / sizeof(not_json[0]); i++) {
        struct parsed p = parse(not_json[i].body, not_json[i].size);
        assert_int_equal(p.err, ERR_INVALID);
        assert_memory_equal(p.text, not_json[i].body, not_json[i].size);
        done(&p);
    }
}

static void a_fault_is_named_with_its_place(void **state) {
    static const struct {
        const char *text, *wanted;
    } rows[] = {
        {"{\n  \"a\": \"\\n\",\n  b", "line 3, column 3: the name of a member is missing"},
        {"", "line 1, column 1: the text ends early"},
        {"[1,\n2,]", "line 2, column 3: a value is none"},
        {"[1 2]", "line 1, column 4: a comma or ] is missing"},
        {"{\"a\":1,\"a\":2}", "line 1, column 14: an object has a member twice"},
        {"{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"\\u0061\":9}",
         "line 1, column 61: an object has a member twice"},
        {"\"\\u0000\"", "line 1, column 4: \\u0000 is in a string"},
        {"\"\\ud800x\"", "line 1, column 8: half of a surrogate pair is in a string"},
        {"\"a\nb\"", "line 1, column 3: a control character is in a string"},
        {"\"a\xff\"", "line 1, column 3: this is not UTF-8"},
        {"[1] x", "line 1, column 5: something follows the value"},
        {"99999999999999999999", "line 1, column 21: a number is too large"},
        {"01", "line 1, column 2: a number begins with 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct parsed p = parse(rows[i].text, strlen(rows[i].text));
        assert_int_equal(p.err, ERR_INVALID);
        assert_string_equal(p.info.text, rows[i].wanted);
        done(&p);
    }
}

static void a_real_number_has_a_longest_form(void **state) {
    char text[700];
    (void)state;
    for (int more = 0; more < 2; more++) {
        memset(text, '1', sizeof(text));
        memcpy(text, "0.", 2);
        struct parsed p = parse(text, (size_t)(512 + more));
        assert_int_equal(p.err, more ? ERR_INVALID : OK);
        done(&p);
    }
}

static void members_are_found_by_their_names(void **state) {
    (void)state;
    const char *text = "{\"b\":1,\"ab\":[],\"a\\u0062c\":null}";
    struct parsed p = parse(text, strlen(text));
    assert_int_equal(p.err, OK);
    assert_int_equal(json_member_of(p.root, "b")->integer, 1);
    assert_int_equal(json_member_of(p.root, "abc")->kind, JSON_IS_NULL);
    assert_null(json_member_of(p.root, "a"));
    assert_null(json_member_of(json_member_of(p.root, "ab"), "b"));
    done(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_json_is_read_as_another_reader_reads_it),
        cmocka_unit_test(what_is_cut_off_is_not_json),
        cmocka_unit_test(what_is_refused_leaves_the_text_as_it_was),
        cmocka_unit_test(a_fault_is_named_with_its_place),
        cmocka_unit_test(a_real_number_has_a_longest_form),
        cmocka_unit_test(members_are_found_by_their_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
