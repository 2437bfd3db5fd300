/* STORE_MESSAGES: search, newest first.
 *
 * Whatever narrows most gives candidates in descending order; each is loaded and compared. A term
 * (recipient, tag, external id, sender) is looked up bucket by bucket; a final state is looked for
 * in the recipients, window by window; an open one among the open messages. Each step is a
 * statement of its own, and candidates are compared for 20 ms at a time, so that no read
 * transaction lasts long, however far the search goes. */
#include <stdlib.h>

#include "server/base/clock.h"
#include "storage/sqlite/writer.h"

enum {
    CANDIDATES = 256,
    STATE_WINDOW = 512, /* messages of one statement; each can have a thousand recipients */
    SNAPSHOT_MS = 20,
};

/* FNV-1a over kind and value, in lower case since addresses are compared so. 32 bits: what collides
 * is compared anyway. */
int64_t term_hash(enum term_kind kind, struct str value) {
    uint32_t h = 2166136261u;
    h = (h ^ (uint32_t)kind) * 16777619u;
    for (size_t i = 0; i < value.n; i++)
        h = (h ^ (uint8_t)ascii_lower(value.p[i])) * 16777619u;
    return (int64_t)h;
}

static void put_term(struct backend *b, int64_t seq, enum term_kind kind, struct str value) {
    if (value.n == 0)
        return;
    sqlite3_stmt *st = sq_use(&b->h, SQL_TERM_PUT);
    sq_bind_int(st, 1, seq / TERM_BUCKET);
    sq_bind_int(st, 2, term_hash(kind, value));
    sq_bind_int(st, 3, seq);
    sq_run(&b->h, st);
}

void terms_put(struct backend *b, const struct message_row *m) {
    for (size_t i = 0; i < m->recipient_count; i++)
        put_term(b, m->seq, TERM_TO, m->recipient[i].email);
    put_term(b, m->seq, TERM_FROM, m->from_email);
    put_term(b, m->seq, TERM_EXTERNAL_ID, m->external_id);
    struct str *tags;
    size_t count = tags_parse(m->tags_json, b->scratch, &tags);
    for (size_t i = 0; i < count; i++)
        put_term(b, m->seq, TERM_TAG, tags[i]);
}

/* Where the candidates come from, and how far that was read. */
struct source {
    struct backend_reader *r;
    struct sq *h; /* its */
    enum { BY_TERM, BY_OPEN, BY_STATE, BY_PROJECT, BY_ALL } kind;
    int64_t hash, project;
    enum recipient_state state;
    int64_t before; /* everything from here on was seen */
    int64_t oldest; /* nothing is below it */
    int64_t seq[CANDIDATES];
    size_t count;
};

static void take(struct source *s, sqlite3_stmt *st) {
    while (s->count < CANDIDATES && sq_row(s->h, st))
        s->seq[s->count++] = sq_int(st, 0);
    sq_end(st);
}

/* Down to `floor` everything was read, unless the page is full. */
static void seen_down_to(struct source *s, int64_t floor) {
    s->before = s->count == CANDIDATES ? s->seq[s->count - 1] : floor;
}

static void next_of_term(struct source *s) {
    int64_t bucket = (s->before - 1) / TERM_BUCKET;
    sqlite3_stmt *st = sq_use(s->h, SQL_TERM_FIND);
    sq_bind_int(st, 1, bucket);
    sq_bind_int(st, 2, s->hash);
    sq_bind_int(st, 3, s->before);
    sq_bind_int(st, 4, CANDIDATES);
    take(s, st);
    seen_down_to(s, bucket * TERM_BUCKET);
}

static void next_of_state(struct source *s) {
    int64_t floor = s->before > STATE_WINDOW ? s->before - STATE_WINDOW : 0;
    sqlite3_stmt *st = sq_use(s->h, SQL_SEARCH_STATE);
    sq_bind_int(st, 1, first_key_of(s->before));
    sq_bind_int(st, 2, first_key_of(floor));
    sq_bind_int(st, 3, s->state);
    take(s, st);
    seen_down_to(s, floor);
}

static void next_of_rows(struct source *s) {
    sqlite3_stmt *st;
    int at = 1;
    if (s->kind == BY_PROJECT) {
        st = sq_use(s->h, SQL_SEARCH_PROJECT);
        sq_bind_int(st, at++, s->project);
    } else {
        st = sq_use(s->h, s->kind == BY_OPEN ? SQL_SEARCH_OPEN : SQL_SEARCH_ALL);
    }
    sq_bind_int(st, at++, s->before);
    sq_bind_int(st, at, CANDIDATES);
    take(s, st);
    seen_down_to(s, 0);
}

