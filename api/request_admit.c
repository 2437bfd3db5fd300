/* Who may come in, and with how much. */
#include "api/api.h"
#include "api/request.h"
#include "server/base/clock.h"

static bool nothing_here(struct request *r) {
    request_problem(r, PROBLEM_NOT_FOUND, "there is nothing at this path%s",
                    r->view.has_others ? "; /openapi.json says what there is" : "");
    return false;
}

static bool find_route(struct request *r) {
    enum http_method method = HTTP_METHOD_COUNT;
    (void)http_method_parse(r->method, &method);
    struct route_match m = routes_find(method, r->path, &r->view);
    if (m.allowed == 0)
        return nothing_here(r);
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
            request_decode(m.param[i], false, r->arena, &r->param[i]) != OK)
            return nothing_here(r);
    }
    return true;
}

static const unsigned every_scope = SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN;

/* Whose key is it? */
static bool authenticate(struct request *r) {
    if ((r->route->flags & ROUTE_PUBLIC) != 0)
        return true;
    if (r->is_control) {
        r->identity = (struct identity){.project = API_PROJECT, .scopes = every_scope};
        return true;
    }
    struct str key = auth_bearer(request_header(r, STR("Authorization")));
    if (str_is_empty(key)) { /* or another scheme */
        request_problem(r, PROBLEM_UNAUTHORIZED, "send \"Authorization: Bearer <key>\"");
        return false;
    }
    r->keyring = env_keyring(r->env);
    const struct identity *who = keyring_find(r->keyring, key, clock_wall_ms());
    if (who == NULL) {
        request_problem(r, PROBLEM_INVALID_KEY, "the key is unknown, expired or revoked");
        return false;
    }
    r->identity = *who;
    return true;
}

/* Behind the rate: else who lacks the scope could ask as often as there is time. */
static bool check_scope(struct request *r) {
    if ((r->route->flags & ROUTE_PUBLIC) != 0 ||
        auth_scopes_allow(r->identity.scopes, r->route->scope))
        return true;
    for (unsigned s = SCOPE_SEND; s <= SCOPE_ADMIN; s <<= 1)
        if ((r->route->scope & s) != 0)
            request_problem(r, PROBLEM_FORBIDDEN, "the scope \"%s\" is needed",
                            auth_scope_name((enum key_scope)s));
    return false;
}

/* What is refused here takes nothing of the bucket: who waits as told is served. Who repeats at
 * once would be refused as often as there is time, which is then everybody's (T32). */
static bool check_rate(struct request *r) {
    if (key_rates_take(r->env->rates, &r->identity.key_id, r->identity.rate, r->started_mono_us,
                       &r->rate))
        return true;
    request_problem(r, PROBLEM_RATE_LIMITED, "this key may make %lld requests a minute",
                    (long long)r->rate.quota);
    r->is_slowed = r->reply.status == 429; /* else there was no memory to say so */
    if (r->is_slowed)
        http_reply_header(&r->reply, "Retry-After",
                          arena_printf(r->arena, "%lld", (long long)r->rate.wait_s));
    return false;
}

bool request_is_still_allowed(struct request *r) {
    struct keyring *now = env_keyring(r->env);
    bool is_the_same = now == r->keyring;
    keyring_unref(&now);
    if (is_the_same && identity_is_in_force(&r->identity, clock_wall_ms()))
        return true;
    keyring_unref(&r->keyring);
    return authenticate(r) && check_scope(r);
}

static bool check_accept(struct request *r) {
    struct str accept = request_header_list(r, STR("Accept"));
    const char *type = r->route->produces != NULL ? r->route->produces : "application/json";
    if (request_accepts(accept, str_of(type)))
        return true;
    request_problem(r, PROBLEM_NOT_ACCEPTABLE, "the answer is %s", type);
    return false;
}

