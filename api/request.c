#include "api/request.h"

#include <stdarg.h>

#include "api/api.h"
#include "server/base/clock.h"
#include "server/base/log.h"

enum { REQUEST_FIELDS = 128, REQUEST_PARAMETERS = 32 };

struct request *request_new(struct env *env, struct mailbox *box, struct str target) {
    struct arena *a = arena_new();
    struct request *r = ARENA_NEW(a, struct request);
    r->env = env;
    r->box = box;
    r->arena = a;
    r->started_wall_ms = clock_wall_ms();
    r->started_mono_us = clock_mono_us();
    r->id = id_new(r->started_wall_ms);
    r->target = arena_dup(a, target);
    faults_init(&r->faults, a);
    http_reply_init(&r->reply);
    buf_init(&r->body, 0);
    return r;
}

void request_drop_body(struct request *r) {
    buf_release_secret(&r->body);
}

void request_free(struct request **rp) {
    struct request *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    env_uncharge(r->env, &r->charged_key_id, r->body_charged_bytes);
    request_drop_body(r);
    http_reply_release(&r->reply);
    keyring_unref(&r->keyring);
    struct arena *a = r->arena; /* it holds the request itself */
    arena_free(&a);
}

/* ---- answers ---- */

void request_json(struct request *r, int status, json_t *v) {
    http_reply_json(&r->reply, status, v);
}

static void set_problem(struct request *r, enum problem_code code, struct str detail,
                        const struct faults *faults) {
    const struct problem p = {
        .code = code, .detail = detail, .request_id = &r->id, .faults = faults};
    http_reply_clear(&r->reply);
    http_reply_problem(&r->reply, &p);
    if (r->reply.status == 503)
        http_reply_header(&r->reply, "Retry-After", STR("5"));
    if (r->reply.status == 401)
        http_reply_header(&r->reply, "WWW-Authenticate", STR("Bearer"));
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    struct errinfo text;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text.text, sizeof(text.text), fmt, ap);
    va_end(ap);
    set_problem(r, code, arena_dup(r->arena, str_of(text.text)), NULL);
}

void request_problem_faults(struct request *r, enum problem_code code) {
    set_problem(r, code,
                r->faults.count == 1
                    ? r->faults.list[0].detail
                    : arena_printf(r->arena, "%zu faults; see errors", r->faults.count),
                &r->faults);
}

struct rights request_rights(const struct request *r) {
    return (struct rights){.project = r->identity.project,
                           .from_domains = r->identity.from_domains,
                           .from_domain_count = r->identity.from_domain_count,
                           .is_test = r->identity.is_test};
}

void request_problem_store(struct request *r, enum err e, const struct errinfo *info) {
    switch (e) {
    case ERR_NOT_FOUND:
        request_problem(r, PROBLEM_NOT_FOUND, "%s",
                        info->text[0] != '\0' ? info->text : "there is no such thing");
        break;
    case ERR_CONFLICT:
        request_problem(r, PROBLEM_CONFLICT, "%s",
                        info->text[0] != '\0' ? info->text : "the present state forbids it");
        break;
    case ERR_INVALID:
    case ERR_LIMIT:
        request_problem(r, PROBLEM_VALIDATION_FAILED, "%s", info->text);
        break;
    case ERR_UNAVAILABLE:
    case ERR_AGAIN:
        log_info("api", "the store is not available", LOG_ID("request", &r->id),
                 LOG_STRZ("why", info->text));
        request_problem(r, PROBLEM_UNAVAILABLE, "nothing was stored; repeat the request");
        break;
    default:
        log_error("api", "the store failed", LOG_ID("request", &r->id),
                  LOG_STRZ("why", info->text));
        request_problem(r, PROBLEM_INTERNAL, "the request was not carried out");
        break;
    }
}

void request_finish(struct request *r) {
    ASSERT(!r->is_finished && r->reply.status != 0);
    if (buf_status(&r->reply.body) != OK) {
        log_warn("api", "an answer is too large", LOG_ID("request", &r->id),
                 LOG_STR("path", r->path));
        request_problem(r, PROBLEM_INTERNAL, "the answer would be larger than %d MiB",
                        HTTP_REPLY_MAX / (1024 * 1024));
    }
    r->is_finished = true;
    r->hurry = NULL;
    if (r->wake != NULL)
        r->wake(r);
}

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

