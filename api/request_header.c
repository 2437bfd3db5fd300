/* What stands before the body: the request line, the framing, the header fields. */
#include "api/request.h"

enum { REQUEST_PARAMETERS = 32 };

/* ---- the request line ---- */

enum err request_decode(struct str s, bool plus_is_space, struct arena *a, struct str *out) {
    char *to = arena_alloc(a, s.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '%') {
            static const char digits[] = "0123456789abcdef";
            if (s.n - i < 3)
                return ERR_INVALID;
            const char *high = strchr(digits, ascii_lower(s.p[i + 1]));
            const char *low = strchr(digits, ascii_lower(s.p[i + 2]));
            if (high == NULL || low == NULL || *high == '\0' || *low == '\0')
                return ERR_INVALID;
            c = (char)((high - digits) * 16 + (low - digits));
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        to[n++] = c;
    }
    *out = str_make(to, n);
    return str_is_utf8(*out) && !str_has_control(*out, false) ? OK : ERR_INVALID;
}

static bool is_host(struct str s) {
    static const char others[] = "-._~!$&'()*+,;=:[]%";
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_is_alnum(s.p[i]) && (s.p[i] == '\0' || strchr(others, s.p[i]) == NULL))
            return false;
    return true;
}

/* RFC 9112 3.2.2: the absolute form is accepted; its authority says nothing new, but ends where
 * everybody else sees its end (RFC 3986 3.2), and is there (RFC 9110 4.2.1). Absent: it is none. */
static struct str origin_form(struct str target, struct arena *a) {
    struct str rest = target;
    if (str_starts_with_nocase(target, STR("http://")))
        rest = str_from(target, 7);
    else if (str_starts_with_nocase(target, STR("https://")))
        rest = str_from(target, 8);
    else
        return target;
    size_t n = 0;
    while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?')
        n++;
    struct str authority = str_slice(rest, 0, n);
    if (authority.n == 0 || !is_host(authority))
        return STR_NONE;
    rest = str_from(rest, n);
    return str_starts_with(rest, STR("/")) ? rest : arena_printf(a, "/%.*s", STR_ARG(rest));
}

static bool parse_query(struct request *r, struct str query) {
    if (!str_is_absent(query))
        r->query = ARENA_ARRAY(r->arena, struct request_field, REQUEST_PARAMETERS);
    while (!str_is_absent(query)) {
        struct str value = str_split(&query, '&');
        if (value.n == 0)
            continue;
        if (r->query_count == REQUEST_PARAMETERS)
            return request_invalid(r, "too many query parameters");
        struct request_field *f = &r->query[r->query_count++];
        struct str name = str_split(&value, '=');
        if (request_decode(name, true, r->arena, &f->name) != OK ||
            request_decode(str_is_absent(value) ? STR("") : value, true, r->arena, &f->value) != OK)
            return request_invalid(
                r, "the query has a broken escape, a control character, or is not UTF-8");
    }
    return true;
}

bool request_parse_target(struct request *r) {
    struct str rest = origin_form(r->target, r->arena);
    if (!str_starts_with(rest, STR("/")))
        return request_invalid(r, "the request target is not a path");
    for (size_t i = 0; i < rest.n; i++)
        if (rest.p[i] <= ' ' || rest.p[i] > '~')
            return request_invalid(r, "the request target has a character that must be escaped");
    if (str_find_char(rest, '#') >= 0)
        return request_invalid(r, "the request target has a fragment");
    struct str path = str_split(&rest, '?');
    r->path = path;
    return parse_query(r, rest);
}

/* ---- framing ---- */

static bool is_token(struct str s) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_is_alnum(s.p[i]) && (s.p[i] == '\0' || strchr(others, s.p[i]) == NULL))
            return false;
    return s.n > 0;
}

static bool has_bad_octet(struct str value) {
    for (size_t i = 0; i < value.n; i++)
        if (((unsigned char)value.p[i] < ' ' && value.p[i] != '\t') || value.p[i] == 0x7f)
            return true;
    return false;
}

static size_t count_header(const struct request *r, struct str name, struct str *last) {
    size_t n = 0;
    for (size_t i = 0; i < r->header_count; i++) {
        if (str_equal_nocase(r->header[i].name, name)) {
            *last = r->header[i].value;
            n++;
        }
    }
    return n;
}

static bool check_length(struct request *r, bool is_1_1) {
    struct str length = STR_NONE, coding = STR_NONE;
    size_t lengths = count_header(r, STR("Content-Length"), &length);
    size_t codings = count_header(r, STR("Transfer-Encoding"), &coding);
    uint64_t n;
    if (lengths > 0 && codings > 0)
        return request_invalid(r, "Content-Length and Transfer-Encoding are both there");
    if (lengths > 1)
        return request_invalid(r, "Content-Length is there more than once");
    if (lengths == 1 && str_parse_u64(length, INT64_MAX, &n) != OK)
        return request_invalid(r, "Content-Length is not a number");
    if (codings > 1 || (codings == 1 && !str_equal_nocase(coding, STR("chunked"))))
        return request_invalid(r, "the only Transfer-Encoding that is understood is chunked");
    if (codings == 1 && !is_1_1)
        return request_invalid(r, "HTTP/1.0 has no Transfer-Encoding");
    return true;
}

/* Of these the first would count here, and perhaps the last for who stands before us. */
static bool check_once(struct request *r) {
    static const char *const names[] = {"Authorization", "Content-Type", "Idempotency-Key"};
    struct str last;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (count_header(r, str_of(names[i]), &last) > 1) {
            request_problem(r, PROBLEM_INVALID_REQUEST, "%s is there more than once", names[i]);
            r->reply.must_close = true;
            return false;
        }
    return true;
}

