/* /v1/domains: sending domains, their DKIM keys, and the DNS records that are wanted. */
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/intake/domain_check.h"
#include "server/intake/sender_domain.h"
#include "server/mail/address.h"
#include "server/mail/domain.h"
#include "server/render/value.h"

/* ---- what is shown ---- */

static json_t *render_records(const struct domain_record *record, size_t count, bool was_looked) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *o = json_object();
        json_object_set_new(o, "purpose", json_string(domain_record_kind_name(record[i].kind)));
        json_object_set_new(o, "type", json_string("TXT"));
        json_object_set_new(o, "name", value_str(record[i].name));
        json_object_set_new(o, "value", value_str(record[i].value));
        json_object_set_new(o, "required", json_boolean(record[i].is_required));
        if (was_looked) {
            json_object_set_new(o, "state", json_string(domain_record_state_name(&record[i])));
            json_object_set_new(o, "found", value_str(record[i].found));
        }
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *records_of(const struct request *r, const struct domain_row *d) {
    struct domain_record *record;
    size_t count = domain_records_wanted(d, r->env->hostname, r->arena, &record);
    return render_records(record, count, false);
}

static json_t *keys_of(const struct domain_row *d) {
    json_t *list = json_array();
    for (size_t i = 0; i < d->key_count; i++) {
        json_t *k = json_object();
        json_object_set_new(k, "selector", value_str(d->key[i].selector));
        json_object_set_new(k, "algorithm", value_str(d->key[i].algorithm));
        json_object_set_new(k, "created_at", value_time(d->key[i].created_wall_ms));
        value_set_time(k, "published_at", d->key[i].published_wall_ms);
        json_array_append_new(list, k);
    }
    return list;
}

static json_t *render_domain(const struct request *r, const struct domain_row *d) {
    json_t *o = json_object();
    json_object_set_new(o, "id", value_id(&d->id));
    json_object_set_new(o, "name", value_str(d->name));
    json_object_set_new(o, "verified", json_boolean(d->verified_wall_ms != 0));
    value_set_time(o, "verified_at", d->verified_wall_ms);
    value_set_str(o, "bounce_address", d->bounce_address);
    json_object_set_new(o, "created_at", value_time(d->created_wall_ms));
    json_object_set_new(o, "dkim", keys_of(d));
    json_object_set_new(o, "records", records_of(r, d));
    return o;
}

/* ---- making one ---- */

static const char domain_is_there[] = "this domain is there already";

struct making {
    struct str name;
    struct address bounce; /* email absent: none */
    struct store_domain_put put;
    enum err err;
    struct errinfo info;
};
#define MAKING ((struct making *)out)

static void read_name(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    struct errinfo info = {0};
    if (!json_read_str(at, v, &s))
        return;
    if (domain_parse(s, false, json_arena(at), &MAKING->name, &info) != OK)
        json_fault(at, "invalid_domain", "%s", info.text);
}

static void read_bounce_address(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    struct address parsed;
    struct errinfo info = {0};
    if (!json_read_str(at, v, &s))
        return;
    if (address_parse(&parsed, s, json_arena(at), &info) != OK)
        json_fault(at, "invalid_address", "%s", info.text);
    else
        MAKING->bounce = parsed;
}

static const struct json_field fields[] = {
    {"name", {"domain"}, read_name},
    {"bounce_address", {"bounceAddress"}, read_bounce_address},
};

/* On a worker: making an RSA key takes a while. */
static void make(struct request *r) {
    struct making *m = r->state;
    m->err = sender_domain_make(m->name, m->bounce.email, r->identity.project, clock_wall_ms(),
                                r->arena, &m->put.domain, &m->info);
}

static void in_force(struct request *r, enum err err) {
    (void)err; /* it is stored; the keeper tries again */
    struct making *m = r->state;
    request_json(r, 201, render_domain(r, &m->put.domain));
    http_reply_header(&r->reply, "Location",
                      arena_printf(r->arena, "/v1/domains/%.*s", STR_ARG(m->put.domain.name)));
    request_finish(r);
}

static void stored(struct request *r, struct store_call *call) {
    struct making *m = r->state;
    sender_domain_wipe(&m->put.domain);
    if (call->err == OK) {
        log_info("api", "domain added", LOG_STR("domain", m->put.domain.name),
                 LOG_ID("by", &r->identity.key_id));
        request_reload(r, in_force);
        return;
    }
    if (!v1_had_place(r, call))
        return;
    if (call->err == ERR_CONFLICT)
        request_problem(r, PROBLEM_CONFLICT, "%s", domain_is_there);
    else
        request_problem_store(r, call->err, &call->info);
    request_finish(r);
}

static void was_made(struct request *r) {
    struct making *m = r->state;
    if (m->err == OK) {
        m->put.most = LIMIT_DOMAINS;
        request_store(r, &m->put.call, STORE_DOMAIN_PUT, stored);
        return;
    }
    if (m->err == ERR_INVALID) { /* too long for the names of its records */
        const struct json_at top = {.faults = &r->faults}, name = json_member(&top, "name");
        json_fault(&name, "invalid_domain", "%s", m->info.text);
        request_problem_faults(r, PROBLEM_VALIDATION_FAILED);
    } else {
        request_problem(r, PROBLEM_INTERNAL, "%s", m->info.text);
    }
    request_finish(r);
}

