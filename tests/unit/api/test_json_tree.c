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
        {"{\"a\":1,\"a\":2}", "line 1, column 9: an object has a member twice: a"},
        {"{\"\":{\"b\":1,\n\"ab\":2,\"b\":3}}",
         "line 2, column 9: an object has a member twice: b"},
        {"{\"b\":1,\"a\":1,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"b\":9}",
         "line 1, column 51: an object has a member twice: b"},
        {"{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"\\u0061\":9}",
         "line 1, column 61: an object has a member twice"},
        {"\xEF\xBB\xBF{}", "line 1, column 1: it begins with a byte order mark: leave that out"},
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

/* ---- the worst names (T15) ---- */

/* Comparisons of names, and the octets that each may look at. */
static struct { size_t times, bytes; } compared;

int __real_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n);
int __wrap_memcmp(const void *a, const void *b, size_t n) {
    compared.times++;
    compared.bytes += n;
    return __real_memcmp(a, b, n);
}

typedef int compare_fn(const void *a, const void *b);

/* The middle one of three pivots: what libc's qsort() may do, and does when memory is short.
 * Whoever takes qsort() for names that strangers choose gets this one here. */
static void quicksort(char *base, size_t count, size_t size, compare_fn *compare) {
    while (count > 1) {
        char *low = base, *high = base + (count - 1) * size, *middle = base + count / 2 * size;
        char swap[16];
        assert_true(size <= sizeof(swap));
#define SWAP(x, y) (memcpy(swap, x, size), memcpy(x, y, size), memcpy(y, swap, size))
        if (compare(middle, low) < 0)
            SWAP(middle, low);
        if (compare(high, middle) < 0) {
            SWAP(high, middle);
            if (compare(middle, low) < 0)
                SWAP(middle, low);
        }
        char pivot[16];
        memcpy(pivot, middle, size);
        for (;;) {
            while (compare(low, pivot) < 0)
                low += size;
            while (compare(pivot, high) < 0)
                high -= size;
            if (low >= high)
                break;
            SWAP(low, high);
            low += size;
            high -= size;
        }
#undef SWAP
        size_t left = (size_t)(low - base) / size;
        bool is_left_smaller = left < count - left;
        quicksort(is_left_smaller ? base : low, is_left_smaller ? left : count - left, size,
                  compare);
        base = is_left_smaller ? low : base;
        count = is_left_smaller ? count - left : left;
    }
}

void __wrap_qsort(void *base, size_t count, size_t size, compare_fn *compare);
void __wrap_qsort(void *base, size_t count, size_t size, compare_fn *compare) {
    quicksort(base, count, size, compare);
}

enum { MEMBERS = 40000, MEGABYTE = 1024 * 1024 };

/* M. D. McIlroy's adversary ("A Killer Adversary for Quicksort"): while a quicksort runs, it makes
 * up the order in which that one takes longest. */
static struct {
    unsigned value[MEMBERS]; /* MEMBERS: not decided yet */
    unsigned decided, candidate;
} adversary;

static int compare_by_adversary(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b, *value = adversary.value;
    if (value[x] == MEMBERS && value[y] == MEMBERS)
        value[x == adversary.candidate ? x : y] = adversary.decided++;
    if (value[x] == MEMBERS)
        adversary.candidate = x;
    else if (value[y] == MEMBERS)
        adversary.candidate = y;
    return value[x] < value[y] ? -1 : value[x] > value[y];
}

static void make_killer(unsigned *order, size_t count) {
    unsigned *place = malloc(count * sizeof(*place));
    assert_non_null(place);
    adversary.decided = adversary.candidate = 0;
    for (unsigned i = 0; i < count; i++) {
        place[i] = i;
        adversary.value[i] = MEMBERS;
    }
    quicksort((char *)place, count, sizeof(*place), compare_by_adversary);
    for (unsigned i = 0; i < count; i++)
        order[i] = adversary.value[i] == MEMBERS ? adversary.decided++ : adversary.value[i];
    free(place);
}

enum order { ASCENDING, DESCENDING, ORGAN_PIPE, SAWTOOTH, BIT_REVERSED, KILLER, ORDERS };

