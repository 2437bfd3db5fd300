/* A new message with all that belongs to it: from accept and from retry. */
#include "storage/sqlite/writer.h"

static void put_message(struct backend *b, const struct message_row *m, int64_t body) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_MESSAGE_PUT);
    sq_bind_int(st, 1, m->seq);
    sq_bind_id(st, 2, &m->id);
    sq_bind_int(st, 3, m->project);
    sq_bind_id(st, 4, &m->key_id);
    sq_bind_id(st, 5, &m->retry_of);
    sq_bind_int(st, 6, m->created_wall_ms);
    sq_bind_int(st, 7, m->expires_wall_ms);
    sq_bind_str(st, 8, m->message_id);
    sq_bind_str(st, 9, m->mail_from);
    sq_bind_str(st, 10, m->from_email);
    sq_bind_str(st, 11, m->from_name);
    sq_bind_str(st, 12, m->from_domain);
    sq_bind_str(st, 13, m->subject);
    sq_bind_str(st, 14, m->external_id);
    sq_bind_str(st, 15, m->tags_json);
    sq_bind_str(st, 16, m->metadata_json);
    sq_bind_str(st, 17, m->route);
    sq_bind_int(st, 18, m->tls);
    sq_bind_int(st, 19, m->needs_smtputf8);
    sq_bind_int(st, 20, m->size_bytes);
    sq_bind_int(st, 21, m->lane);
    sq_bind_int(st, 22, (int64_t)m->recipient_count);
    sq_bind_int(st, 23, body);
    sq_bind_int(st, 24, m->is_test);
    sq_run(&b->h, st);
}

static void put_recipient(struct backend *b, const struct message_row *m,
                          const struct recipient_row *r, struct str queue_key) {
    struct queue *queue = queue_get(b, queue_key, m->lane, m->project);
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_PUT);
    sq_bind_int(st, 1, r->key);
    sq_bind_str(st, 2, r->email);
    sq_bind_int(st, 3, r->kind);
    sq_bind_int(st, 4, r->state);
    sq_bind_int(st, 5, queue->id);
    sq_bind_str(st, 6, queue_route_key(r->email, queue_key));
    sq_bind_int(st, 7, r->due_wall_ms);
    sq_bind_int(st, 8, r->updated_wall_ms);
    sq_bind_int(st, 9, r->seq);
    sq_run(&b->h, st);
    b->now.accepted++;
    b->now.by_state[r->state]++;
    if (!recipient_state_is_final(r->state))
        queue_changed(b, queue, 1, r->due_wall_ms);
}

static void put_open(struct backend *b, const struct message_row *m) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_PUT);
    sq_bind_int(st, 1, m->seq);
    sq_bind_int(st, 2, m->expires_wall_ms);
    sq_run(&b->h, st);
}

static void put_events(struct backend *b, struct effects *fx, const struct message_row *m,
                       size_t open, size_t scheduled, int64_t now_wall_ms) {
    struct event_in e = {.type = EVENT_MESSAGE_ACCEPTED,
                         .project = m->project,
                         .wall_ms = now_wall_ms,
                         .message_seq = m->seq,
                         .recipient = -1,
                         .message_state =
                             str_of(message_state_name(m->recipient, m->recipient_count))};
    event_put(b, fx, &e, NULL);
    if (scheduled > 0) {
        e.type = EVENT_MESSAGE_SCHEDULED;
        event_put(b, fx, &e, NULL);
    }
    for (size_t i = 0; i < m->recipient_count; i++) {
        const struct recipient_row *r = &m->recipient[i];
        if (r->state == RECIPIENT_SUPPRESSED)
            event_put(b, fx,
                      &(struct event_in){.type = EVENT_RECIPIENT_SUPPRESSED,
                                         .project = m->project,
                                         .wall_ms = now_wall_ms,
                                         .message_seq = m->seq,
                                         .recipient = r->key,
                                         .state = r->state,
                                         .recipient_seq = r->seq},
                      NULL);
    }
    if (open == 0) {
        e.type = EVENT_MESSAGE_COMPLETED;
        event_put(b, fx, &e, NULL);
        effects_message(fx, &m->id, true);
    }
}

static void tell_due(struct effects *fx, const struct message_row *m, const struct str *queue_key,
                     struct message *content) {
    struct outgoing *o = outgoing_new(m, content, effects_budget(fx));
    for (size_t i = 0; i < m->recipient_count; i++) {
        const struct recipient_row *r = &m->recipient[i];
        if (!recipient_state_is_final(r->state))
            effects_due(fx, &m->id,
                        &(struct due_row){.key = r->key,
                                          .outgoing = o,
                                          .due_wall_ms = r->due_wall_ms,
                                          .email = r->email,
                                          .queue_key = queue_key[i]});
    }
    outgoing_unref(&o);
}

void message_insert(struct backend *b, struct effects *fx, struct message_row *m,
                    const struct str *queue_key, int64_t body, struct message *content,
                    int64_t now_wall_ms) {
    size_t open = 0, scheduled = 0;
    m->seq = b->now.next_message++;
    put_message(b, m, body);
    for (size_t i = 0; i < m->recipient_count; i++) {
        struct recipient_row *r = &m->recipient[i];
        ASSERT(r->state == RECIPIENT_QUEUED || r->state == RECIPIENT_SCHEDULED ||
               r->state == RECIPIENT_SUPPRESSED);
        r->key = first_key_of(m->seq) + (recipient_key_t)i;
        r->attempts = 0;
        r->updated_wall_ms = now_wall_ms;
        r->seq = r->state == RECIPIENT_SUPPRESSED ? 1 : 0;
        open += !recipient_state_is_final(r->state);
        scheduled += r->state == RECIPIENT_SCHEDULED;
        put_recipient(b, m, r, queue_key[i]);
    }
    if (open > 0)
        put_open(b, m);
    put_events(b, fx, m, open, scheduled, now_wall_ms);
    terms_put(b, m);
    tell_due(fx, m, queue_key, content);
}
