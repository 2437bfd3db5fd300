/* What several backends decide alike. */
#include <stdlib.h>

#include "storage/store_ops.h"

enum event_type event_type_of_state(enum recipient_state to) {
    static const enum event_type types[] = {
        [RECIPIENT_QUEUED] = EVENT_RECIPIENT_DEFERRED,
        [RECIPIENT_DELIVERED] = EVENT_RECIPIENT_DELIVERED,
        [RECIPIENT_BOUNCED] = EVENT_RECIPIENT_BOUNCED,
        [RECIPIENT_FAILED] = EVENT_RECIPIENT_FAILED,
        [RECIPIENT_EXPIRED] = EVENT_RECIPIENT_EXPIRED,
        [RECIPIENT_SUPPRESSED] = EVENT_RECIPIENT_SUPPRESSED,
        [RECIPIENT_CANCELED] = EVENT_RECIPIENT_CANCELED,
    };
    _Static_assert(sizeof(types) / sizeof(types[0]) == RECIPIENT_STATE_COUNT, "all states");
    ASSERT(to != RECIPIENT_SCHEDULED && to != RECIPIENT_SENDING); /* nobody is told of them */
    return types[to];
}

enum err room_for_one(struct store_call *call, int64_t count, size_t most, const char *what) {
    if (most == 0 || count < (int64_t)most)
        return OK;
    return err_set(&call->info, ERR_LIMIT, "project", "a project has at most %zu %s", most, what);
}

static bool has_recipient(const struct store_messages *q, const struct message_row *m) {
    for (size_t i = 0; i < m->recipient_count; i++) {
        const struct recipient_row *r = &m->recipient[i];
        if ((str_is_absent(q->to) || str_equal_nocase(r->email, q->to)) &&
            (str_is_absent(q->state) || str_equal(str_of(recipient_shown_state(r)), q->state)))
            return true;
    }
    return false;
}

static bool has_tag(struct str tags_json, struct str tag) {
    struct arena *a = arena_new();
    struct str *list;
    size_t count = tags_parse(tags_json, a, &list);
    bool has = false;
    for (size_t i = 0; i < count && !has; i++)
        has = str_equal(list[i], tag);
    arena_free(&a);
    return has;
}

bool messages_is_search(const struct store_messages *q) {
    return !str_is_absent(q->state) || !str_is_absent(q->to) || !str_is_absent(q->from) ||
           !str_is_absent(q->tag) || !str_is_absent(q->external_id);
}

