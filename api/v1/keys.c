/* /v1/keys: made (and shown) once, listed, revoked at once. */
#include "api/api.h"
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/intake/rights.h"
#include "server/render/value.h"

enum { TRIES = 3, FROM_DOMAINS_MAX = 100 };

/* Two calls take turns: the one that was answered is still looked at when the next is posted. */
struct making {
    struct key_row key;
    struct store_key_put put[2];
    struct auth_key_text text;
    int tries;
    struct str *scopes;
    size_t scope_count;
    bool has_no_scope; /* an empty list */
};

/* ---- what is shown ---- */

static json_t *render_key(const struct key_row *k) {
    json_t *o = json_object(), *scopes = json_array(), *domains = json_array();
    for (unsigned s = SCOPE_SEND; s <= SCOPE_ADMIN; s <<= 1)
        if ((k->scopes & s) != 0)
            json_array_append_new(scopes, json_string(auth_scope_name((enum key_scope)s)));
    for (size_t i = 0; i < k->from_domain_count; i++)
        json_array_append_new(domains, value_str(k->from_domains[i]));
    json_object_set_new(o, "id", value_id(&k->id));
    json_object_set_new(o, "name", value_str(k->name));
    json_object_set_new(o, "prefix", value_str(k->prefix));
    json_object_set_new(o, "scopes", scopes);
    json_object_set_new(o, "from_domains", domains);
    json_object_set_new(o, "test", json_boolean(k->is_test));
    json_object_set_new(o, "rate", k->rate != 0 ? json_integer(k->rate) : json_null());
    json_object_set_new(o, "created_at", value_time(k->created_wall_ms));
    value_set_time(o, "expires_at", k->expires_wall_ms);
    value_set_time(o, "revoked_at", k->revoked_wall_ms);
    value_set_time(o, "used_at", k->used_wall_ms);
    return o;
}

/* ---- making one ---- */

#define MAKING ((struct making *)out)

static void read_name(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    if (!json_read_str(at, v, &s))
        return;
    MAKING->key.name = s;
    if (s.n == 0 || s.n > LIMIT_TAG || str_has_control(s, false))
        json_fault(at, "invalid_value", "1 to %d octets of text, no control characters",
                   (int)LIMIT_TAG);
}

static void read_scopes(const struct json_at *at, const struct json_node *v, void *out) {
    struct making *m = out;
    (void)json_read_strs(at, v, 8, &m->scopes, &m->scope_count);
    m->has_no_scope = v->kind == JSON_IS_ARRAY && v->count == 0;
    for (size_t i = 0; i < m->scope_count; i++) {
        struct json_at here = json_element(at, i);
        if (str_is_absent(m->scopes[i]))
            continue; /* no text, which was said */
        if (auth_scope_parse(m->scopes[i], &m->key.scopes) != OK)
            json_fault(&here, "invalid_value", "this is one of send, read, manage, admin");
    }
}

static void read_from_domains(const struct json_at *at, const struct json_node *v, void *out) {
    struct key_row *k = &MAKING->key;
    struct str *list = NULL;
    size_t count = 0;
    (void)json_read_strs(at, v, FROM_DOMAINS_MAX, &list, &count);
    for (size_t i = 0; i < count; i++) {
        struct json_at here = json_element(at, i);
        struct errinfo info = {0};
        if (str_is_absent(list[i]))
            continue;
        if (rights_rule_parse(list[i], json_arena(at), &list[i], &info) != OK)
            json_fault(&here, "invalid_domain", "%s", info.text);
    }
    k->from_domains = list;
    k->from_domain_count = count;
}

static void read_test(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_bool(at, v, &MAKING->key.is_test);
}

static void read_rate(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_int(at, v, 1, KEY_RATE_MOST, &MAKING->key.rate);
}

static void read_expires_at(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    int64_t wall_ms = 0;
    if (!json_read_str(at, v, &s))
        return;
    if (clock_parse_rfc3339(s, &wall_ms) != OK)
        json_fault(at, "invalid_time", "this is a time such as 2026-12-31T00:00:00Z");
    else if (wall_ms <= clock_wall_ms())
        json_fault(at, "out_of_range", "this is in the past");
    MAKING->key.expires_wall_ms = wall_ms;
}

static const struct json_field fields[] = {
    {"name", {NULL}, read_name},
    {"scopes", {NULL}, read_scopes},
    {"from_domains", {"fromDomains"}, read_from_domains},
    {"test", {NULL}, read_test},
    {"rate", {NULL}, read_rate},
    {"expires_at", {"expiresAt"}, read_expires_at},
};

