/* Events and the notifications that they cause, in the transaction of what happened. */
#include "storage/sqlite/result.h"
#include "storage/sqlite/writer.h"

void webhooks_changed(struct backend *b) {
    b->webhooks_known = false;
    b->webhooks_touched = true;
}

const struct webhook_copy *webhooks_copy(struct backend *b, size_t *count) {
    if (!b->webhooks_known) {
        arena_clear(b->webhook_arena);
        b->webhook = NULL;
        b->webhook_count = 0;
        struct arena *secrets = arena_new(); /* only whether they open is of interest */
        sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOKS);
        sq_bind_int(st, 1, -1);
        while (sq_row(&b->h, st)) {
            struct damage damage = {0};
            struct webhook_copy w = {.n = sq_int(st, 0)};
            webhook_from_row(&b->h, &damage, st, b->webhook_arena, secrets, &w.row);
            w.row.secret = w.row.previous_secret = STR_NONE;
            if (!sq_is_sound(&b->h, &damage, DAMAGED_WEBHOOK, w.n))
                continue; /* every event, hence every accept, would fail with it */
            b->webhook =
                rows_grow(b->webhook_arena, b->webhook, sizeof(*b->webhook), b->webhook_count);
            b->webhook[b->webhook_count++] = w;
        }
        sq_end(st);
        arena_free_secret(&secrets);
        b->webhooks_known = !sq_has_failed(&b->h);
    }
    *count = b->webhook_count;
    return b->webhook;
}

static void notify(struct backend *b, struct effects *fx, const struct webhook_copy *w,
                   int64_t event_seq, int64_t now_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_PUT);
    sq_bind_int(st, 1, b->now.next_notification++);
    sq_bind_int(st, 2, w->n);
    sq_bind_int(st, 3, event_seq);
    sq_bind_int(st, 4, now_wall_ms);
    sq_run(&b->h, st);
    b->now.notifications_pending++;
    effects_kind(fx, NOTICE_NOTIFY);
}

static void notify_all(struct backend *b, struct effects *fx, const struct event_in *e,
                       int64_t event_seq) {
    size_t count;
    const struct webhook_copy *w = webhooks_copy(b, &count);
    for (size_t i = 0; i < count; i++) {
        if (w[i].row.project != e->project || w[i].n == e->except_webhook)
            continue;
        bool wanted = e->only_webhook != 0
                          ? w[i].n == e->only_webhook
                          : w[i].row.state != WEBHOOK_DISABLED && webhook_wants(&w[i].row, e->type);
        if (wanted)
            notify(b, fx, &w[i], event_seq, e->wall_ms);
    }
}

enum { EVENT_LATE = 1, EVENT_DUPLICATE = 2 };

int64_t event_put(struct backend *b, struct effects *fx, const struct event_in *e, struct id *id) {
    struct id made = id_new(e->wall_ms);
    int64_t seq = b->now.next_event++;
    sqlite3_stmt *st = sq_use(&b->h, SQL_EVENT_PUT);
    sq_bind_int(st, 1, seq);
    sq_bind_id(st, 2, &made);
    sq_bind_int(st, 3, e->type);
    sq_bind_int(st, 4, e->project);
    sq_bind_int(st, 5, e->wall_ms);
    if (e->message_seq != 0)
        sq_bind_int(st, 6, e->message_seq);
    else
        sqlite3_bind_null(st, 6);
    if (e->recipient >= 0)
        sq_bind_int(st, 7, e->recipient);
    else
        sqlite3_bind_null(st, 7);
    sq_bind_int(st, 8, e->state);
    sq_bind_int(st, 9, e->recipient_seq);
    sq_bind_int(st, 10, e->attempt);
    sq_bind_int(st, 11, e->next_attempt_wall_ms);
    sq_bind_int(st, 12,
                (e->is_late ? EVENT_LATE : 0) | (e->possible_duplicate ? EVENT_DUPLICATE : 0));
    struct str packed = e->packed_result;
    if (e->result != NULL && !result_is_empty(e->result)) {
        buf_clear(&b->pack);
        result_pack(&b->pack, e->result);
        packed = buf_str(&b->pack);
    }
    sq_bind_blob(st, 13, packed.p, packed.n);
    sq_bind_str(st, 14, e->message_state);
    sq_bind_id(st, 15, &e->webhook_id);
    sq_bind_str(st, 16, e->note);
    sq_run(&b->h, st);
    notify_all(b, fx, e, seq);
    if (id != NULL)
        *id = made;
    return seq;
}

void rcpt_event(struct backend *b, struct effects *fx, const struct message_head *m, struct rcpt *r,
                struct event_in *e) {
    e->project = m->project;
    e->message_seq = m->seq;
    e->recipient = r->key;
    e->recipient_seq = ++r->event_seq;
    e->attempt = r->attempts;
    e->possible_duplicate = r->duplicate;
    bool has_result = (e->result != NULL && !result_is_empty(e->result));
    int64_t seq = event_put(b, fx, e, NULL);
    if (has_result)
        r->last_event = seq;
}

void event_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a, struct event_row *out) {
    int64_t flags = sq_int(st, 10);
    *out = (struct event_row){
        .seq = sq_int(st, 0),
        .id = sq_id(st, 1),
        .type = (enum event_type)sq_enum(d, st, 2, EVENT_TYPE_COUNT),
        .project = sq_int(st, 3),
        .wall_ms = sq_time(d, st, 4),
        .recipient_index = sqlite3_column_type(st, 5) == SQLITE_NULL
                               ? -1
                               : (int)(sq_int(st, 5) % RECIPIENT_KEY_SPAN),
        .state = (enum recipient_state)sq_enum(d, st, 6, RECIPIENT_STATE_COUNT),
        .recipient_seq = (uint32_t)sq_int(st, 7),
        .attempt = (int)sq_int(st, 8),
        .next_attempt_wall_ms = sq_time(d, st, 9),
        .is_late = (flags & EVENT_LATE) != 0,
        .possible_duplicate = (flags & EVENT_DUPLICATE) != 0,
        .message_state = sq_str(st, 12, a),
        .webhook_id = sq_id(st, 13),
        .note = sq_str(st, 14, a),
        .message_id = sq_id(st, 15),
        .external_id = sq_str(st, 16, a),
        .tags_json = sq_str(st, 17, a),
        .metadata_json = sq_str(st, 18, a),
        .email = sq_str(st, 19, a),
    };
    if (result_unpack(sq_peek(st, 11), a, &out->result) != OK)
        damage_note(d, "an event has a result that no version wrote");
}
