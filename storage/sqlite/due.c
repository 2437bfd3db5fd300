/* STORE_DUE: what may go soon, a fair part of it.
 *
 * Each queue is read by a statement of its own, and between two of them others may come in: they
 * are read as they are at different moments, which is as good. Loading is no claim: what was
 * claimed, settled or removed since is refused when it is claimed, what came since is in a notice
 * or in the next load. What is kept meanwhile (how far each queue was read, messages by reference)
 * hangs on no snapshot. */
#include <stdlib.h>

#include "storage/sqlite/writer.h"

/* More queues than this with something due are looked at in a later call. */
enum { QUEUES_MOST = 20000, ROUNDS = 8 };

/* A queue with something due, and how far it was read. */
struct source {
    int64_t queue;
    struct time_place place; /* among the queues of its lane */
    struct time_place at;    /* due, key */
    bool is_empty;
};

struct known_message {
    int64_t seq;
    struct outgoing *outgoing; /* NULL: it is gone, or damaged */
    struct table_node in_table;
};

struct load {
    struct backend_reader *r;
    struct sq *h; /* its */
    struct store_due *q;
    struct arena *a;
    struct arena *one; /* for the message that is looked at */
    struct str *skip;  /* sorted */
    struct source *source;
    struct due_share *share;
    size_t count;
    size_t end[LANE_COUNT]; /* of each lane's sources */
    bool is_cut[LANE_COUNT];
    struct table known;
};

static int compare_keys(const void *a, const void *b) {
    return str_compare(*(const struct str *)a, *(const struct str *)b);
}

static bool is_skipped(const struct load *l, struct str key) {
    return l->q->skip_count > 0 &&
           bsearch(&key, l->skip, l->q->skip_count, sizeof(key), compare_keys) != NULL;
}

static void note_later(struct store_due *q, int64_t due_wall_ms) {
    if (due_wall_ms != 0 && (q->next_due_wall_ms == 0 || due_wall_ms < q->next_due_wall_ms))
        q->next_due_wall_ms = due_wall_ms;
}

/* One with something due has one at least, and it makes no difference how many more than a load
 * brings: sums of what a damaged row says must not run over. */
static int64_t count_of(const struct load *l, int64_t stored) {
    int64_t most = (int64_t)l->q->most, count = stored < most ? stored : most;
    return count > 1 ? count : 1;
}

/* The queues of one lane with something due, and the first that has something later. */
static void find_sources(struct load *l, enum lane lane) {
    const struct time_place *from = &l->q->at[lane];
    sqlite3_stmt *st = sq_use(l->h, SQL_QUEUE_DUE);
    sq_bind_int(st, 1, lane);
    sq_bind_int(st, 2, l->q->until_wall_ms);
    sq_bind_int(st, 3, from->number != 0 ? from->wall_ms : INT64_MIN);
    sq_bind_int(st, 4, from->number);
    while (sq_row(l->h, st)) {
        if (is_skipped(l, sq_peek(st, 1)))
            continue;
        if (l->count == QUEUES_MOST) {
            l->q->more = l->is_cut[lane] = true;
            break;
        }
        l->source = rows_grow(l->a, l->source, sizeof(*l->source), l->count);
        l->share = rows_grow(l->a, l->share, sizeof(*l->share), l->count);
        l->source[l->count] = (struct source){.queue = sq_int(st, 0), .at = {INT64_MIN, 0}};
        (void)time_place_move(&l->source[l->count].place, st, 5, 0);
        l->share[l->count] = (struct due_share){
            .key = sq_str(st, 1, l->a), .lane = lane, .count = count_of(l, sq_int(st, 4))};
        l->count++;
    }
    sq_end(st);
    l->end[lane] = l->count;
    st = sq_use(l->h, SQL_QUEUE_LATER);
    sq_bind_int(st, 1, lane);
    sq_bind_int(st, 2, l->q->until_wall_ms);
    while (sq_row(l->h, st)) {
        if (is_skipped(l, sq_peek(st, 0)))
            continue;
        note_later(l->q, sq_int(st, 1));
        break;
    }
    sq_end(st);
}

