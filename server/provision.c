#include "server/provision.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/auth.h"
#include "api/key_rate.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/events/signature.h"
#include "server/intake/sender_domain.h"

#define ADMIN_KEY_NAME STR("admin")
#define SEND_KEY_NAME STR("send")
enum { SCOPES_ALL = SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN };

/* Runs a verb and forgets what came out; ERR_CONFLICT of an equal thing is no error here. Without a
 * store declarations are only checked. */
static enum err run(struct store *s, struct store_call *call, struct errinfo *info) {
    if (s == NULL)
        return OK;
    enum err e = store_sync(s, call);
    if (e != OK && info)
        *info = call->info;
    store_call_release(call);
    return e;
}

/* ---- keys ---- */

static enum err put_key(struct store *s, struct str name, struct str text, unsigned scopes,
                        const struct config_list *from_domains, int64_t rate, const char *setting,
                        struct errinfo *info) {
    struct arena *a = arena_new();
    int64_t now = clock_wall_ms();
    struct store_key_put q = {.call.verb = STORE_KEY_PUT};
    q.key = (struct key_row){.id = id_new(now),
                             .project = API_PROJECT,
                             .name = name,
                             .scopes = scopes,
                             .rate = rate,
                             .created_wall_ms = now};
    enum err e = auth_key_describe(text, a, &q.key, info);
    if (e != OK)
        e = err_set(info, ERR_INVALID, setting,
                    "is not an API key; `postchute key generate` prints one to put into the file");
    if (e == OK && from_domains && from_domains->count) {
        q.key.from_domains = ARENA_ARRAY(a, struct str, from_domains->count);
        for (size_t i = 0; i < from_domains->count && e == OK; i++)
            e = rights_rule_parse(from_domains->list[i], a, &q.key.from_domains[i], info);
        q.key.from_domain_count = from_domains->count;
    }
    if (e == OK) {
        struct errinfo why;
        e = run(s, &q.call, &why);
        if (e != OK)
            (void)err_set(info, e, setting, "%s: %s", why.field, why.text);
    }
    if (e == OK && q.key.revoked_wall_ms != 0)
        log_warn("server", "a declared key was revoked and stays so: declare a new one",
                 LOG_STRZ("setting", setting), LOG_STR("name", name), LOG_ID("key", &q.key.id));
    arena_free(&a);
    return e;
}

static enum err put_declared_key(struct store *s, const struct config_key *k,
                                 struct errinfo *info) {
    unsigned scopes = k->scopes.count ? 0 : SCOPE_SEND;
    for (size_t i = 0; i < k->scopes.count; i++)
        if (auth_scope_parse(k->scopes.list[i], &scopes) != OK)
            return err_set(info, ERR_INVALID, "keys.scopes",
                           "'%.*s' is none of send, read, manage, admin",
                           STR_ARG(k->scopes.list[i]));
    uint64_t rate = 0;
    if (!str_is_absent(k->rate) &&
        (str_parse_u64(k->rate, KEY_RATE_MOST, &rate) != OK || rate == 0))
        return err_set(info, ERR_INVALID, "keys.rate", "'%.*s' is not a number from 1 to %d",
                       STR_ARG(k->rate), (int)KEY_RATE_MOST);
    return put_key(s, k->name, k->secret, scopes, &k->from_domains, (int64_t)rate, "keys.secret",
                   info);
}

/* A declaration of a key, as the store may have it. */
struct declared {
    struct str name, text;
};

static size_t list_declared(const struct config *c, struct declared *out) {
    size_t n = 0;
    if (!str_is_absent(c->admin_key))
        out[n++] = (struct declared){ADMIN_KEY_NAME, c->admin_key};
    if (!str_is_absent(c->send_key))
        out[n++] = (struct declared){SEND_KEY_NAME, c->send_key};
    for (size_t i = 0; i < c->key_count; i++)
        out[n++] = (struct declared){c->keys[i].name, c->keys[i].secret};
    return n;
}

/* Another key of a declared name: most often what was declared before, of which the text is no
 * longer in any file. */