static void refuse(struct request *r, struct str domain, const char *field) {
    const struct json_at top = {.faults = &r->faults}, at = json_member(&top, field);
    json_fault(&at, "domain_not_allowed", "this key may not send from %.*s", STR_ARG(domain));
}

/* An address of the new domain itself is taken as that is: it counts when the domain does. */
static bool may_bounce_to(struct request *r, const struct rights *rights, const struct making *m) {
    struct domains *domains = env_domains(r->env);
    bool may = str_equal(m->bounce.domain, m->name)
                   ? rights_cover_domain(rights, m->name)
                   : rights_allow_domain(rights, domains, m->bounce.domain);
    domains_unref(&domains);
    return may;
}

/* Where a key may not send from, it decides nothing either. */
static bool may_make(struct request *r, const struct making *m) {
    const struct rights rights = request_rights(r);
    if (!rights_cover_domain(&rights, m->name))
        refuse(r, m->name, "name");
    if (!str_is_absent(m->bounce.domain) && !may_bounce_to(r, &rights, m))
        refuse(r, m->bounce.domain, "bounce_address");
    if (r->faults.count == 0)
        return true;
    request_problem_faults(r, PROBLEM_FORBIDDEN);
    request_finish(r);
    return false;
}

/* As with keys. */
static bool is_room(struct request *r) {
    struct domains *domains = env_domains(r->env);
    if (domains_count(domains, r->identity.project) >= LIMIT_DOMAINS)
        faults_add(&r->faults, STR("#"), "too_many", "a project has at most %d domains",
                   (int)LIMIT_DOMAINS);
    domains_unref(&domains);
    return v1_is_good(r);
}

/* Nobody makes keys for what is there. The store decides, where the snapshot is behind. */
static bool is_new(struct request *r, struct str name) {
    struct domains *domains = env_domains(r->env);
    bool is_there = domains_find(domains, r->identity.project, name) != NULL;
    domains_unref(&domains);
    if (!is_there)
        return true;
    request_problem(r, PROBLEM_CONFLICT, "%s", domain_is_there);
    request_finish(r);
    return false;
}

void v1_domains_create(struct request *r) {
    struct making *m = ARENA_NEW(r->arena, struct making);
    struct json_node *root = NULL;
    r->state = m;
    if (!v1_read_body(r, fields, sizeof(fields) / sizeof(fields[0]), m, &root))
        return;
    struct json_at top = {.faults = &r->faults};
    struct json_at name = json_member(&top, "name");
    if (root->kind == JSON_IS_OBJECT && !json_has(root, "name") && !json_has(root, "domain"))
        json_fault(&name, "required", "the name is missing");
    if (!v1_is_good(r) || !may_make(r, m) || !is_new(r, m->name) || !is_room(r))
        return;
    if (!request_work_long(r, make, was_made))
        request_finish(r);
}

/* ---- the others ---- */

static const char no_domain[] = "there is no such domain";

_Static_assert(offsetof(struct domain_row, id) == 0, "v1_answer_page() looks for it there");

static json_t *render_row(const struct request *r, const void *row) {
    return render_domain(r, row);
}

static void listed(struct request *r, struct store_call *call) {
    const struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
    if (!v1_is_done(r, call, "there are no domains"))
        return;
    v1_answer_page(r, PAGE_DOMAINS, q->domain, sizeof(q->domain[0]), q->count, q->more, render_row);
}

void v1_domains_list(struct request *r) {
    struct store_domains *q = ARENA_NEW(r->arena, struct store_domains);
    struct page page;
    if (!v1_read_listing(r, PAGE_DOMAINS, &page))
        return;
    q->project = r->identity.project;
    q->after = page.after.id;
    q->limit = page.limit;
    request_store(r, &q->call, STORE_DOMAINS, listed);
}

static void read_domain(struct request *r, struct str name,
                        void (*done)(struct request *r, struct store_call *call)) {
    struct store_domains *q = ARENA_NEW(r->arena, struct store_domains);
    q->project = r->identity.project;
    q->name = name;
    request_store(r, &q->call, STORE_DOMAINS, done);
}

/* The name in the path; any form of it. */
static bool param_domain(struct request *r, struct str *out) {
    struct errinfo info = {0};
    if (domain_parse(r->param[0], false, r->arena, out, &info) == OK)
        return true;
    request_problem(r, PROBLEM_NOT_FOUND, "this is not a domain");
    request_finish(r);
    return false;
}

/* The same, for what changes something about it. */
static bool param_own_domain(struct request *r, struct str *out) {
    if (!param_domain(r, out))
        return false;
    const struct rights rights = request_rights(r);
    if (rights_cover_domain(&rights, *out))
        return true;
    request_problem(r, PROBLEM_FORBIDDEN, "this key may not send from %.*s", STR_ARG(*out));
    request_finish(r);
    return false;
}