static void make_order(enum order how, unsigned *order, unsigned count) {
    if (how == KILLER) {
        make_killer(order, count);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        unsigned reversed = 0;
        for (unsigned bit = 0; bit < 16; bit++)
            reversed |= (i >> bit & 1) << (15 - bit);
        const unsigned of[] = {[ASCENDING] = i,
                               [DESCENDING] = count - i,
                               [ORGAN_PIPE] = i < count / 2 ? 2 * i : 2 * (count - i) + 1,
                               [SAWTOOTH] = i % 200 * count + i / 200,
                               [BIT_REVERSED] = reversed};
        order[i] = of[how];
    }
}

/* An object of a megabyte: so many names of one length, which begin alike as far as they can. */
static size_t put_members(char *text, const unsigned *order, unsigned count) {
    int length = (int)(MEGABYTE / count) - 5;
    char *at = text;
    *at++ = '{';
    for (unsigned i = 0; i < count; i++) {
        at += snprintf(at, 32, "%s\"", i > 0 ? "," : "");
        memset(at, 'k', (size_t)length);
        snprintf(at + length - 10, 11, "%010u", order[i]);
        at += length;
        at += snprintf(at, 32, "\":1");
    }
    *at++ = '}';
    return (size_t)(at - text);
}

static size_t log2_up(size_t n) {
    size_t bits = 0;
    while ((size_t)1 << bits < n)
        bits++;
    return bits;
}

/* Whatever order they come in: at most 2 log2 n comparisons of each (merging takes half of that),
 * and the octets of the megabyte as often. */
static void test_T15_a_megabyte_of_the_worst_names_is_compared_so_often_and_no_more(void **state) {
    static const unsigned counts[] = {8, 9, 64, 1000, 32768, MEMBERS};
    static unsigned order[MEMBERS];
    char *text = malloc(2 * MEGABYTE);
    size_t most = 0;
    (void)state;
    assert_non_null(text);
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (enum order how = 0; how < ORDERS; how++) {
            size_t n = counts[c], rounds = n == 8 ? n : 2 * log2_up(n);
            make_order(how, order, counts[c]);
            size_t size = put_members(text, order, counts[c]);
            assert_in_range(size, MEGABYTE - MEGABYTE / 16, MEGABYTE + 1);
            compared.times = compared.bytes = 0;
            struct parsed p = parse(text, size);
            if (p.err != OK || p.root->count != n)
                fail_msg("%zu names, order %d: %s", n, (int)how, p.info.text);
            if (compared.times > n * rounds || compared.bytes > size * rounds)
                fail_msg("%zu names, order %d: %zu comparisons of %zu octets", n, (int)how,
                         compared.times, compared.bytes);
            assert_true(compared.times >= n - 1); /* they are counted */
            most = compared.times > most ? compared.times : most;
            done(&p);
        }
    print_message("at most %zu comparisons of %d names\n", most, MEMBERS);
    free(text);
}

/* Each place and each number of members, about where runs end: the first name comes once more. */
static void a_name_that_stands_twice_is_found_wherever_it_stands(void **state) {
    (void)state;
    for (unsigned n = 2; n <= 40; n++)
        for (unsigned again = 1; again <= n; again++) {
            char text[1024], *at = text;
            at += snprintf(at, 16, "{");
            for (unsigned i = 0; i < n; i++)
                at += snprintf(at, 24, "%s\"%u\":1", i > 0 ? "," : "",
                               i == again ? 100 : 100 + i * 7 % n);
            at += snprintf(at, 16, "}");
            struct parsed p = parse(text, (size_t)(at - text));
            bool is_twice = again < n || n % 7 == 0; /* i * 7 % n: each once, unless 7 divides n */
            if (p.err != (is_twice ? ERR_INVALID : OK))
                fail_msg("%s", text);
            done(&p);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_json_is_read_as_another_reader_reads_it),
        cmocka_unit_test(what_is_cut_off_is_not_json),
        cmocka_unit_test(what_is_refused_leaves_the_text_as_it_was),
        cmocka_unit_test(a_fault_is_named_with_its_place),
        cmocka_unit_test(a_real_number_has_a_longest_form),
        cmocka_unit_test(members_are_found_by_their_names),
        cmocka_unit_test(a_name_that_stands_twice_is_found_wherever_it_stands),
        cmocka_unit_test(test_T15_a_megabyte_of_the_worst_names_is_compared_so_often_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
