/* model: what a program that was promised things by the store may expect to find after a fault.
 *
 * tool_work writes a note before each call (with what it would lead to) and one after it (with the
 * answer). Whoever reads the notes up to a fault knows of each message what must be there, and what
 * may be, because a call was under way. model_verify() opens the store, as a start of the server
 * would, and compares.
 *
 *     struct model *m = mem_zalloc(sizeof *m);
 *     model_note(m, &note);                // each, in order
 *     model_verify(m, &options, pick, &report);   // report.violations
 *
 * In a header since the tools are programs of one file. Thread: the tool's. */
#pragma once

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/id.h"
#include "storage/store.h"

enum {
    MODEL_MESSAGES = 4096,
    MODEL_RCPTS = 3,
    MODEL_NOTIFICATIONS = 65536,
    MODEL_KEYS = 256,
    MODEL_DOMAINS = 32,
    MODEL_DKIM_KEYS = 2,
    MODEL_CAPTURES = 256,
    MODEL_CAPTURES_MOST = 2, /* of each kind, after a retention */
    /* model_id() of other things than messages */
    MODEL_ID_WEBHOOK = 200000,
    MODEL_ID_DOMAIN = 300000,
    MODEL_ID_CAPTURE = 400000,
};
#define MODEL_WEBHOOK_SECRET "whsec_c2VjcmV0"

#define MODEL static __attribute__((unused))

enum note_what { NOTE_BEGIN = 1, NOTE_END };

struct model_rcpt {
    uint8_t state, duplicate, attempts, events;
};

struct model_domain {
    uint8_t is_there, is_verified, version; /* each version has other keys */
};

struct model_note {
    uint8_t what, verb, count, has_key;
    uint32_t index; /* of the message (a retry: of the new one); a key's; a notification's number */
    uint32_t source;     /* a retry: the message that goes again */
    int32_t err;         /* END: what the store answered */
    uint32_t size;       /* accept: bytes of the content */
    uint32_t content_of; /* whose content it is: its own index, or that of the first of retries */
    struct model_rcpt next[MODEL_RCPTS];
    struct model_domain domain;
    uint32_t seq;    /* END of an accept or a retry: where the message stands; of a retention: how
                        much it removed */
    int64_t wall_ms; /* now */
    int64_t expires_wall_ms, before_wall_ms;
};

struct model_message {
    uint8_t known; /* 0: nobody asked; 1: asked, no answer, or refused; 2: promised */
    uint8_t count, has_key;
    bool is_open_call;  /* a call is under way, or ended with "unknown" */
    bool is_open_sweep; /* so is a sweep of what expires, by then */
    int64_t sweep_wall_ms;
    bool is_loose; /* its events are so old that retention may have taken them */
    bool may_be_gone, may_be_erased;
    uint32_t size, content_of;
    int64_t created_wall_ms, expires_wall_ms;
    struct model_rcpt now[MODEL_RCPTS], next[MODEL_RCPTS];
};

struct model {
    struct model_message message[MODEL_MESSAGES];
    uint32_t count;
    uint8_t notification[MODEL_NOTIFICATIONS]; /* 1: settle under way, 2: settled */
    uint8_t key[MODEL_KEYS];
    uint8_t webhook; /* as of captures */
    struct {
        struct model_domain now, next;
        bool is_open_call;
    } domain[MODEL_DOMAINS];
    uint8_t capture[MODEL_CAPTURES]; /* 1: asked, no answer; 2: promised */
    bool may_lack_capture[MODEL_CAPTURES];
    int64_t newest_events_before_wall_ms;
    uint64_t promises;               /* calls that were answered with OK */
    uint64_t removed;                /* by retention, since the last process began */
    bool is_retaining, is_reopening; /* when the notes end */
};

struct model_report {
    uint64_t violations, checked_messages, lost;
    uint64_t probes;
    char first[512];
};

