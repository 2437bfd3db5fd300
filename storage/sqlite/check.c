/* Recomputes what is kept along with the rows. */
#include "storage/sqlite/writer.h"

static int64_t one(struct sq *h, enum sql id) {
    sqlite3_stmt *st = sq_use(h, id);
    int64_t v = sq_row(h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return v;
}

/* Open states must agree; of final ones retention may have removed rows. */
static enum err check_totals(struct sq *h, struct errinfo *info) {
    int64_t accepted = 0, kept[RECIPIENT_STATE_COUNT] = {0}, rows[RECIPIENT_STATE_COUNT] = {0};
    int64_t sum = 0, pending = 0;
    struct damage damage = {0};
    sqlite3_stmt *st = sq_use(h, SQL_COUNTER_GET);
    if (sq_row(h, st)) {
        accepted = sq_int(st, 5);
        for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
            sum += kept[i] = sq_int(st, 6 + i);
        pending = sq_int(st, 6 + RECIPIENT_STATE_COUNT);
    }
    sq_end(st);
    st = sq_use(h, SQL_CHECK_STATES);
    while (sq_row(h, st))
        rows[sq_enum(&damage, st, 0, RECIPIENT_STATE_COUNT)] = sq_int(st, 1);
    sq_end(st);
    if (damage.why != NULL)
        return err_set(info, ERR_INTERNAL, "recipient", "%s", damage.why);
    if (sum != accepted)
        return err_set(info, ERR_INTERNAL, "totals", "accepted is %lld, the states sum up to %lld",
                       (long long)accepted, (long long)sum);
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        enum recipient_state s = (enum recipient_state)i;
        if (kept[i] < rows[i] || (!recipient_state_is_final(s) && kept[i] != rows[i]))
            return err_set(info, ERR_INTERNAL, "totals", "%s is %lld, there are %lld rows",
                           recipient_state_name(s), (long long)kept[i], (long long)rows[i]);
    }
    int64_t there = one(h, SQL_CHECK_NOTIFICATIONS);
    if (there != pending)
        return err_set(info, ERR_INTERNAL, "totals",
                       "%lld notifications are said to be pending, there are %lld",
                       (long long)pending, (long long)there);
    if (one(h, SQL_CHECK_QUEUE_SUM) != rows[RECIPIENT_QUEUED] + rows[RECIPIENT_SCHEDULED])
        return err_set(info, ERR_INTERNAL, "queues", "the queues' counts do not sum up");
    return OK;
}

enum err sqlite_check(struct backend_reader *r, struct errinfo *info) {
    static const struct {
        enum sql id;
        const char *field, *text;
    } zero[] = {
        {SQL_CHECK_QUEUES, "queues", "queues differ in count or earliest due time"},
        {SQL_CHECK_OPEN, "open", "messages are listed as open and are not, or the reverse"},
        {SQL_CHECK_OPEN_WITHOUT, "open", "messages are listed as open without an open recipient"},
        {SQL_CHECK_MESSAGES, "message", "recipients belong to a message that is not there"},
        {SQL_CHECK_BODIES, "body", "messages say that they have a content and have none"},
        {SQL_CHECK_EVENT_ORDER, "events", "events are beyond the feed's sequence"},
    };
    struct sq *h = &r->h;
    sq_run(h, sq_use(h, SQL_READ_BEGIN));
    enum err e = check_totals(h, info);
    for (size_t i = 0; e == OK && i < sizeof(zero) / sizeof(zero[0]); i++) {
        int64_t n = one(h, zero[i].id);
        if (n != 0)
            e = err_set(info, ERR_INTERNAL, zero[i].field, "%lld %s", (long long)n, zero[i].text);
    }
    sq_end_snapshot(h);
    enum err failed = sq_status(h, info);
    sq_forget(h);
    return failed != OK ? failed : e;
}
