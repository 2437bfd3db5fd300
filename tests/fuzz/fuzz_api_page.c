/* Cursors and the other small texts of a request line and header. What is taken as a cursor prints
 * as what it was. */
#include "api/page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In the place of api/request.c, which brings the whole server along. */
bool request_invalid(struct request *r, const char *why) {
    (void)r, (void)why;
    return false;
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    (void)r, (void)code, (void)fmt;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum page_kind kinds[] = {PAGE_MESSAGES, PAGE_EVENTS, PAGE_DELIVERIES,
                                           PAGE_CAPTURES};
    struct str text = str_make(data, size), decoded;
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct page_mark mark;
        if (page_parse(text, kinds[i], &mark) == OK)
            ASSERT(str_equal_nocase(page_print(kinds[i], &mark, a), text));
    }
    if (request_decode(text, true, a, &decoded) == OK)
        ASSERT(str_is_utf8(decoded) && !str_has_control(decoded, false));
    (void)request_accepts(text, STR("application/json"));
    (void)request_media_type(text);
    int wait_s = request_prefer_wait(text);
    ASSERT(wait_s >= -1 && wait_s <= LIMIT_WAIT_S);
    return 0;
}
