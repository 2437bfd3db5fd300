/* The contract of the outbox, verb by verb, on every backend. */
#include "tests/contract/store_kit.h"

static int sqlite_setup(void **state) {
    *state = kit_new(STORE_SQLITE);
    return 0;
}

static int teardown(void **state) {
    kit_free(*state);
    return 0;
}

static void an_accepted_message_is_read_back_as_it_was(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.com"));
    struct message_row got = kit_message(k, m->id);
    assert_int_equal(got.seq, m->seq);
    assert_true(id_equal(&got.id, &m->id));
    assert_true(id_equal(&got.key_id, &m->key_id));
    assert_true(id_is_zero(&got.retry_of));
    assert_int_equal(got.project, 1);
    assert_int_equal(got.size_bytes, 1000);
    assert_true(got.has_content);
    assert_true(str_equal(got.from_email, STR("Shop@example.org")));
    assert_true(str_equal(got.tags_json, m->tags_json));
    assert_true(str_is_absent(got.route));
    assert_int_equal(got.recipient_count, 2);
    assert_true(str_equal(got.recipient[1].email, STR("bob@example.com")));
    assert_int_equal(got.recipient[1].state, RECIPIENT_QUEUED);
    assert_int_equal(got.recipient[1].key, m->recipient[1].key);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted");
}

static void a_recipient_goes_from_claim_to_delivered(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    k->now_wall_ms += 60000;
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    assert_int_equal(kit_state(k, m->id, 0), RECIPIENT_DELIVERED);
    assert_string_equal(
        kit_timeline(k, m->id),
        "message.accepted recipient.deferred recipient.delivered message.completed");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_accepted_message_is_read_back_as_it_was, sqlite_setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_recipient_goes_from_claim_to_delivered, sqlite_setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
