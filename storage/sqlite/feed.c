/* Reading the outbox: content, message, events, attempts, totals. */
#include <stdlib.h>

#include "server/base/limits.h"
#include "storage/sqlite/result.h"
#include "storage/sqlite/writer.h"

static enum err finish(struct backend_reader *r, struct store_call *call) {
    enum err e = sq_status(&r->h, &call->info);
    sq_forget(&r->h);
    return e;
}

static enum err not_found(struct backend_reader *r, struct store_call *call, const char *what) {
    enum err e = finish(r, call);
    return e != OK ? e : err_set(&call->info, ERR_NOT_FOUND, "id", "%s", what);
}

/* ---- content ---- */

static char *read_body(struct sq *h, struct damage *d, int64_t body, size_t size) {
    char *bytes = mem_try_zalloc(size + 1);
    size_t at = 0;
    if (bytes == NULL) {
        sq_fail(h, SQLITE_NOMEM, "there is no memory for a content");
        return NULL;
    }
    sqlite3_stmt *st = sq_use(h, SQL_BODY_GET);
    sq_bind_int(st, 1, body * BODY_CHUNKS);
    sq_bind_int(st, 2, body * BODY_CHUNKS + BODY_CHUNKS - 1);
    while (sq_row(h, st)) {
        struct str chunk = sq_peek(st, 0);
        if (chunk.n > size - at) {
            damage_note(d, "a content is longer than its message says");
            break;
        }
        if (chunk.n > 0)
            memcpy(bytes + at, chunk.p, chunk.n);
        at += chunk.n;
    }
    sq_end(st);
    if (at != size)
        damage_note(d, "a content is shorter than its message says");
    return bytes;
}

enum err sqlite_content(struct backend_reader *r, struct store_call *call) {
    struct store_content *q = CONTAINER_OF(call, struct store_content, call);
    struct sq *h = &r->h;
    struct damage damage = {0};
    int64_t body = 0;
    char *bytes = NULL;
    size_t size = 0;
    int64_t seq = 0;
    bool is_there = false;
    q->message = NULL;
    /* One snapshot, its own or one that several share: retention must not erase between the two
     * statements. */
    bool is_own = sqlite3_get_autocommit(h->db) != 0;
    if (is_own)
        sq_run(h, sq_use(h, SQL_READ_BEGIN));
    sqlite3_stmt *st = sq_use(h, SQL_CONTENT_HEAD);
    sq_bind_id(st, 1, &q->id);
    if (sq_row(h, st) && (q->project == -1 || sq_int(st, 0) == q->project)) {
        is_there = true;
        size = (size_t)sq_between(&damage, st, 1, 0, BODY_BYTES_MOST);
        body = sq_int(st, 2);
        seq = sq_int(st, 3);
    }
    sq_end(st);
    if (body != 0)
        bytes = read_body(h, &damage, body, size);
    if (is_own)
        sq_end_snapshot(h);
    bool is_damaged = sq_found(h, is_there, &damage, DAMAGED_MESSAGE, seq) == FOUND_DAMAGED;
    enum err e = finish(r, call);
    if (e == OK && is_damaged)
        e = err_set(&call->info, ERR_CONFLICT, "content", "the content is damaged in the store");
    if (e == OK && !is_there)
        e = err_set(&call->info, ERR_NOT_FOUND, "id", "no such message");
    else if (e == OK && body == 0)
        e = err_set(&call->info, ERR_NOT_FOUND, "content", "the content is erased");
    if (e != OK) {
        free(bytes);
        return e;
    }
    q->message = message_new(&q->id, bytes, size);
    return OK;
}

/* ---- message ---- */

enum err sqlite_message(struct backend_reader *r, struct store_call *call) {
    struct store_message *q = CONTAINER_OF(call, struct store_message, call);
    sq_run(&r->h, sq_use(&r->h, SQL_READ_BEGIN));
    int64_t seq = message_seq_find(&r->h, &q->id, q->project);
    enum found found = FOUND_NONE;
    if (seq != 0)
        found = message_load(&r->h, seq, store_call_arena(call), &q->message);
    sq_end_snapshot(&r->h);
    enum err e = finish(r, call);
    if (e == OK && found == FOUND_NONE)
        e = err_set(&call->info, ERR_NOT_FOUND, "id", "no such message");
    else if (e == OK && found == FOUND_DAMAGED)
        e = err_set(&call->info, ERR_CONFLICT, "id", MESSAGE_IS_DAMAGED);
    return e;
}

/* ---- events ---- */

/* One statement, of the events behind `after`; it answers the last that it saw, or AT_END. */
enum { AT_END = -1 };

