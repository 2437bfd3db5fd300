/* What a change of domains costs: the keys that changed. */
#include "tests/unit/delivery/keys.h"

enum { DOMAINS = 3 };
static const char *const NAMES[DOMAINS] = {"a.test", "b.test", "c.test"};

/* Each domain has one key. */
static struct signers *read_keys(const struct buf pem[DOMAINS], const char *selector,
                                 const struct signers *was) {
    struct domain_key_row key[DOMAINS];
    struct domain_row row[DOMAINS];
    for (size_t i = 0; i < DOMAINS; i++) {
        key[i] = (struct domain_key_row){
            .selector = str_of(selector), .pem = buf_str(&pem[i]), .published_wall_ms = 1};
        row[i] = (struct domain_row){.name = str_of(NAMES[i]), .key = &key[i], .key_count = 1};
    }
    return signers_new(row, DOMAINS, was);
}

static const struct dkim_key *key_of(const struct signers *s, size_t domain, bool published_only) {
    struct dkim_signer signer;
    assert_true(signers_find(s, 0, str_of(NAMES[domain]), published_only, &signer));
    assert_int_equal(signer.key_count, 1);
    return signer.keys[0].key;
}

static void a_key_that_stays_is_not_read_again(void **state) {
    (void)state;
    struct buf pem[DOMAINS] = {new_key(), new_key(), new_key()};
    struct signers *was = read_keys(pem, "s1", NULL);
    struct buf replaced = pem[1];
    pem[1] = new_key();
    struct signers *are = read_keys(pem, "s1", was);
    for (size_t i = 0; i < DOMAINS; i++) {
        bool is_same = key_of(was, i, false) == key_of(are, i, false);
        assert_int_equal(is_same, i != 1);
        assert_ptr_equal(key_of(are, i, true), key_of(are, i, false));
    }
    assert_false(signers_are_same(was, are, 0, STR("b.test"), false));
    assert_true(signers_are_same(was, are, 0, STR("c.test"), false));
    signers_unref(&was);
    struct buf signature = BUF_INIT(256); /* with what outlives its first snapshot */
    assert_int_equal(dkim_key_sign(key_of(are, 0, false), STR("data"), &signature), OK);
    buf_release(&signature);
    signers_unref(&are);
    buf_release_secret(&replaced);
    for (size_t i = 0; i < DOMAINS; i++)
        buf_release_secret(&pem[i]);
}

static void a_key_under_another_name_is_shown_under_it(void **state) {
    (void)state;
    struct buf pem[DOMAINS] = {new_key(), new_key(), new_key()};
    struct signers *was = read_keys(pem, "s1", NULL), *are = read_keys(pem, "s2", was);
    struct dkim_signer signer;
    assert_true(signers_find(are, 0, STR("a.test"), false, &signer));
    assert_true(str_equal(signer.keys[0].selector, STR("s2")));
    assert_false(signers_are_same(was, are, 0, STR("a.test"), false));
    signers_unref(&was);
    signers_unref(&are);
    for (size_t i = 0; i < DOMAINS; i++)
        buf_release_secret(&pem[i]);
}

static void a_name_that_several_projects_have_is_each_ones_own(void **state) {
    enum { PROJECTS = 3 };
    static const struct str BOUNCE[PROJECTS] = {
        STR("b@ours.test"), STR("spy@evil.test"), {NULL, 0}};
    (void)state;
    struct buf pem[PROJECTS] = {new_key(), new_key(), new_key()};
    struct domain_key_row key[PROJECTS];
    struct domain_row row[PROJECTS];
    struct dkim_signer signer;
    for (size_t i = 0; i < PROJECTS; i++) {
        key[i] = (struct domain_key_row){
            .selector = str_of("s1"), .pem = buf_str(&pem[i]), .created_wall_ms = (int64_t)i + 1};
        row[i] = (struct domain_row){.project = (int64_t)i + 1,
                                     .name = STR("ours.test"),
                                     .bounce_address = BOUNCE[i],
                                     .key = &key[i],
                                     .key_count = i < 2};
    }
    struct signers *two = signers_new(row, 2, NULL), *three = signers_new(row, PROJECTS, two),
                   *ours = signers_new(row, 1, two);
    const struct dkim_key *found[PROJECTS] = {NULL};
    for (int64_t project = 1; project <= 2; project++) {
        assert_true(signers_find(three, project, STR("x.ours.test"), false, &signer));
        assert_int_equal(signer.key_count, 1);
        found[project] = signer.keys[0].key;
        assert_int_equal(signers_unpublished_wall_ms(three, project, STR("ours.test")), project);
        assert_true(str_equal(signers_bounce_address(three, project, STR("ours.test")),
                              BOUNCE[project - 1]));
        assert_true(signers_are_same(two, three, project, STR("ours.test"), false));
        assert_int_equal(signers_are_same(two, ours, project, STR("ours.test"), false),
                         project == 1);
    }
    assert_ptr_not_equal(found[1], found[2]);
    for (int64_t project = 3; project <= 4; project++) { /* without a key; without the domain */
        assert_false(signers_find(three, project, STR("ours.test"), false, &signer));
        assert_int_equal(signers_unpublished_wall_ms(three, project, STR("ours.test")), 0);
        assert_true(str_is_empty(signers_bounce_address(three, project, STR("ours.test"))));
    }
    signers_unref(&two);
    signers_unref(&ours);
    signers_unref(&three);
    for (size_t i = 0; i < PROJECTS; i++)
        buf_release_secret(&pem[i]);
}

/* It was set before the other project had proved the domain, say. */
static void a_bounce_address_in_a_domain_of_another_project_is_none(void **state) {
    const struct domain_row row[] = {
        {.project = 1, .name = STR("ours.test"), .bounce_address = STR("b@theirs.test")},
        {.project = 1, .name = STR("a.test"), .bounce_address = STR("b@ours.test")},
        {.project = 2, .name = STR("theirs.test"), .verified_wall_ms = 1}};
    (void)state;
    struct signers *s = signers_new(row, 3, NULL);
    assert_true(str_is_absent(signers_bounce_address(s, 1, STR("ours.test"))));
    assert_true(str_equal(signers_bounce_address(s, 1, STR("a.test")), STR("b@ours.test")));
    signers_unref(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_that_stays_is_not_read_again),
        cmocka_unit_test(a_key_under_another_name_is_shown_under_it),
        cmocka_unit_test(a_name_that_several_projects_have_is_each_ones_own),
        cmocka_unit_test(a_bounce_address_in_a_domain_of_another_project_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