MODEL void model_violation(struct model_report *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
MODEL void model_violation(struct model_report *r, const char *fmt, ...) {
    va_list ap;
    if (r->violations++ > 0)
        return;
    va_start(ap, fmt);
    vsnprintf(r->first, sizeof r->first, fmt, ap);
    va_end(ap);
}

/* Fit to stand in a line of JSON. */
MODEL const char *model_plain(char *text) {
    for (char *p = text; *p != '\0'; p++)
        if (*p == '"' || *p == '\\' || *p < ' ')
            *p = '\'';
    return text;
}

MODEL struct id model_id(uint32_t index) {
    struct id id;
    memset(id.b, 0x5a, sizeof id.b);
    for (int i = 0; i < 4; i++)
        id.b[12 + i] = (uint8_t)(index >> (24 - 8 * i));
    return id;
}

MODEL bool model_index(const void *p, int n, uint32_t *out) {
    if (n != (int)sizeof(struct id))
        return false;
    const uint8_t *b = p;
    *out = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
    struct id want = model_id(*out);
    return memcmp(want.b, b, sizeof want.b) == 0;
}

/* Each octet of a content says whose it is and where it belongs. */
MODEL char model_octet(uint32_t index, size_t at) {
    uint32_t v = (index * 2654435761u) ^ (uint32_t)(at / 61 * 40503u);
    return (char)('a' + (v >> 11) % 26);
}

/* Secrets are sealed with one of two keys, and either ring opens both. */
MODEL const struct seal *model_seal(bool is_other) {
    static struct seal *ring[2];
    struct str key[2] = {
        STR("1111111111111111111111111111111111111111111111111111111111111111"),
        STR("2222222222222222222222222222222222222222222222222222222222222222"),
    };
    struct errinfo info = {0};
    if (ring[is_other] == NULL && seal_new(key[is_other], key[!is_other], &ring[is_other], &info))
        abort();
    return ring[is_other];
}

MODEL struct str model_pem(uint32_t domain, int version, int key, char out[80]) {
    int n = snprintf(out, 80, "-----BEGIN PRIVATE KEY-----\n%u.%d.%d\n-----END PRIVATE KEY-----\n",
                     domain, version, key);
    return (struct str){out, (size_t)n};
}

MODEL bool model_is_final(uint8_t state) {
    return recipient_state_is_final((enum recipient_state)state);
}

MODEL bool model_all_final(const struct model_rcpt *r, int n) {
    for (int i = 0; i < n; i++)
        if (!model_is_final(r[i].state))
            return false;
    return true;
}

/* ---- notes ---- */

/* A sweep's effect on one message. */
MODEL void model_expire(const struct model_message *m, int64_t wall_ms, struct model_rcpt *r) {
    if (m->expires_wall_ms > wall_ms)
        return;
    for (int i = 0; i < m->count; i++)
        if (r[i].state == RECIPIENT_QUEUED || r[i].state == RECIPIENT_SCHEDULED) {
            r[i].state = RECIPIENT_EXPIRED;
            r[i].events++;
        }
}

/* What opening does to a recipient. */
MODEL struct model_rcpt model_opened(struct model_rcpt r) {
    if (r.state == RECIPIENT_SENDING) {
        r.state = RECIPIENT_QUEUED;
        r.duplicate = 1;
    }
    return r;
}

MODEL void model_begin(struct model *m, const struct model_note *n) {
    struct model_message *x = &m->message[n->index % MODEL_MESSAGES];
    switch ((enum store_verb)n->verb) {
    case STORE_ACCEPT:
    case STORE_RETRY:
        if (m->count <= n->index)
            m->count = n->index + 1;
        x->known = 1;
        x->count = n->count;
        x->has_key = n->has_key;
        x->size = n->size;
        x->content_of = n->content_of;
        x->created_wall_ms = n->wall_ms;
        x->expires_wall_ms = n->expires_wall_ms;
        break;
    case STORE_EXPIRE:
        for (uint32_t i = 0; i < m->count; i++) {
            m->message[i].is_open_sweep = true;
            m->message[i].sweep_wall_ms = n->wall_ms;
        }
        return;
    case STORE_RETAIN:
        for (uint32_t i = 0; i < m->count; i++) {
            struct model_message *y = &m->message[i];
            bool is_final = y->known == 2 && model_all_final(y->now, y->count);
            y->is_loose |= y->created_wall_ms < n->before_wall_ms;
            y->may_be_gone |= is_final && y->is_loose;
            y->may_be_erased |= is_final && y->created_wall_ms < n->before_wall_ms;
        }
        for (int i = 0; i < MODEL_CAPTURES; i++) {
            int newer = 0;
            for (int k = i + 2; k < MODEL_CAPTURES; k += 2) /* of its kind */
                newer += m->capture[k] != 0;
            m->may_lack_capture[i] |= newer >= MODEL_CAPTURES_MOST;
        }
        m->newest_events_before_wall_ms = n->before_wall_ms;
        m->is_retaining = true;
        return;
    case STORE_NOTIFY_SETTLE:
        if (m->notification[n->index % MODEL_NOTIFICATIONS] < 2)
            m->notification[n->index % MODEL_NOTIFICATIONS] = 1;
        return;
    case STORE_KEY_PUT:
        m->key[n->index % MODEL_KEYS] = 1;
        return;
    case STORE_WEBHOOK_PUT:
        m->webhook = m->webhook == 2 ? 2 : 1;
        return;
    case STORE_CAPTURE_PUT:
        m->capture[n->index % MODEL_CAPTURES] = 1;
        return;
    case STORE_DOMAIN_PUT:
    case STORE_DOMAIN_DELETE:
    case STORE_DOMAIN_CHECKED:
        m->domain[n->index % MODEL_DOMAINS].next = n->domain;
        m->domain[n->index % MODEL_DOMAINS].is_open_call = true;
        return;
    case STORE_TOTALS: /* stands for: closed and opened again */
        m->is_reopening = true;
        return;
    default:
        break;
    }
    memcpy(x->next, n->next, sizeof x->next);
    x->is_open_call = true;
}

MODEL void model_end(struct model *m, const struct model_note *n) {
    struct model_message *x = &m->message[n->index % MODEL_MESSAGES];
    bool is_ok = n->err == OK;
    m->promises += is_ok;
    switch ((enum store_verb)n->verb) {
    case STORE_EXPIRE:
        for (uint32_t i = 0; i < m->count; i++) {
            struct model_message *y = &m->message[i];
            if (is_ok && y->known == 2)
                model_expire(y, n->wall_ms, y->now);
            if (is_ok && y->is_open_call) /* it may be before or behind the sweep */
                continue;
            if (n->err != ERR_UNAVAILABLE)
                y->is_open_sweep = false;
        }
        return;
    case STORE_NOTIFY_SETTLE:
        if (is_ok)
            m->notification[n->index % MODEL_NOTIFICATIONS] = 2;
        return;
    case STORE_KEY_PUT:
        if (is_ok)
            m->key[n->index % MODEL_KEYS] = 2;
        return;
    case STORE_WEBHOOK_PUT:
        if (is_ok)
            m->webhook = 2;
        return;
    case STORE_CAPTURE_PUT:
        if (is_ok || n->err != ERR_UNAVAILABLE)
            m->capture[n->index % MODEL_CAPTURES] = is_ok ? 2 : 0;
        return;
    case STORE_DOMAIN_PUT:
    case STORE_DOMAIN_DELETE:
    case STORE_DOMAIN_CHECKED:
        if (is_ok)
            m->domain[n->index % MODEL_DOMAINS].now = n->domain;
        if (n->err != ERR_UNAVAILABLE)
            m->domain[n->index % MODEL_DOMAINS].is_open_call = false;
        return;
    case STORE_TOTALS:
        if (!m->is_reopening) {
            m->removed = 0;
            m->is_retaining = false;
        }
        m->is_reopening = false;
        for (uint32_t i = 0; i < m->count; i++)
            for (int k = 0; k < MODEL_RCPTS; k++)
                m->message[i].now[k] = model_opened(m->message[i].now[k]);
        return;
    case STORE_RETAIN:
        m->removed += n->seq;
        m->is_retaining = false;
        return;
    default:
        break;
    }
    if (is_ok) {
        memcpy(x->now, x->next, sizeof x->now);
        x->known = 2;
    }
    if (n->err != ERR_UNAVAILABLE)
        x->is_open_call = false;
}

MODEL void model_note(struct model *m, const struct model_note *n) {
    if (n->what == NOTE_BEGIN)
        model_begin(m, n);
    else
        model_end(m, n);
}

/* In the process that was told so: what ended in an error is not stored. */
MODEL void model_settle_unknown(struct model *m) {
    for (uint32_t i = 0; i < m->count; i++)
        m->message[i].is_open_call = m->message[i].is_open_sweep = false;
    for (int i = 0; i < MODEL_DOMAINS; i++)
        m->domain[i].is_open_call = false;
    for (int i = 0; i < MODEL_CAPTURES; i++)
        m->capture[i] = m->capture[i] == 2 ? 2 : 0;
}

/* ---- what is there ---- */

struct model_found {
    bool present;
    int64_t seq, body, body_bytes;
    int64_t size;
    int count, rows, accepted, completed, keys, open;
    struct model_rcpt rcpt[MODEL_RCPTS];
    int rcpt_events[MODEL_RCPTS], last_state[MODEL_RCPTS];
};

struct model_look {
    sqlite3 *db;
    struct model_report *r;
    struct model_found *found; /* MODEL_MESSAGES */
    uint32_t *index_of_seq;    /* index + 1 */
    int64_t seq_most;
};

MODEL sqlite3_stmt *model_query(struct model_look *l, const char *sql) {
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(l->db, sql, -1, &st, NULL) != SQLITE_OK)
        model_violation(l->r, "cannot read: %s", sqlite3_errmsg(l->db));
    return st;
}