static bool is_replaced(const struct key_row *k, const struct declared *list, size_t count,
                        int64_t now_wall_ms) {
    bool is_named = false;
    if (k->revoked_wall_ms != 0 || (k->expires_wall_ms != 0 && k->expires_wall_ms <= now_wall_ms))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (str_starts_with(list[i].text, k->prefix))
            return false;
        is_named = is_named || str_equal(list[i].name, k->name);
    }
    return is_named;
}

/* Told and not ended: another node, or the settings of yesterday, may still need it; or the API
 * made it. Only told: what is declared is stored whether or not the keys can be read. */
static void tell_of_replaced_keys(struct store *s, const struct config *c) {
    struct store_keys q = {.call.verb = STORE_KEYS, .project = API_PROJECT};
    struct arena *a = arena_new();
    struct declared *list = ARENA_ARRAY(a, struct declared, c->key_count + 2);
    size_t count = list_declared(c, list);
    enum err e = count > 0 ? store_sync(s, &q.call) : OK;
    for (size_t i = 0; e == OK && i < q.count; i++)
        if (is_replaced(&q.key[i], list, count, clock_wall_ms()))
            log_warn("server", "another key in force has the name of a declared one",
                     LOG_STR("name", q.key[i].name), LOG_STR("prefix", q.key[i].prefix),
                     LOG_STR("ends_with", arena_printf(a, "postchute key revoke %.*s",
                                                       STR_ARG(q.key[i].prefix))));
    store_call_release(&q.call);
    arena_free(&a);
}

/* ---- domains ---- */

static enum err find_domain(struct store *s, struct str name, struct store_domains *q,
                            const struct domain_row **out, struct errinfo *info) {
    *q = (struct store_domains){
        .call.verb = STORE_DOMAINS, .project = API_PROJECT, .with_secrets = true};
    enum err e = store_sync(s, &q->call);
    *out = NULL;
    if (e != OK && info)
        *info = q->call.info;
    for (size_t i = 0; e == OK && i < q->count; i++)
        if (str_equal(q->domain[i].name, name))
            *out = &q->domain[i];
    return e;
}

static bool same_keys(const struct domain_row *a, const struct domain_row *b) {
    if (a->key_count != b->key_count || !str_equal(a->bounce_address, b->bounce_address))
        return false;
    for (size_t i = 0; i < a->key_count; i++)
        if (!str_equal(a->key[i].selector, b->key[i].selector) ||
            !str_equal(a->key[i].record, b->key[i].record) ||
            !str_equal(a->key[i].pem, b->key[i].pem)) /* the stored one may be damaged */
            return false;
    return true;
}

/* Keeps what the store knows beyond the declaration: id, verification, when a key was found
 * published. */
static void keep_known(struct domain_row *row, const struct domain_row *known) {
    row->id = known->id;
    row->created_wall_ms = known->created_wall_ms;
    row->verified_wall_ms = known->verified_wall_ms;
    for (size_t i = 0; i < row->key_count; i++)
        for (size_t k = 0; k < known->key_count; k++)
            if (str_equal(row->key[i].selector, known->key[k].selector) &&
                str_equal(row->key[i].record, known->key[k].record))
                row->key[i].published_wall_ms = known->key[k].published_wall_ms;
}

static enum err put_declared_domain(struct store *s, const struct config_domain *d,
                                    struct errinfo *info) {
    struct arena *a = arena_new();
    struct store_domains known_call;
    const struct domain_row *known = NULL;
    struct store_domain_put put = {.call.verb = STORE_DOMAIN_PUT, .replace = true};
    struct sender_domain_key *keys =
        ARENA_ARRAY(a, struct sender_domain_key, d->key_count ? d->key_count : 1);
    int64_t now = clock_wall_ms();
    for (size_t i = 0; i < d->key_count; i++)
        keys[i] = (struct sender_domain_key){d->keys[i].selector, d->keys[i].pem};
    enum err e = sender_domain_import(d->name, d->bounce_address, keys, d->key_count, API_PROJECT,
                                      now, a, &put.domain, info);
    if (e == OK && s != NULL)
        e = find_domain(s, put.domain.name, &known_call, &known, info);
    else
        known_call = (struct store_domains){0};
    if (e == OK && s != NULL && d->key_count == 0) {
        if (known) { /* its keys were generated before, or given by the API */
            put.domain.key = known->key;
            put.domain.key_count = known->key_count;
        } else {
            e = sender_domain_make(d->name, d->bounce_address, API_PROJECT, now, a, &put.domain,
                                   info);
        }
    }
    if (e == OK && known)
        keep_known(&put.domain, known);
    if (e == OK && !(known && same_keys(&put.domain, known)))
        e = run(s, &put.call, info);
    sender_domain_wipe(&put.domain); /* may point into what the next line frees */
    store_call_release(&known_call.call);
    arena_free(&a);
    return e;
}