static int64_t read_events(struct backend_reader *r, struct store_events *q, enum sql text,
                           int64_t after, int64_t third) {
    struct arena *a = store_call_arena(&q->call);
    size_t rows = 0;
    sqlite3_stmt *st = sq_use(&r->h, text);
    sq_bind_int(st, 1, after);
    sq_bind_int(st, 2, (int64_t)q->limit + 1);
    if (text != SQL_EVENTS_ALL)
        sq_bind_int(st, 3, third);
    for (; sq_row(&r->h, st); rows++) {
        struct damage damage = {0};
        if (q->count == q->limit) {
            q->more = true;
            break;
        }
        struct event_row e;
        event_from_row(&damage, st, a, &e);
        after = sq_int(st, 0);
        if (!sq_is_sound(&r->h, &damage, DAMAGED_EVENT, after))
            continue;
        q->event = rows_grow(a, q->event, sizeof(*q->event), q->count);
        q->event[q->count++] = e;
    }
    sq_end(st);
    return q->more || rows <= q->limit ? AT_END : after;
}

enum err sqlite_events(struct backend_reader *r, struct store_call *call) {
    struct store_events *q = CONTAINER_OF(call, struct store_events, call);
    int64_t third = q->project, after = q->after_seq;
    enum sql text = q->project == -1 ? SQL_EVENTS_ALL : SQL_EVENTS_OF_PROJECT;
    q->event = NULL;
    q->count = 0;
    q->more = false;
    if (!id_is_zero(&q->message_id)) {
        text = SQL_EVENTS_OF_MESSAGE;
        third = message_seq_find(&r->h, &q->message_id, q->project);
        if (third == 0)
            return not_found(r, call, "no such message");
    }
    do { /* again only when some were passed over: a page that is not full is the last */
        reader_rest(r);
        after = read_events(r, q, text, after, third);
    } while (after != AT_END);
    return finish(r, call);
}

/* ---- attempts ---- */

static void attempt_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a,
                             struct attempt_row *out) {
    *out = (struct attempt_row){
        .seq = sq_int(st, 0),
        .started_wall_ms = sq_time(d, st, 1),
        .took_ms = sq_int(st, 2),
        .host = sq_str(st, 3, a),
        .address = sq_str(st, 4, a),
        .tls_version = sq_str(st, 5, a),
        .tls_cipher = sq_str(st, 6, a),
        .tls_verified = sq_bool(st, 7),
        .transcript = sq_str(st, 8, a),
    };
    if (attempt_recipients_unpack(sq_peek(st, 9), a, out) != OK)
        damage_note(d, "an attempt has results that no version wrote");
}

enum err sqlite_attempts(struct backend_reader *r, struct store_call *call) {
    struct store_attempts *q = CONTAINER_OF(call, struct store_attempts, call);
    struct arena *a = store_call_arena(call);
    q->attempt = NULL;
    q->count = 0;
    q->more = false;
    int64_t seq = message_seq_find(&r->h, &q->message_id, q->project);
    if (seq == 0)
        return not_found(r, call, "no such message");
    sqlite3_stmt *st = sq_use(&r->h, SQL_ATTEMPTS_OF);
    int64_t before_first = (seq << ATTEMPT_BITS) - 1;
    sq_bind_int(st, 1, q->after_seq > before_first ? q->after_seq : before_first);
    sq_bind_int(st, 2, ((seq + 1) << ATTEMPT_BITS) - 1);
    while (sq_row(&r->h, st)) {
        if (q->count == q->limit) {
            q->more = true;
            break;
        }
        struct damage damage = {0};
        struct attempt_row one;
        attempt_from_row(&damage, st, a, &one);
        if (!sq_is_sound(&r->h, &damage, DAMAGED_ATTEMPT, one.seq))
            continue;
        one.message_id = q->message_id;
        q->attempt = rows_grow(a, q->attempt, sizeof(*q->attempt), q->count);
        q->attempt[q->count++] = one;
    }
    sq_end(st);
    return finish(r, call);
}

/* ---- totals ---- */

enum err sqlite_totals(struct backend_reader *r, struct store_call *call) {
    struct store_totals *q = CONTAINER_OF(call, struct store_totals, call);
    sqlite3_stmt *st = sq_use(&r->h, SQL_COUNTER_GET);
    if (sq_row(&r->h, st)) {
        q->accepted = sq_int(st, 5);
        for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
            q->by_state[i] = sq_int(st, 6 + i);
        q->notifications_pending = sq_int(st, 6 + RECIPIENT_STATE_COUNT);
    }
    sq_end(st);
    st = sq_use(&r->h, SQL_OPEN_OLDEST_QUEUED);
    q->oldest_queued_wall_ms = sq_row(&r->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return finish(r, call);
}