bool messages_match(const struct store_messages *q, const struct message_row *m) {
    if (q->project != -1 && m->project != q->project)
        return false;
    if (!str_is_absent(q->from) && !str_equal_nocase(m->from_email, q->from))
        return false;
    if (!str_is_absent(q->external_id) && !str_equal(m->external_id, q->external_id))
        return false;
    if (!str_is_absent(q->tag) && !has_tag(m->tags_json, q->tag))
        return false;
    return (str_is_absent(q->to) && str_is_absent(q->state)) || has_recipient(q, m);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- who gets how many: equal parts of what is left, none more than it has ---- */

/* One more round of equal parts of `most`, which is more than nothing, to the rows that have more;
 * what was given. */
static int64_t give_round(struct due_share *row, size_t count, int64_t most) {
    size_t open = 0;
    for (size_t i = 0; i < count; i++)
        open += row[i].give < row[i].count;
    if (open == 0)
        return 0;
    int64_t part = most / (int64_t)open > 0 ? most / (int64_t)open : 1, given = 0;
    for (size_t i = 0; i < count && given < most; i++) {
        int64_t g = smaller(smaller(part, row[i].count - row[i].give), most - given);
        row[i].give += g;
        given += g;
    }
    return given;
}

static void share_out(struct due_share *row, size_t count, int64_t most) {
    for (int64_t given; most > 0 && (given = give_round(row, count, most)) > 0;)
        most -= given;
}

/* The rows sorted by key, so that those of one key are found together. */
struct key_use {
    struct str key;
    size_t row;
};

static int compare_use(const void *a, const void *b) {
    const struct key_use *x = a, *y = b;
    int c = str_compare(x->key, y->key);
    return c != 0 ? c : (x->row > y->row) - (x->row < y->row);
}

/* Of what is left: who has much that comes again and again would take all of it each time. */
static int64_t part_behind(int64_t waiting, int64_t left) {
    enum { LANE_PART = 8 };
    return smaller(waiting, left / LANE_PART);
}

/* Of the rows use[0..n) of one key those in [from, to): how much each may take of what the key's
 * quota has left after the lanes before, but for the part of those behind, into lane[].count. */
static void share_key(const struct due_share *row, size_t from, size_t to,
                      const struct key_use *use, size_t n, int64_t per_key,
                      struct due_share *lane) {
    struct due_share *of_key = mem_zalloc(n * sizeof(*of_key));
    size_t members = 0;
    int64_t behind = 0;
    for (size_t k = 0; k < n; k++) {
        size_t r = use[k].row;
        if (r < from)
            per_key -= row[r].give;
        else if (r < to)
            of_key[members++].count = row[r].count;
        else
            behind += row[r].count;
    }
    share_out(of_key, members, per_key - part_behind(behind, per_key));
    for (size_t k = 0, m = 0; k < n; k++)
        if (use[k].row >= from && use[k].row < to)
            lane[use[k].row - from].count = of_key[m++].give;
    free(of_key);
}

/* The rows [from, to) of one lane. */
static void share_lane(struct due_share *row, size_t from, size_t to, const struct key_use *use,
                       size_t count, size_t per_key, int64_t *most) {
    struct due_share *lane = mem_zalloc((to - from) * sizeof(*lane));
    for (size_t i = 0, n; i < count; i += n) {
        n = 1;
        while (i + n < count && str_equal(use[i + n].key, use[i].key))
            n++;
        share_key(row, from, to, &use[i], n, (int64_t)per_key, lane);
    }
    share_out(lane, to - from, *most);
    for (size_t i = from; i < to; i++) {
        row[i].give = lane[i - from].give;
        *most -= row[i].give;
    }
    free(lane);
}

static int64_t waiting_in(const struct due_share *row, size_t from, size_t to) {
    int64_t waiting = 0;
    for (size_t i = from; i < to; i++)
        waiting += row[i].count;
    return waiting;
}

void due_shares(struct due_share *row, size_t count, size_t per_key, size_t most) {
    struct key_use *use = mem_zalloc((count + 1) * sizeof(*use));
    for (size_t i = 0; i < count; i++) {
        row[i].give = 0;
        use[i] = (struct key_use){row[i].key, i};
    }
    qsort(use, count, sizeof(*use), compare_use);
    int64_t left = (int64_t)most;
    for (size_t from = 0, to; from < count; from = to) {
        for (to = from; to < count && row[to].lane == row[from].lane; to++)
            ;
        int64_t behind = part_behind(waiting_in(row, to, count), left), here = left - behind;
        share_lane(row, from, to, use, count, per_key, &here);
        left = here + behind;
    }
    free(use);
}

int64_t since_wall_ms(bool holds, int64_t before_wall_ms, int64_t now_wall_ms) {
    return !holds ? 0 : before_wall_ms != 0 ? before_wall_ms : now_wall_ms;
}

static bool is_among(struct str selector, const struct str *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (str_equal(list[i], selector))
            return true;
    return false;
}

int64_t key_published_wall_ms(const struct store_domain_checked *q,
                              const struct domain_key_row *key) {
    if (is_among(key->selector, q->unknown, q->unknown_count))
        return key->published_wall_ms;
    return since_wall_ms(is_among(key->selector, q->published, q->published_count),
                         key->published_wall_ms, q->now_wall_ms);
}
