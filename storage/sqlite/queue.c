/* The summary of what waits: cached, changed in memory, written once per batch. */
#include <stdlib.h>

#include "server/base/log.h"
#include "storage/sqlite/writer.h"

enum { CACHE_MOST = 50000 };

struct str queue_key_of(struct str email, struct str route_key) {
    if (!str_is_absent(route_key))
        return route_key;
    for (size_t i = email.n; i > 0; i--)
        if (email.p[i - 1] == '@')
            return str_from(email, i);
    return email;
}

struct str queue_route_key(struct str email, struct str queue_key) {
    return str_equal(queue_key_of(email, STR_NONE), queue_key) ? STR_NONE : queue_key;
}

/* What identifies a queue, as bytes. */
static size_t name_size(struct str key) {
    return 1 + sizeof(int64_t) + key.n;
}

static void name_fill(char *name, struct str key, enum lane lane, int64_t project) {
    name[0] = (char)lane;
    memcpy(name + 1, &project, sizeof(project));
    if (key.n > 0)
        memcpy(name + 1 + sizeof(project), key.p, key.n);
}

static struct queue *add(struct backend *b, int64_t id, struct str key, enum lane lane,
                         int64_t project) {
    size_t size = name_size(key);
    struct queue *q = mem_zalloc(sizeof(*q) + size);
    q->id = id;
    q->lane = lane;
    q->project = project;
    q->name_size = size;
    name_fill(q->name, key, lane, project);
    q->key = str_make(q->name + 1 + sizeof(project), key.n);
    table_add(&b->queues_by_id, &q->of_id, &q->id, sizeof(q->id), q);
    table_add(&b->queues_by_name, &q->of_name, q->name, q->name_size, q);
    return q;
}

/* After a failure a verb runs on to its end, though nothing of it will stay: it gets a queue that
 * the cache never sees. "Not found" means nothing then, and must not be remembered. */
static struct queue *stand_in(struct backend *b) {
    return ARENA_NEW(b->scratch, struct queue);
}

struct queue *queue_get(struct backend *b, struct str key, enum lane lane, int64_t project) {
    size_t size = name_size(key);
    char *name = arena_alloc(b->scratch, size);
    name_fill(name, key, lane, project);
    struct queue *q = table_find(&b->queues_by_name, name, size);
    if (q != NULL)
        return q;
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_BY_KEY);
    sq_bind_str(st, 1, key);
    sq_bind_int(st, 2, lane);
    sq_bind_int(st, 3, project);
    if (sq_row(&b->h, st)) {
        q = add(b, sq_int(st, 0), key, lane, project);
        q->count = sq_int(st, 1);
        q->earliest_wall_ms = sq_int(st, 2);
    } else if (sq_has_failed(&b->h)) {
        q = stand_in(b);
    } else {
        q = add(b, b->now.next_queue++, key, lane, project);
    }
    sq_end(st);
    return q;
}

struct queue *queue_find(struct backend *b, int64_t id) {
    struct queue *q = table_find(&b->queues_by_id, &id, sizeof(id));
    if (q != NULL)
        return q;
    struct damage damage = {0};
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_BY_ID);
    sq_bind_int(st, 1, id);
    if (!sq_row(&b->h, st)) {
        if (!sq_has_failed(&b->h))
            sq_pass_over(&b->h, DAMAGED_QUEUE, id, "it is not there, and recipients wait in it");
        return NULL;
    }
    enum lane lane = (enum lane)sq_enum(&damage, st, 1, LANE_COUNT);
    if (sq_is_sound(&b->h, &damage, DAMAGED_QUEUE, id)) {
        q = add(b, id, sq_peek(st, 0), lane, sq_int(st, 2));
        q->count = sq_int(st, 3);
        q->earliest_wall_ms = sq_int(st, 4);
    }
    sq_end(st);
    return q;
}

void queue_changed(struct backend *b, struct queue *q, int delta, int64_t due_wall_ms) {
    if (b->change_count == b->change_room) {
        b->change_room = b->change_room == 0 ? 1024 : b->change_room * 2;
        b->change = mem_regrow(b->change, sizeof(*b->change), b->change_room);
    }
    b->change[b->change_count++] = (struct queue_change){q, delta, due_wall_ms};
}