/* ---- webhooks ---- */

static enum err put_webhook(struct store *s, struct webhook_row *row, struct errinfo *info) {
    struct store_webhooks list = {.call.verb = STORE_WEBHOOKS, .project = API_PROJECT};
    struct store_webhook_put put = {.call.verb = STORE_WEBHOOK_PUT};
    enum err e = store_sync(s, &list.call);
    if (e != OK && info)
        *info = list.call.info;
    row->project = API_PROJECT;
    row->created_wall_ms = clock_wall_ms();
    row->id = id_new(row->created_wall_ms);
    for (size_t i = 0; e == OK && i < list.count; i++)
        if (str_equal(list.webhook[i].url, row->url)) {
            row->id = list.webhook[i].id;
            row->state = list.webhook[i].state;
            row->created_wall_ms = list.webhook[i].created_wall_ms;
            put.replace = true;
        }
    put.webhook = *row;
    if (e == OK)
        e = run(s, &put.call, info);
    store_call_release(&list.call);
    return e;
}

static enum err check_webhook_url(const struct guard *guard, struct str url, struct errinfo *info) {
    struct errinfo why = {0};
    struct url parts;
    struct arena *a = arena_new();
    enum err e = guard_check_url(guard, url, a, &parts, &why);
    arena_free(&a);
    return e == OK ? OK : err_set(info, e, "webhooks.url", "%s", why.text);
}

static enum err put_declared_webhook(struct store *s, const struct guard *guard,
                                     const struct config_webhook *w, struct errinfo *info) {
    struct buf bytes = BUF_INIT(256);
    struct webhook_row row = {.url = w->url,
                              .secret = w->secret,
                              .events = w->events.list,
                              .event_count = w->events.count,
                              .description = w->description};
    enum err e = check_webhook_url(guard, w->url, info);
    for (size_t i = 0; i < w->events.count && e == OK; i++) {
        enum event_type t;
        struct str name = w->events.list[i];
        if (!str_equal(name, STR("*")) && !str_equal(name, STR("final")) &&
            !str_equal(name, STR("undelivered")) && event_type_parse(name, &t) != OK)
            e = err_set(info, ERR_INVALID, "webhooks.events", "'%.*s' is no event", STR_ARG(name));
    }
    if (e == OK && signature_parse_secret(w->secret, &bytes) != OK)
        e = err_set(info, ERR_INVALID, "webhooks.secret",
                    "expects whsec_ and base64 of 24 to 64 bytes");
    buf_release_secret(&bytes);
    return e == OK && s != NULL ? put_webhook(s, &row, info) : e;
}

/* ---- all of them ---- */

/* A store that does not answer is nobody's fault. */
static enum err named(enum err e, const char *kind, struct str name, struct errinfo *info) {
    return e == OK || e == ERR_UNAVAILABLE ? e : config_name_declaration(info, e, kind, name);
}

static size_t length_before(struct str s, const char *ends) {
    size_t n = 0;
    while (n < s.n && strchr(ends, s.p[n]) == NULL)
        n++;
    return n;
}

/* What may be shown of a URL: scheme and host. An '@' behind the first '/', '?' or '#' may end a
 * password as well as stand in a path, so nothing is shown of the rest. */
static struct str shown_url(struct arena *a, struct str url) {
    size_t scheme = length_before(url, ":/?#@");
    scheme = str_starts_with(str_from(url, scheme), STR("://")) ? scheme + 3 : 0;
    struct str rest = str_from(url, scheme);
    size_t end = length_before(rest, "/?#");
    struct str host = str_slice(rest, 0, end);
    if (str_find_char(str_from(rest, end), '@') >= 0)
        host = STR("...");
    for (ptrdiff_t at; (at = str_find_char(host, '@')) >= 0;)
        host = str_from(host, (size_t)at + 1);
    return arena_printf(a, "%.*s%.*s", STR_ARG(str_slice(url, 0, scheme)), STR_ARG(host));
}