static bool invalid(struct request *r, const char *why) {
    request_problem(r, PROBLEM_INVALID_REQUEST, "%s", why);
    r->reply.must_close = true;
    return false;
}

/* RFC 9112 3.2.2: the absolute form is accepted; its authority says nothing new. */
static struct str origin_form(struct str target) {
    struct str rest = target;
    if (str_starts_with_nocase(target, STR("http://")))
        rest = str_from(target, 7);
    else if (str_starts_with_nocase(target, STR("https://")))
        rest = str_from(target, 8);
    else
        return target;
    ptrdiff_t slash = str_find_char(rest, '/');
    return slash >= 0 ? str_from(rest, (size_t)slash) : STR("/");
}

static bool parse_query(struct request *r, struct str query) {
    r->query = ARENA_ARRAY(r->arena, struct request_field, REQUEST_PARAMETERS);
    while (!str_is_absent(query)) {
        struct str value = str_split(&query, '&');
        if (value.n == 0)
            continue;
        if (r->query_count == REQUEST_PARAMETERS)
            return invalid(r, "too many query parameters");
        struct request_field *f = &r->query[r->query_count++];
        struct str name = str_split(&value, '=');
        if (request_decode(name, true, r->arena, &f->name) != OK ||
            request_decode(str_is_absent(value) ? STR("") : value, true, r->arena, &f->value) != OK)
            return invalid(r,
                           "the query has a broken escape, a control character, or is not UTF-8");
    }
    return true;
}

bool request_parse_target(struct request *r) {
    struct str rest = origin_form(r->target);
    if (!str_starts_with(rest, STR("/")))
        return invalid(r, "the request target is not a path");
    for (size_t i = 0; i < rest.n; i++)
        if (rest.p[i] <= ' ' || rest.p[i] > '~')
            return invalid(r, "the request target has a character that must be escaped");
    if (str_find_char(rest, '#') >= 0)
        return invalid(r, "the request target has a fragment");
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
        return invalid(r, "Content-Length and Transfer-Encoding are both there");
    if (lengths > 1)
        return invalid(r, "Content-Length is there more than once");
    if (lengths == 1 && str_parse_u64(length, INT64_MAX, &n) != OK)
        return invalid(r, "Content-Length is not a number");
    if (codings > 1 || (codings == 1 && !str_equal_nocase(coding, STR("chunked"))))
        return invalid(r, "the only Transfer-Encoding that is understood is chunked");
    if (codings == 1 && !is_1_1)
        return invalid(r, "HTTP/1.0 has no Transfer-Encoding");
    return true;
}

static bool is_host(struct str s) {
    static const char others[] = "-._~!$&'()*+,;=:[]%";
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_is_alnum(s.p[i]) && (s.p[i] == '\0' || strchr(others, s.p[i]) == NULL))
            return false;
    return true;
}

