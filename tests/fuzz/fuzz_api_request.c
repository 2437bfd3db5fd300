/* T18: a request line and header fields as they come out of the HTTP library. What is taken leaves
 * one reading only. First line: the target; second: the method and the version; then header
 * fields, "name:value". */
#include "api/page.h"
#include "api/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIELDS_MAX = 24 };

static size_t refusals;

/* in the place of api/request.c */
bool request_invalid(struct request *r, const char *why) {
    (void)r;
    ASSERT(why[0] != '\0');
    refusals++;
    return false;
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    (void)r, (void)code;
    ASSERT(fmt[0] != '\0');
    refusals++;
}

static size_t count(const struct request *r, const char *name, struct str *value) {
    size_t n = 0;
    for (size_t i = 0; i < r->header_count; i++)
        if (str_equal_nocase(r->header[i].name, str_of(name))) {
            *value = r->header[i].value;
            n++;
        }
    return n;
}

static void check_framing(struct request *r) {
    struct str length = STR_NONE, coding = STR_NONE, host = STR_NONE;
    if (!request_check_framing(r)) {
        ASSERT(refusals == 1);
        return;
    }
    size_t lengths = count(r, "content-length", &length);
    size_t codings = count(r, "transfer-encoding", &coding);
    ASSERT(refusals == 0 && lengths + codings <= 1 && count(r, "host", &host) <= 1);
    for (size_t i = 0; i < length.n; i++)
        ASSERT(ascii_is_digit(length.p[i]));
    if (codings > 0)
        ASSERT(str_equal_nocase(coding, STR("chunked")) && str_equal(r->version, STR("HTTP/1.1")));
    for (size_t i = 0; i < r->header_count; i++) {
        struct str name = r->header[i].name, value = r->header[i].value;
        ASSERT(name.n > 0 && !str_has_control(name, false) && str_is_ascii(name));
        ASSERT(str_find_char(name, ' ') < 0 && str_find_char(name, ':') < 0);
        ASSERT(str_find_char(value, '\r') < 0 && str_find_char(value, '\0') < 0);
    }
}

static void check_target(struct request *r) {
    static const char *const names[] = {"limit", "after", "state", "to"};
    refusals = 0;
    if (!request_parse_target(r)) {
        ASSERT(refusals == 1);
        return;
    }
    ASSERT(refusals == 0 && str_starts_with(r->path, STR("/")) && str_find_char(r->path, '?') < 0);
    ASSERT(str_is_ascii(r->path) && !str_has_control(r->path, false));
    ASSERT(str_find_char(r->path, ' ') < 0 && str_find_char(r->path, '#') < 0);
    for (size_t i = 0; i < r->query_count; i++) {
        ASSERT(str_is_utf8(r->query[i].name) && !str_has_control(r->query[i].name, false));
        ASSERT(str_is_utf8(r->query[i].value) && !str_has_control(r->query[i].value, false));
    }
    struct page page;
    page_read(r, PAGE_MESSAGES, &page);
    size_t before = r->faults.count;
    if (before == 0)
        ASSERT(page.limit >= 1 && page.limit <= LIMIT_PAGE);
    request_check_query(r, names, sizeof names / sizeof names[0]);
    /* each of the others is told of, and each of these that is there twice */
    size_t want = 0;
    for (size_t i = 0; i < r->query_count; i++) {
        bool is_bad = true, is_again = false;
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
            is_bad = is_bad && !str_equal(r->query[i].name, str_of(names[k]));
        for (size_t k = 0; k < i; k++)
            is_again = is_again || str_equal(r->query[i].name, r->query[k].name);
        want += is_bad || is_again;
    }
    ASSERT(r->faults.count == before + want || r->faults.count >= LIMIT_FAULTS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct request *r = ARENA_NEW(a, struct request);
    struct str rest = str_make(data, size), line;
    r->arena = a;
    faults_init(&r->faults, a);
    r->target = str_split(&rest, '\n');
    line = str_split(&rest, '\n');
    r->version = line;
    r->method = str_split(&r->version, ' ');
    r->header = ARENA_ARRAY(a, struct request_field, FIELDS_MAX);
    while (!str_is_absent(rest) && r->header_count < FIELDS_MAX) {
        struct request_field *f = &r->header[r->header_count++];
        f->value = str_split(&rest, '\n');
        f->name = str_split(&f->value, ':');
        if (str_is_absent(f->value))
            f->value = STR("");
    }
    refusals = 0;
    check_framing(r);
    check_target(r);
    struct str list = request_header_list(r, STR("Prefer"));
    ASSERT(str_is_absent(list) == str_is_absent(request_header(r, STR("prefer"))));
    int wait_s = request_prefer_wait(list);
    ASSERT(wait_s >= -1 && wait_s <= LIMIT_WAIT_S);
    (void)request_accepts(request_header_list(r, STR("Accept")), STR("application/json"));
    struct id id;
    r->param[0] = r->target;
    refusals = 0;
    ASSERT(request_param_id(r, 0, &id) == (refusals == 0));
    return 0;
}