MODEL bool model_row(struct model_look *l, sqlite3_stmt *st) {
    int rc = st != NULL ? sqlite3_step(st) : SQLITE_DONE;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        model_violation(l->r, "cannot read: %s", sqlite3_errmsg(l->db));
    return rc == SQLITE_ROW;
}

MODEL int64_t model_number(struct model_look *l, const char *sql) {
    sqlite3_stmt *st = model_query(l, sql);
    int64_t v = model_row(l, st) ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_finalize(st);
    return v;
}

MODEL struct model_found *model_found_of(struct model_look *l, int64_t seq) {
    if (seq <= 0 || seq >= MODEL_MESSAGES || l->index_of_seq[seq] == 0)
        return NULL;
    return &l->found[l->index_of_seq[seq] - 1];
}

MODEL void model_read_messages(struct model_look *l) {
    sqlite3_stmt *st =
        model_query(l, "SELECT id, seq, body, size, recipients,"
                       " (SELECT count(*) FROM idempotency i WHERE i.message = m.seq),"
                       " (SELECT count(*) FROM open_message o WHERE o.seq = m.seq),"
                       " CASE WHEN body = 0 THEN 0 ELSE (SELECT sum(length(content)) FROM body b"
                       " WHERE b.key BETWEEN m.body * 1024 AND m.body * 1024 + 1023) END"
                       " FROM message m");
    while (model_row(l, st)) {
        uint32_t i;
        int64_t seq = sqlite3_column_int64(st, 1);
        if (!model_index(sqlite3_column_blob(st, 0), sqlite3_column_bytes(st, 0), &i) ||
            i >= MODEL_MESSAGES || seq <= 0 || seq >= MODEL_MESSAGES) {
            model_violation(l->r, "a message that nobody submitted, seq %lld", (long long)seq);
            continue;
        }
        struct model_found *f = &l->found[i];
        f->present = true;
        f->seq = seq;
        f->body = sqlite3_column_int64(st, 2);
        f->size = sqlite3_column_int64(st, 3);
        f->count = sqlite3_column_int(st, 4);
        f->keys = sqlite3_column_int(st, 5);
        f->open = sqlite3_column_int(st, 6);
        f->body_bytes = sqlite3_column_int64(st, 7);
        l->index_of_seq[seq] = i + 1;
    }
    sqlite3_finalize(st);
}