static struct outgoing *outgoing_of(struct load *l, int64_t seq) {
    struct known_message *k = table_find(&l->known, &seq, sizeof(seq));
    if (k == NULL) {
        struct message_row m;
        k = ARENA_NEW(l->a, struct known_message);
        k->seq = seq;
        arena_clear(l->one);
        if (message_find(l->h, seq, l->one, &m) == FOUND)
            k->outgoing = outgoing_new(&m, NULL, NULL);
        table_add(&l->known, &k->in_table, &k->seq, sizeof(k->seq), k);
    }
    return k->outgoing;
}

/* No claim believes any other recipient. `at` moves to it, or behind it. */
static bool is_sound(struct load *l, sqlite3_stmt *st, struct time_place *at) {
    struct damage damage = {0};
    if (!time_place_move(at, st, 4, 0))
        damage_note(&damage, "a recipient is due at no time");
    (void)sq_between(&damage, st, 6, RECIPIENT_SCHEDULED, RECIPIENT_QUEUED);
    (void)sq_enum(&damage, st, 7, RECIPIENT_BCC + 1);
    return sq_is_sound(l->h, &damage, DAMAGED_MESSAGE, message_of_key(sq_int(st, 0)));
}

/* At most `most` further rows of a queue, in one statement; how many came that can go. */
static int64_t read_rows(struct load *l, size_t i, int64_t most) {
    struct source *s = &l->source[i];
    struct store_due *q = l->q;
    int64_t n = 0, good = 0;
    reader_rest(l->r);
    sqlite3_stmt *st = sq_use(l->h, SQL_DUE_OF_QUEUE);
    sq_bind_int(st, 1, s->queue);
    sq_bind_int(st, 2, q->until_wall_ms);
    sq_bind_int(st, 3, s->at.wall_ms);
    sq_bind_int(st, 4, s->at.number);
    sq_bind_int(st, 5, most);
    while (sq_row(l->h, st)) {
        n++;
        recipient_key_t key = sq_int(st, 0);
        struct outgoing *o = is_sound(l, st, &s->at) ? outgoing_of(l, message_of_key(key)) : NULL;
        if (o == NULL)
            continue; /* damaged; or retention came between: then it was final */
        struct str email = sq_peek(st, 5);
        good++;
        q->due = rows_grow(l->a, q->due, sizeof(*q->due), q->count);
        q->due[q->count++] = (struct due_row){
            .key = key,
            .outgoing = outgoing_ref(o),
            .attempts = (int)sq_int(st, 1),
            .no_domain_wall_ms = sq_int(st, 2),
            .possible_duplicate = sq_bool(st, 3),
            .due_wall_ms = s->at.wall_ms,
            .email = str_make(str_dupz(email), email.n),
            .queue_key = str_make(str_dupz(l->share[i].key), l->share[i].key.n),
        };
    }
    sq_end(st);
    s->is_empty = n < most;
    return good;
}

/* The same in as many statements as it takes: those that cannot go are always the first, and must
 * not take up the places of those behind them. */
static int64_t read_queue(struct load *l, size_t i, int64_t most) {
    int64_t good = 0;
    do
        good += read_rows(l, i, most - good);
    while (good < most && !l->source[i].is_empty);
    return good;
}

/* Reads what each queue was given. A queue counts also what is due later, so it can have less than
 * its part; the rest is shared out again among the others, a few times. */
