/* Short texts that stand for something: pins, secrets, rules, names of states and levels. What is
 * taken prints as a text that is taken as the same. */
#include "api/auth.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/events/signature.h"
#include "server/intake/rights.h"
#include "server/mail/outcome.h"
#include "server/net/tls_pin.h"
#include "storage/model.h"
#include "storage/store_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_pin(struct str text) {
    struct tls_pin pin, again;
    char printed[TLS_PIN_TEXT_SIZE];
    if (!tls_pin_parse(text, &pin))
        return;
    tls_pin_print(&pin, printed);
    ASSERT(tls_pin_parse(str_of(printed), &again) && memcmp(&pin, &again, sizeof pin) == 0);
}

static void check_secret(struct str text) {
    struct buf key = BUF_INIT(128);
    if (signature_parse_secret(text, &key) == OK)
        ASSERT(str_starts_with(text, STR("whsec_")) && key.n >= 24 && key.n <= 64);
    buf_release_secret(&key);
}

static void check_rule(struct str text, struct arena *a) {
    struct str rule, again;
    struct errinfo info = {0};
    if (rights_rule_parse(text, a, &rule, &info) != OK) {
        ASSERT(info.text[0] != '\0');
        return;
    }
    ASSERT(rights_rule_parse(rule, a, &again, &info) == OK && str_equal(rule, again));
    ASSERT(str_is_ascii(rule) && !str_has_control(rule, false));
    ASSERT(!rights_rule_covers(rule, STR("example.invalid")) ||
           str_ends_with(STR("example.invalid"),
                         str_from(rule, str_starts_with(rule, STR("*.")) ? 2 : 0)));
}

static void check_names(struct str text) {
    enum recipient_state state;
    enum event_type type;
    enum verdict_class class_;
    enum log_level level;
    unsigned scopes = 0;
    if (recipient_state_parse(text, &state) == OK)
        ASSERT(str_equal(text, str_of(recipient_state_name(state))));
    if (event_type_parse(text, &type) == OK)
        ASSERT(str_equal(text, str_of(event_type_name(type))));
    if (verdict_class_parse(text, &class_) == OK)
        ASSERT(str_equal(text, str_of(verdict_class_name(class_))));
    if (auth_scope_parse(text, &scopes) == OK)
        ASSERT(scopes != 0 && str_equal(text, str_of(auth_scope_name((enum key_scope)scopes))));
    (void)!log_parse_level(text, &level);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct str text = str_make(data, size), *tags;
    check_pin(text);
    check_secret(text);
    check_rule(text, a);
    check_names(text);
    ASSERT(tags_parse(STR_NONE, a, &tags) == 0);
    size_t count = tags_parse(text, a, &tags);
    ASSERT(count <= LIMIT_TAGS);
    for (size_t i = 0; i < count; i++)
        ASSERT(str_is_utf8(tags[i]));
    return 0;
}
