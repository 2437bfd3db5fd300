/* What a batch will tell its watchers, collected while it runs and told after its commit:
 * everything, whether somebody watches or not, since somebody may begin to while it runs. Who is
 * there when it is told is told; who comes later finds it in the store. */
#include <stdlib.h>

#include "storage/effects.h"
#include "storage/store_ops.h"

struct effects *effects_new(struct content_budget *budget) {
    struct effects *fx = mem_zalloc(sizeof(*fx));
    fx->budget = budget;
    return fx;
}

static void drop(struct effect *e) {
    due_row_release(&e->row);
}

void effects_free(struct effects **fp) {
    struct effects *fx = *fp;
    if (fx == NULL)
        return;
    effects_truncate(fx, 0);
    free(fx->list);
    free(fx);
    *fp = NULL;
}

struct content_budget *effects_budget(const struct effects *fx) {
    return fx->budget;
}

static struct effect *add(struct effects *fx, enum store_notice_kind kind) {
    if (fx->count == fx->room) {
        fx->room = fx->room == 0 ? 256 : fx->room * 2;
        fx->list = mem_regrow(fx->list, sizeof(*fx->list), fx->room);
    }
    struct effect *e = &fx->list[fx->count++];
    *e = (struct effect){.kind = kind};
    return e;
}

void effects_due(struct effects *fx, const struct id *message, const struct due_row *row) {
    struct effect *e = add(fx, NOTICE_DUE);
    e->message_id = *message;
    e->row = *row;
    e->row.outgoing = outgoing_ref(row->outgoing);
    e->row.email = str_make(str_dupz(row->email), row->email.n);
    e->row.queue_key = str_make(str_dupz(row->queue_key), row->queue_key.n);
}

void effects_gone(struct effects *fx, const struct id *message, recipient_key_t key) {
    struct effect *e = add(fx, NOTICE_GONE);
    e->message_id = *message;
    e->row.key = key;
}

void effects_message(struct effects *fx, const struct id *message, bool is_complete) {
    struct effect *e = add(fx, NOTICE_MESSAGE);
    e->message_id = *message;
    e->is_complete = is_complete;
}

void effects_kind(struct effects *fx, enum store_notice_kind kind) {
    add(fx, kind);
}

size_t effects_mark(const struct effects *fx) {
    return fx->count;
}

void effects_truncate(struct effects *fx, size_t mark) {
    while (fx->count > mark)
        drop(&fx->list[--fx->count]);
}