static int64_t search_earliest(struct backend *b, int64_t id) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_EARLIEST);
    sq_bind_int(st, 1, id);
    int64_t earliest = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return earliest;
}

static bool something_waits(struct backend *b, int64_t id) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_ANY);
    sq_bind_int(st, 1, id);
    bool is_found = sq_row(&b->h, st);
    sq_end(st);
    return is_found;
}

/* The row was damaged; what it sums up is there. */
static int64_t count_anew(struct backend *b, const struct queue *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_COUNT_ANEW);
    sq_bind_int(st, 1, q->id);
    bool is_read = sq_row(&b->h, st);
    int64_t count = is_read ? sq_int(st, 0) : 0;
    sq_end(st);
    if (is_read)
        log_warn("storage",
                 "more recipients waited in a queue than it said; they were counted anew",
                 LOG_INT("number", q->id), LOG_INT("count", count));
    return count;
}

static void write_count(struct backend *b, const struct queue *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_COUNT);
    sq_bind_int(st, 1, q->id);
    sq_bind_int(st, 2, q->count);
    sq_run(&b->h, st);
}

static void write_queue(struct backend *b, const struct queue *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_PUT);
    sq_bind_int(st, 1, q->id);
    sq_bind_str(st, 2, q->key);
    sq_bind_int(st, 3, q->lane);
    sq_bind_int(st, 4, q->project);
    sq_bind_int(st, 5, q->count);
    if (q->count > 0)
        sq_bind_int(st, 6, q->earliest_wall_ms);
    else
        sqlite3_bind_null(st, 6);
    sq_run(&b->h, st);
}

/* Applies one queue's changes. Only when something left or moved must the earliest be looked for.
 */
static void flush_one(struct backend *b, struct queue *q) {
    int64_t count = q->count + q->flush_delta, earliest = q->earliest_wall_ms;
    /* That nothing waits is not believed of a sum: those whom it forgot would never be loaded. */
    if (count < 0 || (count == 0 && something_waits(b, q->id))) {
        count = count_anew(b, q);
        q->must_search = true;
    }
    if (count > 0 && (q->must_search || q->count <= 0))
        earliest = q->must_search ? search_earliest(b, q->id) : q->flush_earliest_wall_ms;
    else if (q->flush_earliest_wall_ms < earliest)
        earliest = q->flush_earliest_wall_ms;
    /* A row with something waiting is there, and its index is left alone when only the count moves.
     */
    bool only_count = count > 0 && q->count > 0 && earliest == q->earliest_wall_ms;
    bool differs = count != q->count || (count > 0 && earliest != q->earliest_wall_ms);
    q->count = count;
    q->earliest_wall_ms = count > 0 ? earliest : 0;
    q->is_touched = false;
    if (differs && only_count)
        write_count(b, q);
    else if (differs)
        write_queue(b, q);
}

void queue_flush(struct backend *b) {
    for (size_t i = 0; i < b->change_count; i++) {
        const struct queue_change *c = &b->change[i];
        struct queue *q = c->queue;
        if (!q->is_touched) {
            q->is_touched = true;
            q->must_search = false;
            q->flush_delta = 0;
            q->flush_earliest_wall_ms = INT64_MAX;
        }
        q->flush_delta += c->delta;
        if (c->delta <= 0)
            q->must_search = true;
        else if (c->due_wall_ms < q->flush_earliest_wall_ms)
            q->flush_earliest_wall_ms = c->due_wall_ms;
    }
    for (size_t i = 0; i < b->change_count; i++)
        if (b->change[i].queue->is_touched)
            flush_one(b, b->change[i].queue);
    b->change_count = 0;
    if (table_count(&b->queues_by_id) > CACHE_MOST)
        queue_forget(b);
}

void queue_forget(struct backend *b) {
    ASSERT(b->change_count == 0);
    table_forget(&b->queues_by_id);
    struct queue *q;
    struct table_cursor c = table_begin(&b->queues_by_name);
    while ((q = table_next(&c)) != NULL) {
        table_remove(&b->queues_by_name, &q->of_name);
        free(q);
    }
}