MODEL void model_read_recipients(struct model_look *l) {
    sqlite3_stmt *st =
        model_query(l, "SELECT key, state, duplicate, attempts, event_seq FROM recipient");
    while (model_row(l, st)) {
        int64_t key = sqlite3_column_int64(st, 0);
        struct model_found *f = model_found_of(l, key / RECIPIENT_KEY_SPAN);
        int at = (int)(key % RECIPIENT_KEY_SPAN);
        if (f == NULL || at >= MODEL_RCPTS) {
            model_violation(l->r, "recipient %lld has no message", (long long)key);
            continue;
        }
        f->rows++;
        f->rcpt[at] = (struct model_rcpt){
            (uint8_t)sqlite3_column_int(st, 1), (uint8_t)sqlite3_column_int(st, 2),
            (uint8_t)sqlite3_column_int(st, 3), (uint8_t)sqlite3_column_int(st, 4)};
    }
    sqlite3_finalize(st);
    st = model_query(l, "SELECT message, recipient, type, state FROM event ORDER BY seq");
    while (model_row(l, st)) {
        struct model_found *f = model_found_of(l, sqlite3_column_int64(st, 0));
        if (f == NULL)
            continue; /* counted below, for those that retention did not touch */
        int type = sqlite3_column_int(st, 2);
        if (sqlite3_column_type(st, 1) == SQLITE_NULL) {
            f->accepted += type == EVENT_MESSAGE_ACCEPTED;
            f->completed += type == EVENT_MESSAGE_COMPLETED;
            continue;
        }
        int at = (int)(sqlite3_column_int64(st, 1) % RECIPIENT_KEY_SPAN);
        if (at < MODEL_RCPTS) {
            f->rcpt_events[at]++;
            f->last_state[at] = sqlite3_column_int(st, 3);
        }
    }
    sqlite3_finalize(st);
}

MODEL bool model_same(const struct model_found *f, const struct model_rcpt *want, int n) {
    for (int i = 0; i < n; i++) {
        struct model_rcpt w = model_opened(want[i]);
        if (memcmp(&w, &f->rcpt[i], sizeof w) != 0)
            return false;
    }
    return true;
}

