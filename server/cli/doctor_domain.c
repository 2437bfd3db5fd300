#include "server/cli/doctor.h"
#include "server/intake/domain_check.h"

static void checked(struct domain_check *c, void *ctx) {
    *(struct domain_check **)ctx = c;
}

/* The rows of the check from what the API shows: selector and wanted TXT of each DKIM key. */
static void read_domain(const json_t *domain, struct arena *a, struct domain_row *row) {
    const json_t *records = json_object_get(domain, "records");
    size_t i;
    json_t *r;
    row->name = str_of(client_text(domain, "name", ""));
    row->key = ARENA_ARRAY(a, struct domain_key_row, json_array_size(records) + 1);
    json_array_foreach(records, i, r) {
        struct str name = str_of(client_text(r, "name", ""));
        ptrdiff_t end = str_find(name, STR("._domainkey."));
        if (strcmp(client_text(r, "purpose", ""), "dkim") != 0 || end < 0)
            continue;
        row->key[row->key_count++] =
            (struct domain_key_row){.selector = str_slice(name, 0, (size_t)end),
                                    .record = str_of(client_text(r, "value", ""))};
    }
}

static void say_record(struct doctor *d, const struct domain_record *r, struct str domain) {
    char what[16], mend[2048];
    const char *kind = domain_record_kind_name(r->kind);
    snprintf(what, sizeof what, "%s", kind);
    snprintf(mend, sizeof mend, "publish a TXT record at %.*s: %.*s%s", STR_ARG(r->name),
             r->value.n > 60 ? 60 : (int)r->value.n, r->value.p,
             r->value.n > 60 ? "... (`postchute domain dns` prints it)" : "");
    if (r->is_ok)
        doctor_ok(d, what, "%.*s: %.*s", STR_ARG(domain), STR_ARG(r->name));
    else if (r->failure != FAILURE_NONE)
        doctor_look(d, what, "ask again later, or see the resolver", "%.*s: %.*s: %s",
                    STR_ARG(domain), STR_ARG(r->name), failure_text(r->failure));
    else if (!str_is_absent(r->found))
        doctor_bad(d, what, mend, "%.*s: another record is at %.*s: %.*s", STR_ARG(domain),
                   STR_ARG(r->name), r->found.n > 80 ? 80 : (int)r->found.n, r->found.p);
    else if (r->is_required)
        doctor_bad(d, what, mend, "%.*s: nothing is at %.*s", STR_ARG(domain), STR_ARG(r->name));
    else
        doctor_look(d, what, mend, "%.*s: nothing is at %.*s", STR_ARG(domain), STR_ARG(r->name));
}

static void examine_domain(struct doctor *d, const json_t *domain) {
    struct arena *a = arena_new();
    struct domain_row row = {0};
    struct domain_check *c = NULL;
    read_domain(domain, a, &row);
    domain_check_start(d->dns, &row, d->config->hostname, d->box, checked, &c);
    while (!c)
        mailbox_wait(d->box, -1);
    for (size_t i = 0; i < c->count; i++)
        say_record(d, &c->record[i], row.name);
    domain_check_free(&c);
    arena_free(&a);
}

void doctor_domains(struct doctor *d, const json_t *domains) {
    size_t i;
    json_t *domain;
    if (json_array_size(domains) == 0)
        doctor_look(d, "domains", "`postchute domain add DOMAIN` makes its DKIM keys",
                    "there is no sending domain: nothing is signed");
    json_array_foreach(domains, i, domain) examine_domain(d, domain);
}
