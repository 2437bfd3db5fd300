/* Rows into structs. */
#include "storage/sqlite/result.h"
#include "storage/sqlite/writer.h"

void *rows_grow(struct arena *a, void *rows, size_t each, size_t count) {
    /* Doubles at powers of two; what it leaves behind ends with the arena. */
    if (count >= 8 && (count & (count - 1)) != 0)
        return rows;
    if (count > 0 && count < 8)
        return rows;
    void *bigger = arena_alloc_array(a, each, count == 0 ? 8 : count * 2);
    if (count > 0)
        memcpy(bigger, rows, each * count);
    return bigger;
}

struct str list_join(struct arena *a, const struct str *list, size_t count) {
    if (count == 0)
        return STR_NONE;
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += list[i].n + 1;
    char *p = arena_alloc(a, n), *at = p;
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            *at++ = '\n';
        if (list[i].n > 0)
            memcpy(at, list[i].p, list[i].n);
        at += list[i].n;
    }
    return str_make(p, (size_t)(at - p));
}

struct str *list_split(struct arena *a, struct str joined, size_t *count) {
    struct str *list = NULL;
    *count = 0;
    struct str rest = joined;
    while (!str_is_absent(rest)) {
        list = rows_grow(a, list, sizeof(*list), *count);
        list[(*count)++] = str_split(&rest, '\n');
    }
    return list;
}

/* Columns as MESSAGE_COLUMNS. */
void message_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a,
                      struct message_row *out) {
    *out = (struct message_row){
        .seq = sq_int(st, 0),
        .id = sq_id(st, 1),
        .project = sq_int(st, 2),
        .key_id = sq_id(st, 3),
        .retry_of = sq_id(st, 4),
        .created_wall_ms = sq_time(d, st, 5),
        .expires_wall_ms = sq_time(d, st, 6),
        .message_id = sq_str(st, 7, a),
        .mail_from = sq_str(st, 8, a),
        .from_email = sq_str(st, 9, a),
        .from_name = sq_str(st, 10, a),
        .from_domain = sq_str(st, 11, a),
        .subject = sq_str(st, 12, a),
        .external_id = sq_str(st, 13, a),
        .tags_json = sq_str(st, 14, a),
        .metadata_json = sq_str(st, 15, a),
        .route = sq_str(st, 16, a),
        .tls = (enum tls_level)sq_enum(d, st, 17, TLS_VERIFY + 1),
        .needs_smtputf8 = sq_bool(st, 18),
        .size_bytes = sq_between(d, st, 19, 0, BODY_BYTES_MOST),
        .lane = (enum lane)sq_enum(d, st, 20, LANE_COUNT),
        .recipient_count = (size_t)sq_between(d, st, 21, 1, RECIPIENT_KEY_SPAN),
        .has_content = sq_int(st, 22) != 0,
        .is_test = sq_bool(st, 23),
    };
}

static void load_recipients(struct sq *h, struct damage *d, struct arena *a,
                            struct message_row *m) {
    struct recipient_row *r = ARENA_ARRAY(a, struct recipient_row, m->recipient_count);
    recipient_key_t key = first_key_of(m->seq);
    sqlite3_stmt *st = sq_use(h, SQL_RECIPIENTS_OF);
    sq_bind_int(st, 1, key);
    sq_bind_int(st, 2, last_key_of(m->seq));
    struct damage of_shown = {0}; /* nobody who sends, ends or cancels it asks these */
    size_t n = 0;
    for (; n < m->recipient_count && sq_row(h, st) && sq_int(st, 0) == key; n++, key++) {
        r[n] = (struct recipient_row){
            .key = key,
            .email = sq_str(st, 1, a),
            .kind = (enum recipient_kind)sq_enum(d, st, 2, RECIPIENT_BCC + 1),
            .state = (enum recipient_state)sq_enum(d, st, 3, RECIPIENT_STATE_COUNT),
            .attempts = (int)sq_int(st, 4),
            .due_wall_ms = sq_shown_time(&of_shown, st, 5),
            .updated_wall_ms = sq_shown_time(&of_shown, st, 6),
            .seq = (uint32_t)sq_int(st, 7),
            .possible_duplicate = sq_bool(st, 8),
        };
        if (result_unpack(sq_peek(st, 9), a, &r[n].last) != OK)
            damage_note(d, "a recipient has a result that no version wrote");
    }
    sq_end(st);
    (void)sq_is_sound(h, &of_shown, DAMAGED_MESSAGE, m->seq);
    if (n != m->recipient_count)
        damage_note(d, "a message has other recipients than it says");
    m->recipient = r;
}

/* Is there one? */
static bool read_message(struct sq *h, struct damage *d, int64_t seq, struct arena *a,
                         struct message_row *out) {
    sqlite3_stmt *st = sq_use(h, SQL_MESSAGE_GET);
    sq_bind_int(st, 1, seq);
    bool found = sq_row(h, st);
    if (found)
        message_from_row(d, st, a, out);
    sq_end(st);
    return found;
}

enum found message_find(struct sq *h, int64_t seq, struct arena *a, struct message_row *out) {
    struct damage damage = {0};
    bool found = read_message(h, &damage, seq, a, out);
    return sq_found(h, found, &damage, DAMAGED_MESSAGE, seq);
}

enum found message_load(struct sq *h, int64_t seq, struct arena *a, struct message_row *out) {
    struct damage damage = {0};
    bool found = read_message(h, &damage, seq, a, out);
    if (found)
        load_recipients(h, &damage, a, out);
    return sq_found(h, found, &damage, DAMAGED_MESSAGE, seq);
}

int64_t message_seq_find(struct sq *h, const struct id *id, int64_t project) {
    sqlite3_stmt *st = sq_use(h, SQL_MESSAGE_SEQ);
    sq_bind_id(st, 1, id);
    int64_t seq = 0;
    if (sq_row(h, st) && (project == -1 || sq_int(st, 1) == project))
        seq = sq_int(st, 0);
    sq_end(st);
    return seq;
}

bool time_place_move(struct time_place *p, sqlite3_stmt *st, int at_time, int at_number) {
    int64_t wall_ms = sq_int(st, at_time);
    if (sqlite3_column_type(st, at_time) == SQLITE_INTEGER) {
        *p = (struct time_place){wall_ms, sq_int(st, at_number)};
        return true;
    }
    *p = (struct time_place){wall_ms + 1, INT64_MIN};
    return false;
}

/* Columns as WEBHOOK_COLUMNS. */
void webhook_from_row(const struct sq *h, struct damage *d, sqlite3_stmt *st, struct arena *a,
                      struct arena *secrets, struct webhook_row *out) {
    *out = (struct webhook_row){
        .id = sq_id(st, 1),
        .project = sq_int(st, 2),
        .url = sq_str(st, 3, a),
        .previous_until_wall_ms = sq_time(d, st, 6),
        .description = sq_str(st, 8, a),
        .state = (enum webhook_state)sq_enum(d, st, 9, WEBHOOK_DISABLED + 1),
        .created_wall_ms = sq_time(d, st, 10),
    };
    const struct sealed_place secret = {"webhook.secret", &out->id, STR_NONE},
                              previous = {"webhook.previous_secret", &out->id, STR_NONE};
    out->secret = sq_open_secret(h, d, secret, sq_peek(st, 4), secrets);
    out->previous_secret = sq_open_secret(h, d, previous, sq_peek(st, 5), secrets);
    out->events = list_split(a, sq_str(st, 7, a), &out->event_count);
}