MODEL bool model_fits(const struct model_found *f, const struct model_message *x,
                      const struct model_rcpt *want) {
    struct model_rcpt swept[MODEL_RCPTS];
    if (model_same(f, want, x->count))
        return true;
    memcpy(swept, want, sizeof swept);
    model_expire(x, x->sweep_wall_ms, swept);
    return x->is_open_sweep && model_same(f, swept, x->count);
}

MODEL const char *model_text(const struct model_rcpt *r, int n, char out[128]) {
    int at = 0;
    out[0] = '\0';
    for (int i = 0; i < n; i++)
        at += snprintf(out + at, 128 - (size_t)at, "[%u dup %u att %u ev %u]", r[i].state,
                       r[i].duplicate, r[i].attempts, r[i].events);
    return out;
}

/* One message: all of it is there, as promised, or as a call under way would have made it. */
MODEL void model_compare(struct model_look *l, const struct model *m, uint32_t i) {
    const struct model_message *x = &m->message[i];
    const struct model_found *f = &l->found[i];
    struct model_report *r = l->r;
    char a[128], b[128];
    if (!f->present) {
        if (x->known == 2 && !x->may_be_gone) {
            r->lost++;
            model_violation(r, "LOST: message %u was acknowledged and is not there", i);
        }
        return;
    }
    r->checked_messages++;
    if (x->known == 0) {
        model_violation(r, "message %u is there and was never asked for", i);
        return;
    }
    if (f->count != x->count || f->rows != x->count) {
        model_violation(r, "message %u has %d recipients of %u", i, f->rows, x->count);
        return;
    }
    bool is_now = x->known == 2 && model_fits(f, x, x->now);
    bool is_next = x->is_open_call && model_fits(f, x, x->next);
    if (!is_now && !is_next) {
        r->lost += x->known == 2;
        if (x->known == 1 && !x->is_open_call)
            model_violation(r, "message %u is there, but its accept was refused", i);
        else
            model_violation(r, "message %u is %s, promised was %s", i,
                            model_text(f->rcpt, x->count, a), model_text(x->now, x->count, b));
        return;
    }
    if (f->body == 0 ? !x->may_be_erased
                     : f->size != (int64_t)x->size || f->body_bytes != (int64_t)x->size)
        model_violation(r, "message %u has %lld octets of content of %u", i,
                        (long long)f->body_bytes, x->size);
    if (f->keys != x->has_key)
        model_violation(r, "message %u has %d idempotency rows of %u", i, f->keys, x->has_key);
    bool is_final = model_all_final(f->rcpt, x->count);
    if (f->open != !is_final)
        model_violation(r, "message %u is listed as open: %d", i, f->open);
    if (x->is_loose)
        return;
    if (f->accepted != 1 || f->completed != is_final)
        model_violation(r, "message %u has %d accepted and %d completed events", i, f->accepted,
                        f->completed);
    for (int k = 0; k < x->count; k++)
        if (f->rcpt_events[k] != f->rcpt[k].events ||
            (model_is_final(f->rcpt[k].state) && f->last_state[k] != f->rcpt[k].state))
            model_violation(r, "recipient %d of message %u has %d events of %u, the last says %d",
                            k, i, f->rcpt_events[k], f->rcpt[k].events, f->last_state[k]);
}

MODEL void model_check_content(struct model_look *l, const struct model *m, uint32_t i) {
    const struct model_found *f = &l->found[i];
    if (!f->present || f->body == 0)
        return;
    sqlite3_stmt *st = model_query(l, "SELECT content FROM body WHERE key BETWEEN ?1 * 1024 AND"
                                      " ?1 * 1024 + 1023 ORDER BY key");
    sqlite3_bind_int64(st, 1, f->body);
    size_t at = 0;
    while (model_row(l, st)) {
        const char *p = sqlite3_column_blob(st, 0);
        int n = sqlite3_column_bytes(st, 0);
        for (int k = 0; k < n; k++, at++)
            if (p[k] != model_octet(m->message[i].content_of, at)) {
                model_violation(l->r, "octet %zu of message %u is wrong", at, i);
                sqlite3_finalize(st);
                return;
            }
    }
    sqlite3_finalize(st);
}