bool request_check_framing(struct request *r) {
    bool is_1_1 = str_equal(r->version, STR("HTTP/1.1"));
    struct str host = STR("");
    if (!is_1_1 && !str_equal(r->version, STR("HTTP/1.0")))
        return request_invalid(r, "HTTP/1.1 and HTTP/1.0 are spoken here");
    if (!is_token(r->method))
        return request_invalid(r, "the method is not a token");
    for (size_t i = 0; i < r->header_count; i++) {
        if (!is_token(r->header[i].name))
            return request_invalid(r, "a header field name is not a token");
        if (has_bad_octet(r->header[i].value))
            return request_invalid(r, "a header field has a control character");
    }
    size_t hosts = count_header(r, STR("Host"), &host);
    if (hosts > 1 || (hosts == 0 && is_1_1) || !is_host(host))
        return request_invalid(r, "one Host header field is needed");
    return check_length(r, is_1_1) && check_once(r);
}

/* ---- header fields ---- */

struct str request_header(const struct request *r, struct str name) {
    for (size_t i = 0; i < r->header_count; i++)
        if (str_equal_nocase(r->header[i].name, name))
            return r->header[i].value;
    return STR_NONE;
}

struct str request_query(const struct request *r, struct str name) {
    for (size_t i = 0; i < r->query_count; i++)
        if (str_equal(r->query[i].name, name))
            return r->query[i].value;
    return STR_NONE;
}

void request_check_query(struct request *r, const char *const *names, size_t count) {
    for (size_t i = 0; i < r->query_count; i++) {
        struct str name = r->query[i].name;
        size_t k = 0;
        while (k < count && !str_equal(name, str_of(names[k])))
            k++;
        struct str pointer = arena_printf(r->arena, "?%.*s", STR_ARG(name));
        if (k == count)
            faults_add(&r->faults, pointer, "unknown_parameter", "there is no such parameter");
        for (size_t j = 0; j < i && k < count; j++)
            if (str_equal(r->query[j].name, name)) {
                faults_add(&r->faults, pointer, "duplicate_parameter", "it is there twice");
                break;
            }
    }
}

bool request_param_id(struct request *r, size_t index, struct id *out) {
    if (id_parse(r->param[index], out) == OK)
        return true;
    request_problem(r, PROBLEM_NOT_FOUND, "this is not an id");
    return false;
}

struct str request_media_type(struct str content_type) {
    return str_trim(str_split(&content_type, ';'));
}

/* "q=0", "q=0.0", "q=0.000": not wanted. */
static bool is_refused(struct str parameters) {
    while (!str_is_absent(parameters)) {
        struct str p = str_trim(str_split(&parameters, ';'));
        if (!str_starts_with_nocase(p, STR("q=")))
            continue;
        for (size_t i = 2; i < p.n; i++)
            if (p.p[i] != '0' && p.p[i] != '.')
                return false;
        return p.n > 2;
    }
    return false;
}

bool request_accepts(struct str accept, struct str type) {
    if (str_is_empty(str_trim(accept)))
        return true;
    ptrdiff_t slash = str_find_char(type, '/');
    ASSERT(slash > 0);
    int best = 0; /* how exactly the range names the type; the most exact one decides */
    bool wanted = false;
    while (!str_is_absent(accept)) {
        struct str parameters = str_split(&accept, ',');
        struct str range = str_trim(str_split(&parameters, ';'));
        int rank = 0;
        if (str_equal_nocase(range, type))
            rank = 3;
        else if (range.n == (size_t)slash + 2 && str_ends_with(range, STR("/*")) &&
                 str_equal_nocase(str_slice(range, 0, (size_t)slash),
                                  str_slice(type, 0, (size_t)slash)))
            rank = 2;
        else if (str_equal(range, STR("*/*")))
            rank = 1;
        if (rank > best) {
            best = rank;
            wanted = !is_refused(parameters);
        }
    }
    return best > 0 && wanted;
}

/* RFC 9110 5.3: fields of one name are one list. */
struct str request_header_list(struct request *r, struct str name) {
    struct str all = STR_NONE;
    for (size_t i = 0; i < r->header_count; i++) {
        struct str value = r->header[i].value;
        if (str_equal_nocase(r->header[i].name, name))
            all = str_is_absent(all)
                      ? value
                      : arena_printf(r->arena, "%.*s, %.*s", STR_ARG(all), STR_ARG(value));
    }
    return all;
}

/* RFC 7240 2: a value is a token or a quoted string. */
static int wait_seconds(struct str text) {
    if (text.n >= 2 && text.p[0] == '"' && text.p[text.n - 1] == '"')
        text = str_slice(text, 1, text.n - 1);
    int seconds = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return -1;
        seconds = seconds * 10 + (text.p[i] - '0');
        if (seconds > LIMIT_WAIT_S)
            seconds = LIMIT_WAIT_S; /* however many digits follow */
    }
    return text.n > 0 ? seconds : -1;
}

int request_prefer_wait(struct str prefer) {
    while (!str_is_absent(prefer)) {
        struct str value = str_split(&prefer, ',');
        struct str preference = str_split(&value, ';');
        struct str name = str_trim(str_split(&preference, '='));
        if (str_equal_nocase(name, STR("wait"))) /* RFC 7240 2: the first one counts */
            return str_is_absent(preference) ? -1 : wait_seconds(str_trim(preference));
    }
    return -1;
}

bool request_is_idempotency_key(struct str key) {
    bool is_good = key.n > 0 && key.n <= LIMIT_IDEMPOTENCY_KEY;
    for (size_t i = 0; is_good && i < key.n; i++)
        is_good = key.p[i] > ' ' && key.p[i] <= '~';
    return is_good;
}
