#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/cli/environment.h"

static void T23_secrets_are_in_the_copy_only(void **state) {
    (void)state;
    static const struct {
        const char *variable;
        bool is_secret;
    } rows[] = {
        {"POSTCHUTE_ADMIN_KEY=pc_live_x", true},
        {"POSTCHUTE_SEND_KEY=pc_live_x", true},
        {"POSTCHUTE_KEY=pc_live_x", true},
        {"POSTCHUTE_ROUTE=smtp://u:p@relay.test:587", true},
        {"POSTCHUTE_ROUTE=smtp://u:p/w@relay.test:587", true},
        {"POSTCHUTE_ROUTE=SMTPS://u:p/w@relay.test:587", true},
        {"POSTCHUTE_ROUTE= smtp://u:p/w@relay.test:587", true},
        {"POSTCHUTE_ROUTE=smtp://relay.test:587", false},
        {"POSTCHUTE_ROUTE=smtp://relay.test/?a=b:c@d", false},
        {"POSTCHUTE_HOSTNAME=https://h.test/a:b@c", false},
        {"POSTCHUTE_ADMIN_KEY_FILE=/run/secrets/x", false},
        {"POSTCHUTE_KEY_FILE=/x", false},
        {"POSTCHUTE_ADMIN_KEY=", false},
        {"POSTCHUTE_ADMIN_KEY", false},
        {"PATH=/bin", false},
        {"OTHER=smtp://u:p@relay.test", false},
        {"=", false},
        {"", false},
    };
    enum { COUNT = sizeof rows / sizeof rows[0] };
    char *env[COUNT + 1] = {NULL};
    for (size_t i = 0; i < COUNT; i++)
        env[i] = strdup(rows[i].variable);
    struct environment e;
    environment_take(env, &e);
    assert_null(e.list[COUNT]);
    for (size_t i = 0; i < COUNT; i++) {
        const char *value = strchr(rows[i].variable, '=');
        assert_string_equal(e.list[i], rows[i].variable);
        assert_int_equal(e.list[i] != env[i], rows[i].is_secret);
        if (!rows[i].is_secret) {
            assert_string_equal(env[i], rows[i].variable);
            continue;
        }
        /* the name stands, all of the value is gone */
        size_t name = (size_t)(value - rows[i].variable) + 1;
        assert_memory_equal(env[i], rows[i].variable, name);
        for (size_t k = name; k < strlen(rows[i].variable); k++)
            assert_int_equal(env[i][k], 0);
    }
    environment_release(&e);
    environment_take(NULL, &e);
    assert_null(e.list[0]);
    environment_release(&e);
    for (size_t i = 0; i < COUNT; i++)
        free(env[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(T23_secrets_are_in_the_copy_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
