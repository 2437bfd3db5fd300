#include "server/delivery/job.h"

#include <stdlib.h>

#include "server/base/limits.h"

struct report *report_new(size_t room) {
    struct arena *a = arena_new();
    struct report *r = ARENA_NEW(a, struct report);
    r->arena = a;
    r->entry = ARENA_ARRAY(a, struct report_entry, room + 1);
    return r;
}

void report_free(struct report **rp) {
    struct report *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    struct arena *a = r->arena;
    arena_free(&a);
}

void job_free(struct job **jp) {
    struct job *j = *jp;
    *jp = NULL;
    if (j == NULL)
        return;
    host_list_unref(&j->hosts);
    signers_unref(&j->signers);
    message_unref(&j->message);
    message_unref(&j->signed_message);
    struct arena *a = j->arena;
    arena_free(&a);
}

struct str report_text(struct report *r, struct str text) {
    size_t n = text.n < LIMIT_REPLY_STORED ? text.n : LIMIT_REPLY_STORED;
    while (n < text.n && n > 0 && ((unsigned char)text.p[n] & 0xc0) == 0x80)
        n--;
    return arena_dup(r->arena, str_make(text.p ? text.p : "", n));
}