MODEL void model_check_rest(struct model_look *l, const struct model *m) {
    static const struct {
        const char *sql, *text;
    } zero[] = {
        {"SELECT count(*) FROM upload", "bodies are half there"},
        {"SELECT count(*) FROM body b WHERE NOT EXISTS"
         " (SELECT 1 FROM message m WHERE m.body = b.key / 1024)",
         "bodies have no message"},
        {"SELECT count(*) FROM recipient WHERE state = 2", "recipients are still sending"},
        {"SELECT count(*) FROM notification WHERE state = 1", "notifications are still sending"},
        {"SELECT count(*) FROM notification n WHERE NOT EXISTS"
         " (SELECT 1 FROM event e WHERE e.seq = n.event)",
         "notifications have no event"},
        {"SELECT count(*) FROM recipient r WHERE state <= 1 AND NOT EXISTS"
         " (SELECT 1 FROM open_message o WHERE o.seq = r.key / 1024)",
         "recipients wait and their message is not open"},
        {"SELECT count(*) FROM (SELECT id FROM event GROUP BY id HAVING count(*) > 1)",
         "events have one id"},
        {"SELECT count(*) FROM (SELECT message FROM idempotency GROUP BY message"
         " HAVING count(*) > 1)",
         "messages have two idempotency rows"},
        {"SELECT count(*) FROM term WHERE bucket <> seq / 512",
         "search terms are where no search looks"},
        /* recipients, sender, tag, external id */
        {"SELECT count(*) FROM message m LEFT JOIN"
         " (SELECT seq, count(*) AS n FROM term GROUP BY seq) t USING (seq)"
         " WHERE t.n IS NOT m.recipients + 3",
         "messages do not have their search terms"},
        {"SELECT count(*) FROM message m WHERE is_test <> EXISTS"
         " (SELECT 1 FROM api_key k WHERE k.id = m.key_id AND k.is_test <> 0)",
         "messages are not marked as their keys are"},
        {"SELECT count(*) FROM domain_key k WHERE NOT EXISTS"
         " (SELECT 1 FROM domain d WHERE d.n = k.domain)",
         "keys have no domain"},
    };
    for (size_t i = 0; i < sizeof zero / sizeof zero[0]; i++) {
        int64_t n = model_number(l, zero[i].sql);
        if (n != 0)
            model_violation(l->r, "%lld %s", (long long)n, zero[i].text);
    }
    sqlite3_stmt *st = model_query(l, "SELECT count(*) FROM event e WHERE e.wall >= ?1 AND e.wall >"
                                      " (SELECT min(created) FROM webhook) AND NOT EXISTS"
                                      " (SELECT 1 FROM notification n WHERE n.event = e.seq)");
    sqlite3_bind_int64(st, 1, m->newest_events_before_wall_ms);
    if (model_row(l, st) && sqlite3_column_int64(st, 0) != 0)
        model_violation(l->r, "%lld events have no notification",
                        (long long)sqlite3_column_int64(st, 0));
    sqlite3_finalize(st);
    st = model_query(l, "SELECT seq, state FROM notification");
    while (model_row(l, st)) {
        int64_t seq = sqlite3_column_int64(st, 0);
        int state = sqlite3_column_int(st, 1);
        if (seq < 0 || seq >= MODEL_NOTIFICATIONS)
            continue;
        if (m->notification[seq] == 2
                ? state != NOTIFICATION_DELIVERED
                : state == NOTIFICATION_DELIVERED && m->notification[seq] == 0)
            model_violation(l->r, "notification %lld has state %d", (long long)seq, state);
    }
    sqlite3_finalize(st);
    st = model_query(l, "SELECT count(*) FROM api_key WHERE name = ?1");
    for (int i = 0; i < MODEL_KEYS && st != NULL; i++) {
        char name[16];
        snprintf(name, sizeof name, "k%d", i);
        if (m->key[i] != 2)
            continue;
        sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
        if (model_row(l, st) && sqlite3_column_int(st, 0) != 1)
            model_violation(l->r, "LOST: key %d was stored and is not there", i);
        sqlite3_reset(st);
    }
    sqlite3_finalize(st);
}

/* After an opening with model_seal(false) all of them are sealed with its key, whatever they were
 * before. */
MODEL void model_check_seals(struct model_look *l) {
    sqlite3_stmt *st = model_query(l, "SELECT pem FROM domain_key UNION ALL"
                                      " SELECT secret FROM webhook UNION ALL"
                                      " SELECT previous_secret FROM webhook"
                                      " WHERE previous_secret <> ''");
    while (model_row(l, st))
        if (!seal_is_current(model_seal(false), str_of((const char *)sqlite3_column_text(st, 0))))
            model_violation(l->r, "a secret is not sealed with the current key");
    sqlite3_finalize(st);
}

