/* Values of header fields that decide: whose request it is, how long it waits, whether it is a
 * repetition. */
#include <stdlib.h>

#include "api/auth.h"
#include "api/request.h"
#include "server/base/digest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In the place of api/request.c, which brings the whole server along. */
bool request_invalid(struct request *r, const char *why) {
    (void)r, (void)why;
    return false;
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    (void)r, (void)code, (void)fmt;
}

#define NOW_MS INT64_C(1700000000000)

/* well-formed, made for this file */
static const struct str good_key = STR("pc_live_2ln4n3ou3vtqfgjvsreyfsttamss56gg7luljkblvilyjrq");

static struct keyring *ring_of_good_key(void) {
    static struct keyring *ring;
    if (ring)
        return ring;
    struct arena *a = arena_new();
    struct key_row row = {.scopes = SCOPE_SEND};
    ASSERT(auth_key_describe(good_key, a, &row, NULL) == OK);
    ring = keyring_new(&row, 1);
    arena_free(&a);
    return ring;
}

static void check_key(struct str key, struct arena *a) {
    struct key_row row = {0};
    struct errinfo info = {0};
    bool is_key = auth_key_is_well_formed(key);
    enum err e = auth_key_describe(key, a, &row, &info);
    ASSERT((e == OK) == is_key);
    ASSERT((keyring_find(ring_of_good_key(), key, NOW_MS) != NULL) == str_equal(key, good_key));
    if (!is_key) {
        ASSERT(info.text[0] != '\0');
        return;
    }
    uint8_t hash[SHA256_BYTES];
    digest_sha256(key, hash);
    ASSERT(key.n == AUTH_KEY_TEXT && str_is_ascii(key) && !str_has_control(key, false));
    ASSERT(str_equal(row.prefix, str_slice(key, 0, AUTH_KEY_PREFIX)));
    ASSERT(memcmp(row.hash, hash, sizeof hash) == 0);
    ASSERT(row.is_test == str_starts_with(key, STR("pc_test_")));
}

/* The good key with the input's bytes at a place that the input chooses. */
static void check_changed_key(struct str text, struct arena *a) {
    if (text.n < 2)
        return;
    char z[AUTH_KEY_TEXT];
    memcpy(z, good_key.p, sizeof z);
    size_t at = (unsigned char)text.p[0] % sizeof z;
    size_t n = text.n - 1 < sizeof z - at ? text.n - 1 : sizeof z - at;
    memcpy(z + at, text.p + 1, n);
    check_key(str_make(z, sizeof z), a);
}

static void check_bearer(struct str text, struct arena *a) {
    struct str key = auth_bearer(text);
    if (!str_is_absent(key)) {
        ASSERT(str_starts_with_nocase(text, STR("Bearer ")));
        ASSERT(key.n == 0 || (key.p >= text.p + 7 && key.p + key.n <= text.p + text.n));
        ASSERT(str_equal(key, str_trim(key)));
        check_key(key, a);
    }
    struct str again = auth_bearer(arena_printf(a, "bEARER  %.*s ", STR_ARG(str_trim(text))));
    if (str_find_char(text, '\0') < 0)
        ASSERT(str_equal(again, str_trim(text)));
}

static void check_prefer(struct str text, struct arena *a) {
    int wait_s = request_prefer_wait(text);
    ASSERT(wait_s >= -1 && wait_s <= LIMIT_WAIT_S);
    if (str_find_char(text, '\0') >= 0)
        return; /* cannot be printed */
    /* the first one counts, understood or not (RFC 7240 2) */
    ASSERT(request_prefer_wait(arena_printf(a, "x=1;y,%.*s", STR_ARG(text))) == wait_s);
    int with_seven = request_prefer_wait(arena_printf(a, "%.*s, Wait = 7", STR_ARG(text)));
    ASSERT(with_seven == wait_s || (wait_s < 0 && with_seven == 7));
}

static void check_idempotency_key(struct str text, struct arena *a) {
    if (!request_is_idempotency_key(text))
        return;
    ASSERT(text.n >= 1 && text.n <= LIMIT_IDEMPOTENCY_KEY && str_is_ascii(text));
    ASSERT(!str_has_control(text, false) && str_find_char(text, ' ') < 0);
    ASSERT(!request_is_idempotency_key(arena_printf(a, "%.*s\n", STR_ARG(text))));
    ASSERT(!request_is_idempotency_key(arena_printf(a, " %.*s", STR_ARG(text))));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = str_make(data, size);
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    check_key(text, a);
    check_changed_key(text, a);
    check_bearer(text, a);
    check_prefer(text, a);
    check_idempotency_key(text, a);
    return 0;
}