/* NULL: the request is answered. */
static const struct domain_row *find(struct request *r, const struct store_call *call) {
    const struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
    if (!v1_is_done(r, call, no_domain))
        return NULL;
    if (q->count > 0)
        return &q->domain[0];
    request_problem(r, PROBLEM_NOT_FOUND, "%s", no_domain);
    request_finish(r);
    return NULL;
}

static void got(struct request *r, struct store_call *call) {
    const struct domain_row *found = find(r, call);
    if (found == NULL)
        return;
    request_json(r, 200, render_domain(r, found));
    request_finish(r);
}

void v1_domain_get(struct request *r) {
    struct str name;
    request_check_query(r, NULL, 0);
    if (v1_is_good(r) && param_domain(r, &name))
        read_domain(r, name, got);
}

/* ---- looking at DNS ---- */

enum { LOOK_MS = 10 * 1000 };

struct verifying {
    struct str name;
    struct request *request;
    struct domain_row row; /* what the look goes by */
    struct domain_look look;
    json_t *records;
    bool is_complete;
};

/* The store knows by now, and so does who checks From. */
static void verified(struct request *r, struct store_call *call) {
    struct verifying *v = r->state;
    const struct domain_row *d = find(r, call); /* deleted meanwhile? */
    if (d == NULL) {
        json_decref(v->records);
        return;
    }
    json_t *o = render_domain(r, d);
    json_object_set_new(o, "records", v->records);
    json_object_set_new(o, "complete", json_boolean(v->is_complete));
    request_json(r, 200, o);
    request_finish(r);
}

static void verified_in_force(struct request *r, enum err err) {
    (void)err; /* it is stored; the keeper tries again */
    read_domain(r, ((const struct verifying *)r->state)->name, verified);
}

static void looked(struct domain_look *look) {
    struct verifying *v = CONTAINER_OF(look, struct verifying, look);
    struct request *r = v->request;
    if (look->err != OK) {
        request_problem(r, PROBLEM_UNAVAILABLE, "%s",
                        look->err == ERR_AGAIN ? "too many domains are looked at right now"
                                               : "the server is stopping");
        request_finish(r);
        return;
    }
    v->records = render_records(look->record, look->count, true);
    v->is_complete = true;
    for (size_t i = 0; i < look->count; i++)
        v->is_complete &= look->record[i].is_answered && look->record[i].failure == FAILURE_NONE;
    arena_free(&look->arena);
    request_reload(r, verified_in_force);
}

/* Of a row that ends with its call, what the look needs. */
static struct domain_row keep(struct arena *a, const struct domain_row *d) {
    struct domain_row kept = {.id = d->id,
                              .project = d->project,
                              .name = arena_dup(a, d->name),
                              .key_count = d->key_count};
    kept.key = ARENA_ARRAY(a, struct domain_key_row, d->key_count + 1);
    for (size_t i = 0; i < d->key_count; i++) {
        kept.key[i].selector = arena_dup(a, d->key[i].selector);
        kept.key[i].record = arena_dup(a, d->key[i].record);
    }
    return kept;
}

static void verify_found(struct request *r, struct store_call *call) {
    struct verifying *v = r->state;
    const struct domain_row *d = find(r, call);
    if (d == NULL)
        return;
    if (r->env->look == NULL) {
        request_problem(r, PROBLEM_UNAVAILABLE, "nobody looks at DNS here: start the server");
        request_finish(r);
        return;
    }
    v->request = r;
    v->row = keep(r->arena, d);
    v->look = (struct domain_look){
        .reply_to = r->box, .done = looked, .row = &v->row, .timeout_ms = LOOK_MS};
    r->env->look(r->env->look_ctx, &v->look);
}

void v1_domain_verify(struct request *r) {
    struct verifying *v = ARENA_NEW(r->arena, struct verifying);
    r->state = v;
    if (v1_read_nothing(r) && param_own_domain(r, &v->name))
        read_domain(r, v->name, verify_found);
}

/* ---- deleting ---- */

static void out_of_force(struct request *r, enum err err) {
    (void)err;
    r->reply.status = 204;
    request_finish(r);
}

static void deleted(struct request *r, struct store_call *call) {
    const struct store_domain_delete *q = CONTAINER_OF(call, struct store_domain_delete, call);
    if (!v1_is_done(r, call, no_domain))
        return;
    log_info("api", "domain deleted", LOG_STR("domain", q->name),
             LOG_ID("by", &r->identity.key_id));
    request_reload(r, out_of_force);
}

void v1_domain_delete(struct request *r) {
    struct store_domain_delete *q = ARENA_NEW(r->arena, struct store_domain_delete);
    if (!v1_read_nothing(r) || !param_own_domain(r, &q->name))
        return;
    q->project = r->identity.project;
    request_store(r, &q->call, STORE_DOMAIN_DELETE, deleted);
}