/* ---- no more than the maker has (T21) ---- */

static void exceeds(struct request *r, const char *field, const char *why) {
    const struct json_at top = {.faults = &r->faults};
    const struct json_at at = json_member(&top, field);
    json_fault(&at, "exceeds_key", "%s", why);
}

static bool is_within_any(const struct identity *who, struct str rule) {
    for (size_t i = 0; i < who->from_domain_count; i++)
        if (rights_rule_is_within(rule, who->from_domains[i]))
            return true;
    return false;
}

static bool sends_from_no_other(const struct identity *who, const struct key_row *k) {
    bool is_within = who->from_domain_count == 0 || k->from_domain_count > 0;
    for (size_t i = 0; i < k->from_domain_count && who->from_domain_count > 0; i++)
        is_within &= is_within_any(who, k->from_domains[i]);
    return is_within;
}

/* A limited key that made unlimited ones would have no limits. */
static bool is_within_own(struct request *r, const struct key_row *k) {
    const struct identity *who = &r->identity;
    if (!sends_from_no_other(who, k))
        exceeds(r, "from_domains", "this key may send from fewer domains itself");
    if (who->is_test && !k->is_test)
        exceeds(r, "test", "a test key makes test keys");
    if (who->rate != 0 && (k->rate == 0 || k->rate > who->rate))
        exceeds(r, "rate", "this key may make fewer requests itself");
    if (who->expires_wall_ms != 0 &&
        (k->expires_wall_ms == 0 || k->expires_wall_ms > who->expires_wall_ms))
        exceeds(r, "expires_at", "this key ends sooner itself");
    if (r->faults.count == 0)
        return true;
    request_problem_faults(r, PROBLEM_FORBIDDEN);
    request_finish(r);
    return false;
}

/* By what is known here, before anything is made: the store decides. */
static bool is_room(struct request *r) {
    struct keyring *ring = env_keyring(r->env);
    if (keyring_count(ring, r->identity.project, r->started_wall_ms) >= LIMIT_KEYS)
        faults_add(&r->faults, STR("#"), "too_many",
                   "a project has at most %d keys in force: revoke some, or let them expire",
                   (int)LIMIT_KEYS);
    keyring_unref(&ring);
    return v1_is_good(r);
}

static void made(struct request *r, struct store_call *call);

static void try_to_make(struct request *r) {
    struct making *m = r->state;
    struct errinfo info = {0};
    struct key_row *k = &m->key;
    struct store_key_put *q = &m->put[m->tries % 2];
    auth_key_generate(k->is_test, &m->text);
    ASSERT(auth_key_describe(auth_key_str(&m->text), r->arena, k, &info) == OK);
    *q = (struct store_key_put){.key = *k, .most = LIMIT_KEYS};
    request_store(r, &q->call, STORE_KEY_PUT, made);
}

static void in_force(struct request *r, enum err err) {
    struct making *m = r->state;
    json_t *o = render_key(&m->key);
    if (err != OK)
        log_info("api", "a new key is stored but not in force yet", LOG_ID("key", &m->key.id));
    json_t *text = value_str(auth_key_str(&m->text));
    json_object_set(o, "key", text);
    explicit_bzero(&m->text, sizeof(m->text));
    request_json(r, 201, o);
    explicit_bzero((char *)(uintptr_t)json_string_value(text), AUTH_KEY_TEXT);
    json_decref(text);
    request_finish(r);
}

static void made(struct request *r, struct store_call *call) {
    struct making *m = r->state;
    if (call->err == ERR_CONFLICT && ++m->tries < TRIES) {
        try_to_make(r); /* two keys drew the same 40 bits */
        return;
    }
    if (call->err != OK) {
        explicit_bzero(&m->text, sizeof(m->text));
        if (!v1_had_place(r, call))
            return;
        if (call->err == ERR_CONFLICT)
            request_problem(r, PROBLEM_UNAVAILABLE, "no new key was found; repeat the request");
        else
            request_problem_store(r, call->err, &call->info);
        request_finish(r);
        return;
    }
    log_info("api", "key made", LOG_ID("key", &m->key.id), LOG_ID("by", &r->identity.key_id));
    request_reload(r, in_force);
}