bool request_check_framing(struct request *r) {
    bool is_1_1 = str_equal(r->version, STR("HTTP/1.1"));
    struct str host = STR("");
    if (!is_1_1 && !str_equal(r->version, STR("HTTP/1.0")))
        return invalid(r, "HTTP/1.1 and HTTP/1.0 are spoken here");
    if (!is_token(r->method))
        return invalid(r, "the method is not a token");
    for (size_t i = 0; i < r->header_count; i++) {
        if (!is_token(r->header[i].name))
            return invalid(r, "a header field name is not a token");
        if (has_bad_octet(r->header[i].value))
            return invalid(r, "a header field has a control character");
    }
    size_t hosts = count_header(r, STR("Host"), &host);
    if (hosts > 1 || (hosts == 0 && is_1_1) || !is_host(host))
        return invalid(r, "one Host header field is needed");
    return check_length(r, is_1_1);
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

int request_prefer_wait(struct str prefer) {
    while (!str_is_absent(prefer)) {
        struct str value = str_split(&prefer, ',');
        struct str preference = str_split(&value, ';');
        struct str name = str_trim(str_split(&preference, '='));
        uint64_t seconds;
        if (!str_equal_nocase(name, STR("wait")) || str_is_absent(preference) ||
            str_parse_u64(str_trim(preference), UINT32_MAX, &seconds) != OK)
            continue;
        return seconds > LIMIT_WAIT_S ? LIMIT_WAIT_S : (int)seconds;
    }
    return -1;
}

bool request_is_idempotency_key(struct str key) {
    bool is_good = key.n > 0 && key.n <= LIMIT_IDEMPOTENCY_KEY;
    for (size_t i = 0; is_good && i < key.n; i++)
        is_good = key.p[i] > ' ' && key.p[i] <= '~';
    return is_good;
}

/* ---- admission ---- */

static bool find_route(struct request *r) {
    enum http_method method = HTTP_METHOD_COUNT;
    (void)http_method_parse(r->method, &method);
    struct route_match m = routes_find(method, r->path, &r->view);
    if (m.allowed == 0) {
        request_problem(r, PROBLEM_NOT_FOUND, "there is nothing at this path");
        return false;
    }
    if (m.route == NULL) {
        char allowed[64];
        routes_print_allowed(m.allowed, allowed);
        request_problem(r, PROBLEM_METHOD_NOT_ALLOWED, "this path takes %s", allowed);
        http_reply_header(&r->reply, "Allow", arena_dup(r->arena, str_of(allowed)));
        return false;
    }
    r->route = m.route;
    r->is_head = str_equal(r->method, STR("HEAD"));
    for (size_t i = 0; i < ROUTE_PARAMS; i++) {
        if (!str_is_absent(m.param[i]) &&
            request_decode(m.param[i], false, r->arena, &r->param[i]) != OK) {
            request_problem(r, PROBLEM_NOT_FOUND, "there is nothing at this path");
            return false;
        }
    }
    return true;
}

static const unsigned every_scope = SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN;

static bool authenticate(struct request *r) {
    if ((r->route->flags & ROUTE_PUBLIC) != 0)
        return true;
    if (r->is_control) {
        r->identity = (struct identity){.project = API_PROJECT, .scopes = every_scope};
        return true;
    }
    struct str authorization = request_header(r, STR("Authorization"));
    if (str_is_absent(authorization)) {
        request_problem(r, PROBLEM_UNAUTHORIZED, "send \"Authorization: Bearer <key>\"");
        return false;
    }
    r->keyring = env_keyring(r->env);
    const struct identity *who =
        keyring_find(r->keyring, auth_bearer(authorization), clock_wall_ms());
    if (who == NULL) {
        request_problem(r, PROBLEM_INVALID_KEY, "the key is unknown, expired or revoked");
        return false;
    }
    r->identity = *who;
    if (auth_scopes_allow(who->scopes, r->route->scope))
        return true;
    for (unsigned s = SCOPE_SEND; s <= SCOPE_ADMIN; s <<= 1)
        if ((r->route->scope & s) != 0)
            request_problem(r, PROBLEM_FORBIDDEN, "the scope \"%s\" is needed",
                            auth_scope_name((enum key_scope)s));
    return false;
}

bool request_is_still_allowed(struct request *r) {
    keyring_unref(&r->keyring);
    return authenticate(r);
}

static bool check_accept(struct request *r) {
    struct str accept = request_header(r, STR("Accept"));
    const char *type = r->route->produces != NULL ? r->route->produces : "application/json";
    if (request_accepts(accept, str_of(type)))
        return true;
    request_problem(r, PROBLEM_NOT_ACCEPTABLE, "the answer is %s", type);
    return false;
}

static bool check_content_type(struct request *r) {
    struct str type = request_header(r, STR("Content-Type"));
    struct str coding = request_header(r, STR("Content-Encoding"));
    if (!str_is_absent(coding) && !str_equal_nocase(coding, STR("identity"))) {
        request_problem(r, PROBLEM_MEDIA_TYPE, "a Content-Encoding is not taken");
        return false;
    }
    if ((r->route->flags & ROUTE_ANY_BODY) != 0 ||
        str_equal_nocase(request_media_type(type), STR("application/json")))
        return true;
    request_problem(r, PROBLEM_MEDIA_TYPE, "send Content-Type: application/json");
    return false;
}

static bool too_large(struct request *r) {
    if (r->body_max_bytes == 0)
        request_problem(r, PROBLEM_BODY_TOO_LARGE, "this takes no body");
    else
        request_problem(r, PROBLEM_BODY_TOO_LARGE, "the limit is %zu bytes here",
                        r->body_max_bytes);
    r->reply.must_close = true;
    return false;
}

/* The budget of all bodies in flight: what does not fit is refused before it is held (T16). */
static bool charge(struct request *r, size_t n, const struct request_limits *limits) {
    r->charged_key_id = r->identity.key_id;
    if (env_charge(r->env, &r->charged_key_id, n, r->body_charged_bytes,
                   limits->memory_max_bytes)) {
        r->body_charged_bytes += n;
        return true;
    }
    request_problem(r, PROBLEM_OVERLOADED, "the requests under way fill the memory set aside");
    r->reply.must_close = true;
    return false;
}

static bool admit_body(struct request *r, const struct request_limits *limits) {
    uint64_t length = 0;
    struct str text = request_header(r, STR("Content-Length"));
    bool is_chunked = !str_is_absent(request_header(r, STR("Transfer-Encoding")));
    if (!str_is_absent(text) && str_parse_u64(text, INT64_MAX, &length) != OK)
        return invalid(r, "Content-Length is not a number");
    r->body_max_bytes = r->route->body_max == ROUTE_BODY_MESSAGE ? limits->body_max_bytes
                                                                 : (size_t)r->route->body_max;
    r->body.max = r->body_max_bytes;
    if (length == 0 && !is_chunked)
        return true;
    if (r->body_max_bytes == 0 || length > r->body_max_bytes)
        return too_large(r);
    return check_content_type(r) && (length == 0 || charge(r, (size_t)length, limits));
}

bool request_admit(struct request *r, const struct request_limits *limits) {
    if (!find_route(r) || !authenticate(r) || !check_accept(r))
        return false;
    if (atomic_load(&r->env->is_draining) && (r->route->flags & ROUTE_HEALTH) == 0) {
        request_problem(r, PROBLEM_DRAINING, "repeat the request elsewhere, or soon");
        r->reply.must_close = true;
        return false;
    }
    return admit_body(r, limits);
}

enum err request_add_body(struct request *r, struct str piece,
                          const struct request_limits *limits) {
    if (piece.n > r->body_max_bytes - r->body.n) {
        (void)too_large(r);
        return ERR_LIMIT;
    }
    /* with a Content-Length the whole was charged when it was announced */
    if (r->body.n + piece.n > r->body_charged_bytes && !charge(r, piece.n, limits))
        return ERR_AGAIN;
    buf_put(&r->body, piece);
    return buf_status(&r->body);
}

/* ---- what others do for it ---- */

static void store_answered(struct store_call *call) {
    struct request *r = call->ctx;
    void (*done)(struct request *, struct store_call *) = r->store_done;
    done(r,
         call); /* whatever it does, the request lives until its loop turns to the sockets again */
    store_call_release(call);
}

void request_store(struct request *r, struct store_call *call, enum store_verb verb,
                   void (*done)(struct request *r, struct store_call *call)) {
    r->store_done = done;
    call->verb = verb;
    call->reply_to = r->box;
    call->ctx = r;
    call->done = store_answered;
    store_post(r->env->store, call);
}

static void work_runs(struct work *work) {
    struct request *r = CONTAINER_OF(work, struct request, work);
    r->work_run(r);
}

static void work_is_done(struct work *work) {
    struct request *r = CONTAINER_OF(work, struct request, work);
    r->work_done(r);
}

void request_work(struct request *r, void (*run)(struct request *r),
                  void (*done)(struct request *r)) {
    r->work_run = run;
    r->work_done = done;
    r->work = (struct work){.run = work_runs, .reply_to = r->box, .done = work_is_done};
    workers_post(r->env->workers, &r->work);
}

static void load_is_done(struct keeper_load *load) {
    struct request *r = CONTAINER_OF(load, struct request, load);
    r->load_done(r, load->err);
}

void request_reload(struct request *r, void (*done)(struct request *r, enum err err)) {
    r->load_done = done;
    r->load = (struct keeper_load){.reply_to = r->box, .done = load_is_done};
    keeper_reload(r->env, &r->load);
}