static enum err put_all(struct store *s, const struct guard *guard, const struct config *c,
                        struct errinfo *info) {
    struct arena *a = arena_new();
    enum err e = OK;
    if (!str_is_absent(c->admin_key))
        e = put_key(s, ADMIN_KEY_NAME, c->admin_key, SCOPES_ALL, NULL, 0, "POSTCHUTE_ADMIN_KEY",
                    info);
    if (e == OK && !str_is_absent(c->send_key))
        e = put_key(s, SEND_KEY_NAME, c->send_key, SCOPE_SEND | SCOPE_READ, NULL, 0,
                    "POSTCHUTE_SEND_KEY", info);
    for (size_t i = 0; i < c->key_count && e == OK; i++)
        e = named(put_declared_key(s, &c->keys[i], info), "key", c->keys[i].name, info);
    if (e == OK && s != NULL)
        tell_of_replaced_keys(s, c);
    for (size_t i = 0; i < c->domain_count && e == OK; i++)
        e = named(put_declared_domain(s, &c->domains[i], info), "domain", c->domains[i].name, info);
    for (size_t i = 0; i < c->webhook_count && e == OK; i++)
        e = named(put_declared_webhook(s, guard, &c->webhooks[i], info), "endpoint",
                  shown_url(a, c->webhooks[i].url), info);
    arena_free(&a);
    return e;
}

enum err provision_check(const struct guard *guard, const struct config *c, struct errinfo *info) {
    return put_all(NULL, guard, c, info);
}

enum err provision_apply(struct store *s, const struct guard *guard, const struct config *c,
                         struct errinfo *info) {
    enum err e = provision_check(guard, c, info);
    return e == OK ? put_all(s, guard, c, info) : e;
}

/* ---- development ---- */

static enum err read_or_make_key(const char *path, struct buf *key, struct errinfo *info) {
    char text[128];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text);
        close(fd);
        struct str s = str_trim(str_make(text, n > 0 ? (size_t)n : 0));
        if (!auth_key_is_well_formed(s))
            return err_set(info, ERR_INVALID, path,
                           "holds no API key; remove it and a new one is made");
        buf_put(key, s);
        explicit_bzero(text, sizeof text);
        return OK;
    }
    if (errno != ENOENT)
        return err_set(info, ERR_UNAVAILABLE, path, "%s", strerror(errno));
    struct auth_key_text made;
    auth_key_generate(false, &made);
    buf_put(key, auth_key_str(&made));
    explicit_bzero(&made, sizeof made);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool written =
        fd >= 0 && write(fd, key->p, key->n) == (ssize_t)key->n && write(fd, "\n", 1) == 1;
    written = written && fsync(fd) == 0;
    int saved_errno = errno; /* of what failed first */
    if (fd >= 0 && close(fd) != 0 && written) {
        written = false;
        saved_errno = errno;
    }
    errno = saved_errno;
    return written ? OK : err_set(info, ERR_UNAVAILABLE, path, "%s", strerror(errno));
}

enum err provision_development(struct store *s, const char *folder, const char *receiver_url,
                               struct buf *key, struct errinfo *info) {
    char path[4096];
    snprintf(path, sizeof path, "%s/dev.key", folder);
    struct config_domain domain = {.name = STR("acme.test")};
    struct buf secret = BUF_INIT(256);
    enum err e = read_or_make_key(path, key, info);
    if (e == OK)
        e = put_key(s, STR("development"), buf_str(key), SCOPES_ALL, NULL, 0, path, info);
    if (e == OK)
        e = put_declared_domain(s, &domain, info);
    if (e == OK && receiver_url) {
        signature_new_secret(&secret);
        struct webhook_row row = {.url = str_of(receiver_url),
                                  .secret = buf_str(&secret),
                                  .description =
                                      STR("the built-in receiver of the development profile")};
        e = put_webhook(s, &row, info);
    }
    buf_release_secret(&secret);
    return e;
}