static bool check_content_type(struct request *r) {
    struct str type = request_header(r, STR("Content-Type"));
    struct str coding = request_header_list(r, STR("Content-Encoding"));
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

typedef bool charge_fn(struct env *env, const struct id *key, size_t n, size_t own, size_t most);

static bool charge_by(charge_fn *charge, struct request *r, size_t n) {
    if (r->charged_bytes == 0)
        r->charged_key_id = r->identity.key_id;
    if (charge(r->env, &r->charged_key_id, n, r->charged_bytes, r->memory_max_bytes)) {
        r->charged_bytes += n;
        return true;
    }
    request_problem(r, PROBLEM_OVERLOADED, "the requests under way fill the memory set aside");
    r->reply.must_close = true;
    return false;
}

bool request_charge(struct request *r, size_t n) {
    return charge_by(env_charge, r, n);
}

bool request_charge_read(struct request *r) {
    size_t has = r->charged_bytes + REQUEST_FREE_READ, takes = arena_size(r->arena);
    if (takes <= has || request_charge(r, takes - has))
        return true;
    r->reply.must_close = false; /* its request was whole */
    return false;
}

static bool set_aside_by(charge_fn *charge, struct request *r, size_t n) {
    if (charge_by(charge, r, n)) {
        r->aside_bytes += n;
        return true;
    }
    r->reply.must_close = false; /* its request was whole */
    return false;
}

bool request_set_aside_all(struct request *r, size_t n) {
    return set_aside_by(env_charge, r, n);
}

static size_t half_at_most(const struct request *r, size_t n) {
    size_t most = r->memory_max_bytes / 2;
    return n < most ? n : most;
}

bool request_set_aside(struct request *r, size_t n) {
    return request_set_aside_all(r, half_at_most(r, n));
}

bool request_set_aside_page(struct request *r, size_t n) {
    size_t page = half_at_most(r, n);
    bool ok = set_aside_by(env_charge_page, r, page);
    if (ok)
        r->page_bytes += page;
    return ok;
}

bool request_promise_answer(struct request *r, size_t n) {
    size_t more = n > r->charged_bytes ? n - r->charged_bytes : 0;
    r->is_promised = n <= REQUEST_FREE_REPLY || request_set_aside(r, more);
    return r->is_promised;
}

static bool admit_body(struct request *r, const struct request_limits *limits) {
    uint64_t length = 0;
    struct str text = request_header(r, STR("Content-Length"));
    bool is_chunked = !str_is_absent(request_header(r, STR("Transfer-Encoding")));
    if (!str_is_absent(text) && str_parse_u64(text, INT64_MAX, &length) != OK)
        return request_invalid(r, "Content-Length is not a number");
    r->body_max_bytes = r->route->body_max == ROUTE_BODY_MESSAGE ? limits->body_max_bytes
                                                                 : (size_t)r->route->body_max;
    r->body.max = r->body_max_bytes;
    r->memory_max_bytes = limits->memory_max_bytes;
    if (length == 0 && !is_chunked)
        return true;
    if (r->body_max_bytes == 0 || length > r->body_max_bytes)
        return too_large(r);
    r->body_announced_bytes = (size_t)length;
    return check_content_type(r) && request_charge(r, (size_t)length * LIMIT_REQUEST_COST);
}

bool request_admit(struct request *r, const struct request_limits *limits) {
    if (!find_route(r) || !authenticate(r) || !check_rate(r) || !check_scope(r) || !check_accept(r))
        return false;
    if (atomic_load(&r->env->is_draining) && (r->route->flags & ROUTE_HEALTH) == 0) {
        request_problem(r, PROBLEM_DRAINING, "repeat the request elsewhere, or soon");
        r->reply.must_close = true;
        return false;
    }
    return admit_body(r, limits);
}

enum err request_add_body(struct request *r, struct str piece) {
    if (piece.n > r->body_max_bytes - r->body.n) {
        (void)too_large(r);
        return ERR_LIMIT;
    }
    /* with a Content-Length the whole was charged when it was announced */
    if (r->body_announced_bytes == 0 && !request_charge(r, piece.n * LIMIT_REQUEST_COST))
        return ERR_AGAIN;
    if (r->body.n == 0)
        (void)buf_reserve(&r->body, r->body_announced_bytes);
    buf_put(&r->body, piece);
    enum err e = buf_status(&r->body);
    if (e != OK) /* the ceiling was looked at above */
        request_problem_short(r);
    return e;
}