/* The next candidates, descending; false when there are no more. */
static bool next_page(struct source *s) {
    s->count = 0;
    while (s->count == 0 && s->before > s->oldest && !sq_has_failed(s->h)) {
        reader_rest(s->r);
        if (s->kind == BY_TERM)
            next_of_term(s);
        else if (s->kind == BY_STATE)
            next_of_state(s);
        else
            next_of_rows(s);
    }
    return s->count > 0;
}

static int64_t one_int(struct sq *h, enum sql id, int64_t or_else) {
    sqlite3_stmt *st = sq_use(h, id);
    int64_t v = or_else;
    if (sq_row(h, st) && sqlite3_column_type(st, 0) != SQLITE_NULL)
        v = sq_int(st, 0);
    sq_end(st);
    return v;
}

/* What narrows most. False: the filter names a state that there is not. */
static bool choose(struct source *s, const struct store_messages *q) {
    s->project = q->project;
    /* Whoever asks may name any number: what lies beyond the newest is not gone through. */
    int64_t next = one_int(s->h, SQL_MESSAGE_NEXT, 1);
    s->before = q->before_seq > 0 && q->before_seq < next ? q->before_seq : next;
    s->oldest = one_int(s->h, SQL_MESSAGE_OLDEST, s->before);
    s->kind = q->project == -1 ? BY_ALL : BY_PROJECT;
    if (!str_is_absent(q->state)) {
        bool is_deferred = str_equal(q->state, STR("deferred"));
        if (is_deferred)
            s->state = RECIPIENT_QUEUED;
        else if (recipient_state_parse(q->state, &s->state) != OK)
            return false;
        s->kind = recipient_state_is_final(s->state) ? BY_STATE : BY_OPEN;
    }
    struct {
        enum term_kind kind;
        struct str value;
    } terms[] = {{TERM_FROM, q->from},
                 {TERM_TAG, q->tag},
                 {TERM_TO, q->to},
                 {TERM_EXTERNAL_ID, q->external_id}}; /* the rarest last */
    for (size_t i = 0; i < sizeof(terms) / sizeof(terms[0]); i++) {
        if (str_is_absent(terms[i].value) || terms[i].value.n == 0)
            continue;
        s->kind = BY_TERM;
        s->hash = term_hash(terms[i].kind, terms[i].value);
    }
    s->oldest = s->oldest > 0 ? s->oldest : 1;
    return true;
}

/* Looks at one candidate; false when the page is full. `scratch` holds those of a search: most of
 * them match nothing. One that is damaged matches nothing. */
static bool look_at(struct store_messages *q, struct sq *h, int64_t seq, struct arena *scratch) {
    struct arena *a = store_call_arena(&q->call);
    bool is_search = messages_is_search(q);
    struct message_row m;
    arena_clear(scratch);
    if (message_load(h, seq, is_search ? scratch : a, &m) != FOUND || !messages_match(q, &m))
        return true;
    if (q->count == q->limit) {
        q->more = true;
        return false;
    }
    if (is_search && message_load(h, seq, a, &m) != FOUND)
        return false;
    q->message = rows_grow(a, q->message, sizeof(*q->message), q->count);
    q->message[q->count++] = m;
    return true;
}

/* A candidate is read in one snapshot, since retention takes away a message and its recipients at
 * once; how many share one goes by the time: a page of messages to a thousand recipients each takes
 * a second. One that is gone by then was no candidate. */
static bool look_at_page(struct store_messages *q, struct source *s, struct arena *scratch) {
    bool go_on = true;
    for (size_t i = 0; go_on && i < s->count;) {
        reader_rest(s->r);
        int64_t end_mono_ms = clock_mono_ms() + SNAPSHOT_MS;
        sq_run(s->h, sq_use(s->h, SQL_READ_BEGIN));
        do
            go_on = look_at(q, s->h, s->seq[i++], scratch);
        while (go_on && i < s->count && clock_mono_ms() < end_mono_ms);
        sq_end_snapshot(s->h);
    }
    return go_on;
}

enum err sqlite_messages(struct backend_reader *r, struct store_call *call) {
    struct store_messages *q = CONTAINER_OF(call, struct store_messages, call);
    struct source *s = mem_zalloc(sizeof(*s));
    s->r = r;
    s->h = &r->h;
    q->message = NULL;
    q->count = 0;
    q->more = false;
    struct arena *scratch = arena_new();
    if (choose(s, q))
        while (next_page(s) && look_at_page(q, s, scratch))
            ;
    arena_free(&scratch);
    free(s);
    enum err e = sq_status(&r->h, &call->info);
    sq_forget(&r->h);
    return e;
}