static void read_shares(struct load *l) {
    int64_t *taken = ARENA_ARRAY(l->a, int64_t, l->count + 1);
    bool moved = true;
    for (int round = 0; round < ROUNDS && moved && !sq_has_failed(l->h); round++) {
        moved = false;
        due_shares(l->share, l->count, l->q->per_key, l->q->most);
        for (size_t i = 0; i < l->count && l->q->count < l->q->most; i++) {
            int64_t room = (int64_t)l->q->most - (int64_t)l->q->count;
            int64_t wanted = l->share[i].give - taken[i];
            if (wanted <= 0)
                continue; /* an empty one is given what was taken from it */
            taken[i] += read_queue(l, i, wanted < room ? wanted : room);
            if (l->source[i].is_empty) {
                l->share[i].count = taken[i];
                moved = true;
            }
        }
    }
}

static bool has_more(struct load *l, const struct source *s) {
    sqlite3_stmt *st = sq_use(l->h, SQL_DUE_OF_QUEUE);
    sq_bind_int(st, 1, s->queue);
    sq_bind_int(st, 2, l->q->until_wall_ms);
    sq_bind_int(st, 3, s->at.wall_ms);
    sq_bind_int(st, 4, s->at.number);
    sq_bind_int(st, 5, 1);
    bool has = sq_row(l->h, st);
    sq_end(st);
    return has;
}

static void look_beyond(struct load *l) {
    for (size_t i = 0; i < l->count; i++) {
        reader_rest(l->r);
        if (!l->q->more && !l->source[i].is_empty)
            l->q->more = has_more(l, &l->source[i]);
        sqlite3_stmt *st = sq_use(l->h, SQL_QUEUE_NEXT_DUE);
        sq_bind_int(st, 1, l->source[i].queue);
        sq_bind_int(st, 2, l->q->until_wall_ms);
        if (sq_row(l->h, st))
            note_later(l->q, sq_int(st, 0));
        sq_end(st);
    }
}

static bool was_read(const struct source *s) {
    return s->is_empty || s->at.wall_ms != INT64_MIN;
}

/* Behind the last queue of a lane that had a part, when others had none. Where there was no room
 * for the lane it stays where it is; where it is only quotas that were used up it begins anew. */
static void move_on(struct load *l, enum lane lane) {
    struct store_due *q = l->q;
    struct time_place *at = &q->at[lane];
    size_t from = lane > 0 ? l->end[lane - 1] : 0, end = l->end[lane];
    while (end > from && !was_read(&l->source[end - 1]))
        end--;
    bool has_room = q->count < q->most && !l->is_cut[lane];
    q->more = q->more || at->number != 0;
    if (end == l->end[lane] && !l->is_cut[lane])
        *at = (struct time_place){0};
    else if (end > from)
        *at = l->source[end - 1].place;
    else if (has_room)
        *at = (struct time_place){0};
}

enum err sqlite_due(struct backend_reader *r, struct store_call *call) {
    struct store_due *q = CONTAINER_OF(call, struct store_due, call);
    struct load l = {.r = r, .h = &r->h, .q = q, .a = store_call_arena(call), .one = arena_new()};
    q->due = NULL;
    q->count = 0;
    q->more = false;
    q->next_due_wall_ms = 0;
    l.skip = ARENA_ARRAY(l.a, struct str, q->skip_count + 1);
    for (size_t i = 0; i < q->skip_count; i++)
        l.skip[i] = q->skip_key[i];
    qsort(l.skip, q->skip_count, sizeof(*l.skip), compare_keys);
    for (int lane = 0; lane < LANE_COUNT; lane++) {
        reader_rest(r);
        find_sources(&l, (enum lane)lane);
    }
    read_shares(&l);
    look_beyond(&l);
    for (int lane = 0; lane < LANE_COUNT; lane++)
        move_on(&l, (enum lane)lane);
    struct known_message *k;
    struct table_cursor c = table_begin(&l.known);
    while ((k = table_next(&c)) != NULL)
        outgoing_unref(&k->outgoing);
    table_forget(&l.known);
    arena_free(&l.one);
    enum err e = sq_status(&r->h, &call->info);
    if (e != OK) {
        for (size_t i = 0; i < q->count; i++)
            due_row_release(&q->due[i]);
        q->due = NULL;
        q->count = 0;
    }
    sq_forget(&r->h);
    return e;
}
