#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "server/base/table.h"

enum { ITEMS = 5000 };

struct item {
    char key[32];
    size_t n, number;
    struct table_node in_table;
};

/* Keys of many lengths, most of which begin alike. */
static void name_of(struct item *i, size_t number) {
    char text[32];
    int digits = snprintf(text, sizeof(text), "%zu", number);
    i->number = number;
    i->n = (size_t)digits + number % 26;
    memset(i->key, 'k', sizeof(i->key));
    memcpy(i->key + i->n - (size_t)digits, text, (size_t)digits);
}

static void what_was_added_is_found_until_it_is_removed(void **state) {
    (void)state;
    struct table t = {0};
    struct item *items = mem_zalloc(ITEMS * sizeof(*items)), other;
    assert_null(table_find(&t, "0", 1));
    assert_null(table_oldest(&t));
    assert_int_equal(table_count(&t), 0);
    for (size_t i = 0; i < ITEMS; i++) {
        name_of(&items[i], i);
        assert_null(table_find(&t, items[i].key, items[i].n));
        table_add(&t, &items[i].in_table, items[i].key, items[i].n, &items[i]);
    }
    assert_int_equal(table_count(&t), ITEMS);
    assert_ptr_equal(table_oldest(&t), &items[0]);
    for (size_t i = 0; i < ITEMS; i += 2)
        table_remove(&t, &items[i].in_table);
    for (size_t i = 0; i < ITEMS; i++) {
        name_of(&other, i); /* the bytes count, not where they are */
        assert_ptr_equal(table_find(&t, other.key, other.n), i % 2 == 0 ? NULL : &items[i]);
    }
    assert_int_equal(table_count(&t), ITEMS / 2);
    assert_ptr_equal(table_oldest(&t), &items[1]);
    table_forget(&t);
    assert_int_equal(table_count(&t), 0);
    assert_null(table_find(&t, items[1].key, items[1].n));
    free(items);
}

static void they_are_visited_in_the_order_in_which_they_came(void **state) {
    (void)state;
    struct table t = {0};
    struct item items[100], *i;
    struct table_cursor c = table_begin(&t);
    assert_null(table_next(&c));
    for (size_t k = 0; k < 100; k++) {
        name_of(&items[k], k);
        table_add(&t, &items[k].in_table, items[k].key, items[k].n, &items[k]);
    }
    size_t expected = 0;
    for (c = table_begin(&t); (i = table_next(&c)) != NULL; expected++) {
        assert_int_equal(i->number, expected);
        if (expected % 3 != 0)
            table_remove(&t, &i->in_table); /* the one that is visited */
    }
    assert_int_equal(expected, 100);
    expected = 0;
    for (c = table_begin(&t); (i = table_next(&c)) != NULL; expected += 3) {
        assert_int_equal(i->number, expected);
        table_remove(&t, &i->in_table);
    }
    assert_int_equal(expected, 102);
    assert_int_equal(table_count(&t), 0);
    assert_null(table_oldest(&t));
}

static void a_key_may_be_empty_or_hold_any_octet(void **state) {
    (void)state;
    static const struct {
        const char *key;
        size_t n;
    } keys[] = {{NULL, 0}, {"\0", 1}, {"\0\0", 2}, {"a\0b", 3}, {"a\0c", 3}, {"a", 1}};
    enum { KEYS = sizeof(keys) / sizeof(keys[0]) };
    struct table t = {0};
    struct table_node nodes[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        assert_null(table_find(&t, keys[i].key, keys[i].n));
        table_add(&t, &nodes[i], keys[i].key, keys[i].n, &nodes[i]);
    }
    for (size_t i = 0; i < KEYS; i++)
        assert_ptr_equal(table_find(&t, keys[i].key, keys[i].n), &nodes[i]);
    table_forget(&t);
}

static void equal_keys_have_one_hash_and_others_spread(void **state) {
    (void)state;
    struct table t = {0}, u = {0};
    struct table_node a, b;
    table_add(&t, &a, "example.net", 11, &a);
    table_add(&u, &b, "example.net", 11, &b);
    assert_int_equal(table_hash(&a), table_hash(&b));
    table_forget(&t);
    table_forget(&u);
    struct item items[400];
    size_t in[4] = {0};
    for (size_t i = 0; i < 400; i++) {
        name_of(&items[i], i);
        table_add(&t, &items[i].in_table, items[i].key, items[i].n, &items[i]);
        in[table_hash(&items[i].in_table) % 4]++;
    }
    for (size_t i = 0; i < 4; i++)
        assert_true(in[i] > 50);
    table_forget(&t);
}

/* A megabyte of names that a sender chooses, because they agree in the hash that the library has of
 * itself. Such ones would be looked for one by one, and the library stops to add buckets. */
static void T15_T32_chosen_names_do_not_meet_in_one_bucket(void **state) {
    (void)state;
    enum { NAMES = 4096, NAME_BYTES = 256, AGREED_BITS = 9, LONGEST = 60 };
    struct name {
        char key[NAME_BYTES + 1];
        struct table_node in_table;
    } *names = mem_zalloc(NAMES * sizeof(*names));
    struct table t = {0};
    unsigned first = 0;
    for (unsigned i = 0, found = 0; found < NAMES; i++) {
        struct name *one = &names[found];
        unsigned hash;
        snprintf(one->key, sizeof(one->key), "%0*u.example", NAME_BYTES - 8, i);
        HASH_JEN(one->key, NAME_BYTES, hash);
        if (found == 0)
            first = hash;
        else if (((hash ^ first) & ((1u << AGREED_BITS) - 1)) != 0)
            continue;
        table_add(&t, &one->in_table, one->key, NAME_BYTES, one);
        found++;
    }
    const struct UT_hash_table *buckets = t.first->hh.tbl;
    for (unsigned i = 0; i < buckets->num_buckets; i++)
        assert_true(buckets->buckets[i].count < LONGEST);
    assert_false(buckets->noexpand);
    table_forget(&t);
    free(names);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found_until_it_is_removed),
        cmocka_unit_test(they_are_visited_in_the_order_in_which_they_came),
        cmocka_unit_test(a_key_may_be_empty_or_hold_any_octet),
        cmocka_unit_test(equal_keys_have_one_hash_and_others_spread),
        cmocka_unit_test(T15_T32_chosen_names_do_not_meet_in_one_bucket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