/* Reads all of an open store's file, beside the store. */
MODEL void model_look_at(const struct model *m, const char *folder, struct model_report *r) {
    char path[600];
    struct model_look l = {.r = r};
    snprintf(path, sizeof path, "%s/outbox.db", folder);
    if (sqlite3_open_v2(path, &l.db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        model_violation(r, "cannot open: %s", sqlite3_errmsg(l.db));
        sqlite3_close(l.db);
        return;
    }
    sqlite3_stmt *st = model_query(&l, "PRAGMA integrity_check");
    if (model_row(&l, st) && strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0)
        model_violation(r, "integrity: %s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    l.found = mem_zalloc(MODEL_MESSAGES * sizeof *l.found);
    l.index_of_seq = mem_zalloc(MODEL_MESSAGES * sizeof *l.index_of_seq);
    model_read_messages(&l);
    model_read_recipients(&l);
    for (uint32_t i = 0; i < MODEL_MESSAGES; i++)
        if (i < m->count || l.found[i].present)
            model_compare(&l, m, i);
    for (uint32_t i = 0; i < m->count; i++)
        model_check_content(&l, m, i);
    model_check_rest(&l, m);
    model_check_seals(&l);
    free(l.found);
    free(l.index_of_seq);
    sqlite3_close(l.db);
}

/* An idempotency key that was acknowledged is answered with its message, and never makes a second
 * one. `index` is used for a message that must not come to be. */
MODEL void model_probe(const struct model *m, struct store *s, uint32_t of,
                       struct model_report *r) {
    const struct model_message *x = &m->message[of];
    char key[32];
    struct id id = model_id(MODEL_MESSAGES - 1), want = model_id(of);
    struct recipient_row row = {
        .email = STR("probe@example.net"), .state = RECIPIENT_QUEUED, .due_wall_ms = 1};
    struct str queue = STR("example.net");
    snprintf(key, sizeof key, "key-%u", of);
    struct store_accept q = {
        .call = {.verb = STORE_ACCEPT},
        .message = {.id = id,
                    .project = 1,
                    .key_id = id,
                    .created_wall_ms = 1,
                    .expires_wall_ms = INT64_MAX,
                    .message_id = STR("<p@example.org>"),
                    .mail_from = STR("b@example.org"),
                    .from_email = STR("a@example.org"),
                    .from_domain = STR("example.org"),
                    .lane = LANE_TRANSACTIONAL,
                    .recipient_count = 1,
                    .recipient = &row},
        .queue_key = &queue,
        .content = message_new(&id, mem_dup("x", 1), 1),
        .idempotency_key = str_of(key),
        .idempotency_until_wall_ms = INT64_MAX,
        .now_wall_ms = x->created_wall_ms,
    };
    memcpy(q.fingerprint, &of, sizeof of);
    enum err e = store_sync(s, &q.call);
    if (e != OK)
        model_violation(r, "a key that is used again is answered with error %d: %s", e,
                        q.call.info.text);
    else if (!q.is_replay || !id_equal(&q.message.id, &want))
        model_violation(r, "the key of message %u made a second message", of);
    store_call_release(&q.call);
    r->probes++;
}

/* Who looks for a recipient and the external id of a message finds it. */
MODEL void model_search(const struct model *m, struct store *s, uint32_t of,
                        struct model_report *r) {
    char key[32], email[48];
    uint32_t from = m->message[of].content_of; /* a retry has these of what it repeats */
    struct id want = model_id(of);
    snprintf(key, sizeof key, "key-%u", from);
    snprintf(email, sizeof email, "u%u.0@d%u.example", from, from % 7);
    struct store_messages q = {.call = {.verb = STORE_MESSAGES},
                               .project = 1,
                               .to = of == from ? str_of(email) : STR_NONE,
                               .tag = STR("welcome"),
                               .external_id = str_of(key),
                               .limit = 100};
    enum err e = store_sync(s, &q.call);
    bool is_found = false;
    for (size_t i = 0; e == OK && i < q.count; i++)
        is_found |= id_equal(&q.message[i].id, &want);
    if (!is_found)
        model_violation(r, "message %u is not found by a search", of);
    store_call_release(&q.call);
    r->probes++;
}

/* ---- domains, webhooks, captures: with their secrets, which have to open ---- */

MODEL bool model_is_domain(const struct domain_row *d, uint32_t i, struct model_domain want) {
    if (d == NULL || !want.is_there)
        return d == NULL && !want.is_there;
    char text[80];
    bool is_same =
        d->key_count == MODEL_DKIM_KEYS && (d->verified_wall_ms != 0) == want.is_verified;
    for (int k = 0; is_same && k < MODEL_DKIM_KEYS; k++)
        is_same = str_equal(d->key[k].pem, model_pem(i, want.version, k, text)) &&
                  (d->key[k].published_wall_ms != 0) == want.is_verified;
    return is_same;
}

MODEL void model_check_domains(const struct model *m, struct store *s, struct model_report *r) {
    struct store_domains q = {.call = {.verb = STORE_DOMAINS}, .project = 1, .with_secrets = true};
    const struct domain_row *of[MODEL_DOMAINS] = {NULL};
    enum err e = store_sync(s, &q.call);
    if (e != OK)
        model_violation(r, "domains cannot be read: %s", q.call.info.text);
    for (size_t k = 0; e == OK && k < q.count; k++) {
        uint32_t i;
        if (!model_index(q.domain[k].id.b, sizeof(struct id), &i) || i < MODEL_ID_DOMAIN ||
            i >= MODEL_ID_DOMAIN + MODEL_DOMAINS || of[i - MODEL_ID_DOMAIN] != NULL)
            model_violation(r, "a domain that nobody asked for");
        else
            of[i - MODEL_ID_DOMAIN] = &q.domain[k];
    }
    for (uint32_t i = 0; e == OK && i < MODEL_DOMAINS; i++) {
        if (model_is_domain(of[i], i, m->domain[i].now) ||
            (m->domain[i].is_open_call && model_is_domain(of[i], i, m->domain[i].next)))
            continue;
        r->lost += m->domain[i].now.is_there;
        model_violation(r, "LOST: domain %u, or a key of it, is not as it was acknowledged", i);
    }
    store_call_release(&q.call);
}

MODEL void model_check_webhook(const struct model *m, struct store *s, struct model_report *r) {
    struct store_webhooks q = {.call = {.verb = STORE_WEBHOOKS}, .project = 1};
    enum err e = store_sync(s, &q.call);
    bool is_there = e == OK && q.count == 1;
    if (e != OK || q.count > 1 || (is_there ? m->webhook == 0 : m->webhook == 2) ||
        (is_there && !str_equal(q.webhook[0].secret, STR(MODEL_WEBHOOK_SECRET))))
        model_violation(r, "LOST: a webhook, or its secret: error %d, %zu of them", e, q.count);
    store_call_release(&q.call);
}

MODEL void model_check_captures(const struct model *m, struct store *s, struct model_report *r) {
    for (uint32_t i = 0; i < MODEL_CAPTURES; i++) {
        struct store_capture q = {.call = {.verb = STORE_CAPTURE},
                                  .id = model_id(MODEL_ID_CAPTURE + i)};
        if (m->capture[i] == 0 && i > 0 && m->capture[i - 1] == 0)
            continue; /* nobody was that far */
        enum err e = store_sync(s, &q.call);
        bool is_same = e == OK && q.capture.content.n == 200 + i;
        for (size_t at = 0; is_same && at < q.capture.content.n; at++)
            is_same = q.capture.content.p[at] == model_octet(MODEL_ID_CAPTURE + i, at);
        if (e == ERR_NOT_FOUND ? m->capture[i] == 2 && !m->may_lack_capture[i]
                               : !is_same || m->capture[i] == 0) {
            r->lost += m->capture[i] == 2;
            model_violation(r, "%s: capture %u, error %d", m->capture[i] ? "LOST" : "invented", i,
                            e);
        }
        store_call_release(&q.call);
    }
}

/* Opens the store in `o->folder` and compares all of it. */
MODEL void model_verify(const struct model *m, const struct store_options *o, uint32_t pick,
                        struct model_report *r) {
    struct store *s = NULL;
    struct errinfo info = {0};
    struct store_options sealed = *o;
    sealed.seal = model_seal(false);
    enum err e = store_open(&sealed, &s, &info);
    if (e != OK) {
        model_violation(r, "the store cannot be opened: %s", info.text);
        return;
    }
    model_look_at(m, o->folder, r);
    model_check_domains(m, s, r);
    model_check_webhook(m, s, r);
    model_check_captures(m, s, r);
    if (store_check(s, &info) != OK)
        model_violation(r, "the store does not add up: %s: %s", info.field, info.text);
    for (uint32_t tries = 0; m->count > 0 && tries < 20; tries++) {
        uint32_t i = (pick + tries) % m->count;
        const struct model_message *x = &m->message[i];
        if (x->known == 2 && x->has_key && !x->may_be_gone) {
            model_probe(m, s, i, r);
            model_search(m, s, i, r);
            break;
        }
    }
    store_close(&s);
}