void v1_keys_create(struct request *r) {
    struct making *m = ARENA_NEW(r->arena, struct making);
    struct json_node *root = NULL;
    r->state = m;
    m->key.id = id_new(r->started_wall_ms);
    m->key.project = r->identity.project;
    m->key.created_wall_ms = r->started_wall_ms;
    if (!v1_read_body(r, fields, sizeof(fields) / sizeof(fields[0]), m, &root))
        return;
    struct json_at top = {.faults = &r->faults};
    struct json_at name = json_member(&top, "name"), scopes = json_member(&top, "scopes");
    if (root->kind == JSON_IS_OBJECT && !json_has(root, "name"))
        json_fault(&name, "required", "the name is missing");
    if (root->kind == JSON_IS_OBJECT && (!json_has(root, "scopes") || m->has_no_scope))
        json_fault(&scopes, "required", "which of send, read, manage, admin may it?");
    m->key.name = arena_dup(r->arena, m->key.name);
    if (v1_is_good(r) && is_within_own(r, &m->key) && is_room(r))
        try_to_make(r);
}

/* ---- the others ---- */

_Static_assert(offsetof(struct key_row, id) == 0, "v1_answer_page() looks for it there");

static json_t *render_row(const struct request *r, const void *row) {
    (void)r;
    return render_key(row);
}

static void listed(struct request *r, struct store_call *call) {
    const struct store_keys *q = CONTAINER_OF(call, struct store_keys, call);
    if (!v1_is_done(r, call, "there are no keys"))
        return;
    v1_answer_page(r, PAGE_KEYS, q->key, sizeof(q->key[0]), q->count, q->more, render_row);
}

void v1_keys_list(struct request *r) {
    struct store_keys *q = ARENA_NEW(r->arena, struct store_keys);
    struct page page;
    if (!v1_read_listing(r, PAGE_KEYS, &page))
        return;
    q->project = r->identity.project;
    q->after = page.after.id;
    q->limit = page.limit;
    request_store(r, &q->call, STORE_KEYS, listed);
}

/* The answer says that no loop takes the key any more; without that it is not given. */
static void out_of_force(struct request *r, enum err err) {
    if (err == OK)
        r->reply.status = 204;
    else
        request_problem(r, PROBLEM_UNAVAILABLE,
                        "the key is revoked, but may be taken for some seconds yet; repeat this");
    request_finish(r);
}

static const char no_key[] = "there is no key with this id";

static void revoked(struct request *r, struct store_call *call) {
    const struct store_key_revoke *q = CONTAINER_OF(call, struct store_key_revoke, call);
    if (!v1_is_done(r, call, no_key))
        return;
    log_info("api", "key revoked", LOG_ID("key", &q->id), LOG_ID("by", &r->identity.key_id));
    request_reload(r, out_of_force);
}

/* Where a key may not send, it ends no sending either. How many requests another one may make, and
 * until when, is no reason to let a leaked one live. */
static bool may_revoke(struct request *r, const struct key_row *k) {
    const struct identity *who = &r->identity;
    if (!sends_from_no_other(who, k))
        request_problem(r, PROBLEM_FORBIDDEN, "this key may send from fewer domains itself");
    else if (who->is_test && !k->is_test)
        request_problem(r, PROBLEM_FORBIDDEN, "a test key revokes test keys");
    else
        return true;
    request_finish(r);
    return false;
}

static void revoke_of_found(struct request *r, struct store_call *call) {
    const struct store_keys *list = CONTAINER_OF(call, struct store_keys, call);
    struct store_key_revoke *q = r->state;
    if (!v1_is_done(r, call, no_key))
        return;
    if (list->count == 0) {
        request_problem(r, PROBLEM_NOT_FOUND, "%s", no_key);
        request_finish(r);
    } else if (may_revoke(r, &list->key[0])) {
        request_store(r, &q->call, STORE_KEY_REVOKE, revoked);
    }
}

void v1_key_revoke(struct request *r) {
    struct store_key_revoke *q = ARENA_NEW(r->arena, struct store_key_revoke);
    struct store_keys *one = ARENA_NEW(r->arena, struct store_keys);
    if (!v1_read_nothing(r) || !v1_param_id(r, &q->id))
        return;
    r->state = q;
    q->project = one->project = r->identity.project;
    one->id = q->id;
    q->now_wall_ms = r->started_wall_ms;
    if (r->identity.from_domain_count > 0 || r->identity.is_test)
        request_store(r, &one->call, STORE_KEYS, revoke_of_found);
    else
        request_store(r, &q->call, STORE_KEY_REVOKE, revoked);
}
