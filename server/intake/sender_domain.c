#include "server/intake/sender_domain.h"

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/mail/address.h"
#include "server/mail/dkim_sign.h"
#include "server/mail/domain.h"

enum { PEM_MAX = 16 * 1024, RECORD_MAX = 8 * 1024 };

static enum err begin(struct str name, struct str bounce_address, int64_t project,
                      int64_t now_wall_ms, size_t keys, struct arena *a, struct domain_row *out,
                      struct errinfo *info) {
    *out = (struct domain_row){
        .id = id_new(now_wall_ms), .project = project, .created_wall_ms = now_wall_ms};
    enum err e = domain_parse(name, false, a, &out->name, info);
    if (e == OK && !str_is_absent(bounce_address)) {
        struct address bounce;
        e = address_parse(&bounce, bounce_address, a, info);
        if (e == OK)
            out->bounce_address = bounce.email;
    }
    out->key = ARENA_ARRAY(a, struct domain_key_row, keys ? keys : 1);
    return e;
}

/* A record that has no name can be published nowhere (RFC 1035 2.3.4). */
static enum err check_record_name(struct str selector, struct str domain, struct errinfo *info) {
    size_t n = selector.n + strlen("._domainkey.") + domain.n;
    if (n <= LIMIT_DOMAIN)
        return OK;
    return err_set(info, ERR_INVALID, "selector",
                   "the name of the DKIM record has %zu octets; a name in the DNS has at most %d",
                   n, LIMIT_DOMAIN);
}

static void add_key(struct domain_row *d, struct str selector, const struct dkim_key *key,
                    int64_t now_wall_ms, struct arena *a) {
    struct buf pem = BUF_INIT(PEM_MAX), record = BUF_INIT(RECORD_MAX);
    dkim_key_print_pem(key, &pem);
    dkim_key_print_record(key, &record);
    d->key[d->key_count++] = (struct domain_key_row){
        .selector = selector,
        .algorithm = str_of(dkim_algorithm_name(dkim_key_algorithm(key))),
        .pem = arena_dup(a, buf_str(&pem)),
        .record = arena_dup(a, buf_str(&record)),
        .created_wall_ms = now_wall_ms,
    };
    buf_release_secret(&pem);
    buf_release(&record);
}

enum err sender_domain_make(struct str name, struct str bounce_address, int64_t project,
                            int64_t now_wall_ms, struct arena *a, struct domain_row *out,
                            struct errinfo *info) {
    static const struct {
        enum dkim_algorithm algorithm;
        char suffix;
    } kinds[] = {{DKIM_RSA_SHA256, 'r'}, {DKIM_ED25519_SHA256, 'e'}};
    struct civil_time t = clock_civil(now_wall_ms);
    enum err e = begin(name, bounce_address, project, now_wall_ms, 2, a, out, info);
    for (size_t i = 0; i < 2 && e == OK; i++) {
        struct dkim_key *key = NULL;
        struct str selector = arena_printf(a, "pc%04d%02d%c", t.year, t.month, kinds[i].suffix);
        e = check_record_name(selector, out->name, info);
        if (e == OK)
            e = dkim_key_generate(kinds[i].algorithm, &key, info);
        if (e == OK)
            add_key(out, selector, key, now_wall_ms, a);
        dkim_key_unref(&key);
    }
    return e;
}

enum err sender_domain_import(struct str name, struct str bounce_address,
                              const struct sender_domain_key *keys, size_t count, int64_t project,
                              int64_t now_wall_ms, struct arena *a, struct domain_row *out,
                              struct errinfo *info) {
    enum err e = begin(name, bounce_address, project, now_wall_ms, count, a, out, info);
    if (e == OK && count > DKIM_KEYS_MAX) /* the others would sign nothing */
        e = err_set(info, ERR_INVALID, "dkim", "%.*s has %zu DKIM keys; a domain has at most %d",
                    STR_ARG(out->name), count, DKIM_KEYS_MAX);
    for (size_t i = 0; i < count && e == OK; i++) {
        struct dkim_key *key = NULL;
        struct str selector;
        e = domain_parse_selector(keys[i].selector, a, &selector, info);
        if (e == OK)
            e = check_record_name(selector, out->name, info);
        if (e == OK)
            e = dkim_key_parse_pem(keys[i].pem, &key, info);
        for (size_t k = 0; k < i && e == OK; k++)
            if (str_equal(out->key[k].selector, selector))
                e = err_set(info, ERR_INVALID, "selector", "'%.*s' is given twice",
                            STR_ARG(selector));
        if (e == OK)
            add_key(out, selector, key, now_wall_ms, a);
        dkim_key_unref(&key);
    }
    return e;
}

void sender_domain_wipe(struct domain_row *row) {
    for (size_t i = 0; i < row->key_count; i++)
        if (row->key[i].pem.n)
            explicit_bzero((void *)(uintptr_t)row->key[i].pem.p, row->key[i].pem.n);
}
