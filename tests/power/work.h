/* work: a load on the store that is written down, call by call.
 *
 * It accepts messages (small ones, ones that go in by chunks, with and without idempotency key,
 * scheduled ones), claims, settles, releases, cancels, retries, sends notifications, stores keys,
 * domains with their secrets and captures of the sandbox, and between that sweeps (expiry,
 * retention) and closes and opens the store again. Several calls are under way at once, so that
 * commits carry groups. What it does depends on the seed alone, but for the order in which answers
 * come.
 *
 *     struct work w;
 *     work_init(&w, &(struct work_options){.folder = f, .ops = 200, .seed = 1, ...});
 *     work_open(&w); work_run(&w); work_close(&w); work_release(&w);
 *
 * With a ledger in which notes are it goes on where an earlier process ended, well or killed.
 *
 * In a header since the tools are programs of one file. Thread: the tool's. */
#pragma once

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include "server/base/limits.h"
#include "tests/power/model.h"
#include "tests/power/shim.h"

enum {
    WORK_SLOTS = 12,
    WORK_BODY_MOST = 700000,
    WORK_SCHEDULED_MS = 5000,
    WORK_RETAIN_MS = 100000,
    WORK_STEP_MOST_MS = 60000,
    WORK_LONG = 200
};

struct work_options {
    const char *folder, *ledger; /* ledger NULL: none */
    uint64_t seed;
    int ops, slots;
    size_t checkpoint_pages;
    bool synchronous_normal;
    bool may_fail;  /* ERR_UNAVAILABLE is an answer */
    bool no_sweeps; /* neither expiry nor retention nor closing */
};

struct work;

struct work_slot {
    struct work *w;
    bool busy;
    uint32_t index;  /* message under way */
    uint32_t source; /* of a retry; else the same */
    struct model_note note;
    union {
        struct store_call call;
        struct store_accept accept;
        struct store_claim claim;
        struct store_settle settle;
        struct store_release release;
        struct store_cancel cancel;
        struct store_retry retry;
        struct store_notify_claim notify_claim;
        struct store_notify_settle notify_settle;
        struct store_key_put key_put;
        struct store_domain_put domain_put;
        struct store_domain_delete domain_delete;
        struct store_domain_checked domain_checked;
        struct store_capture_put capture_put;
    } q;
    recipient_key_t key[MODEL_RCPTS];
    bool is_claimed[MODEL_RCPTS];
    struct settle_result result[MODEL_RCPTS];
    struct notify_result notify;
    struct attempt_row attempt;
    struct recipient_row rcpt[MODEL_RCPTS];
    struct str queue[MODEL_RCPTS];
    char email[MODEL_RCPTS][48], text[64];
    struct domain_key_row dkim[MODEL_DKIM_KEYS];
    struct str selector[MODEL_DKIM_KEYS];
    char pem[MODEL_DKIM_KEYS][80], content[200 + MODEL_CAPTURES];
};

struct work {
    struct work_options o;
    struct model *model;
    struct store *store;
    struct mailbox *box;
    int ledger;
    shim_note_fn *shim_note;
    uint64_t random;
    int64_t now_wall_ms;
    struct work_slot slot[WORK_SLOTS];
    int under_way;
    bool busy[MODEL_MESSAGES];
    int64_t seq[MODEL_MESSAGES], due_wall_ms[MODEL_MESSAGES];
    int64_t claimed[64]; /* notifications that are to be settled */
    size_t claimed_count;
    bool is_claiming, has_webhook, may_have_webhook;
    bool has_unknown; /* an earlier process was killed while a call was under way */
    uint32_t keys, domains, captures, openings;
    bool is_domain_busy[MODEL_DOMAINS];
    uint64_t ok, unavailable, unexpected;
    char first[640]; /* about the first unexpected answer */
};

MODEL uint64_t work_random(struct work *w, uint64_t below) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (w->random >> 11) % below;
}

MODEL void work_unexpected(struct work *w, const char *what, enum err e, const char *text) {
    if (w->unexpected++ == 0)
        snprintf(w->first, sizeof w->first, "%s: error %d: %s", what, e, text);
}

/* ---- notes ---- */

MODEL void work_note(struct work *w, const struct model_note *n) {
    if (w->shim_note != NULL)
        w->shim_note(n, sizeof *n);
    if (w->ledger >= 0 && write(w->ledger, n, sizeof *n) != (ssize_t)sizeof *n)
        abort();
    model_note(w->model, n);
}

MODEL void work_begin(struct work *w, struct work_slot *s) {
    s->note.what = NOTE_BEGIN;
    s->note.wall_ms = w->now_wall_ms;
    work_note(w, &s->note);
}

MODEL void work_end(struct work *w, struct work_slot *s, enum err e) {
    s->note.what = NOTE_END;
    s->note.err = (int32_t)e;
    if (e == OK && s->q.call.verb == STORE_ACCEPT)
        s->note.seq = (uint32_t)s->q.accept.message.seq;
    if (e == OK && s->q.call.verb == STORE_RETRY)
        s->note.seq = (uint32_t)s->q.retry.new_message.seq;
    work_note(w, &s->note);
}

/* ---- answers ---- */

MODEL void work_took_claims(struct work *w, struct work_slot *s) {
    struct store_notify_claim *q = &s->q.notify_claim;
    w->is_claiming = false;
    for (size_t i = 0; q->call.err == OK && i < q->count; i++)
        w->claimed[w->claimed_count++] = q->notification[i].seq;
}

MODEL void work_done(struct store_call *call) {
    struct work_slot *s = call->ctx;
    struct work *w = s->w;
    enum err e = call->err;
    enum store_verb verb = call->verb;
    if (e == OK)
        w->ok++;
    else if (e == ERR_UNAVAILABLE && w->o.may_fail)
        w->unavailable++;
    else if (verb != STORE_RETRY || e != ERR_CONFLICT)
        work_unexpected(w, "an answer", e, call->info.text);
    if (verb == STORE_NOTIFY_CLAIM)
        work_took_claims(w, s);
    else
        work_end(w, s, e);
    if (e == OK && verb == STORE_ACCEPT) {
        w->seq[s->index] = s->q.accept.message.seq;
        w->due_wall_ms[s->index] = s->rcpt[0].due_wall_ms;
        if (s->q.accept.is_replay)
            work_unexpected(w, "a new key is said to be known", OK, "");
    } else if (e == OK && verb == STORE_RETRY) {
        if (!s->q.retry.made_new)
            work_unexpected(w, "a retry made nothing", OK, "");
        w->seq[s->index] = s->q.retry.new_message.seq;
    } else if (e == OK && verb == STORE_CLAIM) {
        for (size_t i = 0; i < s->q.claim.count; i++)
            if (!s->is_claimed[i])
                work_unexpected(w, "a claim was refused", OK, "");
    } else if (e != OK && verb == STORE_NOTIFY_SETTLE && w->claimed_count < 64) {
        w->claimed[w->claimed_count++] = s->notify.seq; /* again */
    }
    store_call_release(call);
    switch (verb) {
    case STORE_NOTIFY_CLAIM:
    case STORE_NOTIFY_SETTLE:
    case STORE_KEY_PUT:
    case STORE_CAPTURE_PUT:
        break;
    case STORE_DOMAIN_PUT:
    case STORE_DOMAIN_DELETE:
    case STORE_DOMAIN_CHECKED:
        w->is_domain_busy[s->note.index] = false;
        break;
    default:
        w->busy[s->index] = false;
        w->busy[s->source] = false;
    }
    s->busy = false;
    w->under_way--;
}

MODEL void work_post(struct work *w, struct work_slot *s, enum store_verb verb) {
    s->q.call.verb = verb;
    s->q.call.reply_to = w->box;
    s->q.call.done = work_done;
    s->q.call.ctx = s;
    s->busy = true;
    w->under_way++;
    store_post(w->store, &s->q.call);
}

/* ---- calls ---- */

MODEL struct work_slot *work_slot(struct work *w, enum store_verb verb, uint32_t index) {
    struct work_slot *s = w->slot;
    while (s->busy)
        s++;
    memset(s, 0, sizeof *s);
    s->w = w;
    s->index = s->source = index;
    s->note.verb = (uint8_t)verb;
    s->note.index = s->note.source = index;
    const struct model_message *m = &w->model->message[index];
    memcpy(s->note.next, m->now, sizeof s->note.next);
    s->note.count = m->count;
    return s;
}

MODEL struct message *work_content(uint32_t index, uint32_t size) {
    struct id id = model_id(index);
    char *bytes = mem_zalloc(size + 1u);
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = model_octet(index, i);
    return message_new(&id, bytes, size);
}

MODEL void work_accept(struct work *w) {
    uint32_t index = w->model->count;
    if (index >= MODEL_MESSAGES - 2)
        return;
    struct work_slot *s = work_slot(w, STORE_ACCEPT, index);
    uint64_t kind = work_random(w, 100);
    s->note.count = (uint8_t)(1 + work_random(w, MODEL_RCPTS));
    s->note.has_key = work_random(w, 2) == 0;
    s->note.size = (uint32_t)(kind < 80   ? 300 + work_random(w, 3000)
                              : kind < 95 ? 20000 + work_random(w, 60000)
                                          : LIMIT_BODY_CHUNK + 1 + work_random(w, 300000));
    s->note.content_of = index;
    bool is_scheduled = work_random(w, 10) == 0;
    int64_t due = w->now_wall_ms + (is_scheduled ? WORK_SCHEDULED_MS : 0);
    s->note.expires_wall_ms = w->now_wall_ms + (work_random(w, 8) == 0 ? 20000 : 900000000);
    for (int i = 0; i < s->note.count; i++) {
        snprintf(s->email[i], sizeof s->email[i], "u%u.%d@d%u.example", index, i, index % 7);
        s->rcpt[i] =
            (struct recipient_row){.email = str_of(s->email[i]),
                                   .state = is_scheduled ? RECIPIENT_SCHEDULED : RECIPIENT_QUEUED,
                                   .due_wall_ms = due};
        s->queue[i] = str_from(s->rcpt[i].email, (size_t)str_find_char(s->rcpt[i].email, '@') + 1);
        s->note.next[i] = (struct model_rcpt){.state = (uint8_t)s->rcpt[i].state};
    }
    snprintf(s->text, sizeof s->text, "key-%u", index);
    struct id id = model_id(index);
    s->q.accept = (struct store_accept){
        .message = {.id = id,
                    .project = 1,
                    .key_id = id,
                    .created_wall_ms = w->now_wall_ms,
                    .expires_wall_ms = s->note.expires_wall_ms,
                    .message_id = STR("<m@example.org>"),
                    .mail_from = STR("bounce@example.org"),
                    .from_email = STR("shop@example.org"),
                    .from_domain = STR("example.org"),
                    .subject = STR("Hello"),
                    .external_id = str_of(s->text),
                    .tags_json = STR("[\"welcome\"]"),
                    .lane = index % 5 == 0 ? LANE_HIGH : LANE_BULK,
                    .recipient_count = s->note.count,
                    .recipient = s->rcpt},
        .queue_key = s->queue,
        .content = work_content(index, s->note.size),
        .idempotency_key = s->note.has_key ? str_of(s->text) : STR_NONE,
        .idempotency_until_wall_ms = INT64_MAX,
        .now_wall_ms = w->now_wall_ms,
    };
    memcpy(s->q.accept.fingerprint, &index, sizeof index);
    w->busy[index] = true;
    work_begin(w, s);
    work_post(w, s, STORE_ACCEPT);
}

MODEL bool work_claim(struct work *w, uint32_t index) {
    const struct model_message *m = &w->model->message[index];
    struct work_slot *s = work_slot(w, STORE_CLAIM, index);
    size_t n = 0;
    for (int i = 0; i < m->count; i++)
        if (m->now[i].state == RECIPIENT_QUEUED ||
            (m->now[i].state == RECIPIENT_SCHEDULED && w->due_wall_ms[index] <= w->now_wall_ms)) {
            s->key[n++] = w->seq[index] * RECIPIENT_KEY_SPAN + i;
            s->note.next[i].state = RECIPIENT_SENDING;
        }
    if (n == 0)
        return false;
    s->q.claim = (struct store_claim){
        .key = s->key, .count = n, .now_wall_ms = w->now_wall_ms, .is_claimed = s->is_claimed};
    w->busy[index] = true;
    work_begin(w, s);
    work_post(w, s, STORE_CLAIM);
    return true;
}

MODEL struct settle_result work_result(struct work *w, recipient_key_t key, struct model_rcpt *r) {
    struct settle_result out = {.key = key, .counts = true};
    uint64_t dice = work_random(w, 20);
    out.state = dice < 11   ? RECIPIENT_DELIVERED
                : dice < 17 ? RECIPIENT_QUEUED
                : dice < 19 ? RECIPIENT_BOUNCED
                            : RECIPIENT_FAILED;
    out.counts = dice != 16;
    out.unknown_outcome = dice == 15;
    out.due_wall_ms = w->now_wall_ms + 60000;
    out.last = (struct last_result){.stage = STAGE_END,
                                    .text = STR("2.0.0 what it said"),
                                    .mx = STR("mx.example.net"),
                                    .tls = STR("TLSv1.3")};
    out.last.code = out.state == RECIPIENT_DELIVERED ? 250
                    : out.state == RECIPIENT_QUEUED  ? 451
                                                     : 550;
    r->state = (uint8_t)out.state;
    r->attempts = (uint8_t)(r->attempts + out.counts);
    r->events = (uint8_t)(r->events + (out.counts || out.state != RECIPIENT_QUEUED));
    r->duplicate |= out.unknown_outcome;
    return out;
}

MODEL bool work_settle(struct work *w, uint32_t index) {
    const struct model_message *m = &w->model->message[index];
    struct work_slot *s = work_slot(w, STORE_SETTLE, index);
    size_t n = 0;
    for (int i = 0; i < m->count; i++)
        if (m->now[i].state == RECIPIENT_SENDING) {
            s->result[n] = work_result(w, w->seq[index] * RECIPIENT_KEY_SPAN + i, &s->note.next[i]);
            n++;
        }
    if (n == 0)
        return false;
    s->attempt = (struct attempt_row){.message_id = model_id(index),
                                      .host = STR("mx.example.net"),
                                      .address = STR("192.0.2.1:25"),
                                      .started_wall_ms = w->now_wall_ms,
                                      .transcript = STR("C: MAIL FROM:<a@b>\nS: 250 ok\n")};
    s->q.settle = (struct store_settle){
        .result = s->result, .count = n, .attempt = &s->attempt, .now_wall_ms = w->now_wall_ms};
    w->busy[index] = true;
    work_begin(w, s);
    work_post(w, s, STORE_SETTLE);
    return true;
}

MODEL bool work_release_claims(struct work *w, uint32_t index) {
    const struct model_message *m = &w->model->message[index];
    struct work_slot *s = work_slot(w, STORE_RELEASE, index);
    size_t n = 0;
    for (int i = 0; i < m->count; i++)
        if (m->now[i].state == RECIPIENT_SENDING) {
            s->key[n++] = w->seq[index] * RECIPIENT_KEY_SPAN + i;
            s->note.next[i].state = RECIPIENT_QUEUED;
        }
    if (n == 0)
        return false;
    s->q.release = (struct store_release){
        .key = s->key, .count = n, .due_wall_ms = w->now_wall_ms, .now_wall_ms = w->now_wall_ms};
    w->busy[index] = true;
    work_begin(w, s);
    work_post(w, s, STORE_RELEASE);
    return true;
}

MODEL bool work_cancel(struct work *w, uint32_t index) {
    const struct model_message *m = &w->model->message[index];
    struct work_slot *s = work_slot(w, STORE_CANCEL, index);
    bool some = false;
    for (int i = 0; i < m->count; i++)
        if (m->now[i].state == RECIPIENT_QUEUED || m->now[i].state == RECIPIENT_SCHEDULED) {
            s->note.next[i].state = RECIPIENT_CANCELED;
            s->note.next[i].events++;
            some = true;
        }
    if (!some)
        return false;
    s->q.cancel =
        (struct store_cancel){.id = model_id(index), .project = 1, .now_wall_ms = w->now_wall_ms};
    w->busy[index] = true;
    work_begin(w, s);
    work_post(w, s, STORE_CANCEL);
    return true;
}

MODEL bool work_retry(struct work *w, uint32_t index) {
    const struct model_message *m = &w->model->message[index];
    uint32_t made = w->model->count;
    if (m->may_be_erased || made >= MODEL_MESSAGES - 2)
        return false;
    struct work_slot *s = work_slot(w, STORE_RETRY, index);
    uint8_t n = 0;
    memset(s->note.next, 0, sizeof s->note.next);
    for (int i = 0; i < m->count; i++)
        switch ((enum recipient_state)m->now[i].state) {
        case RECIPIENT_BOUNCED:
        case RECIPIENT_FAILED:
        case RECIPIENT_EXPIRED:
        case RECIPIENT_CANCELED:
            s->note.next[n++].state = RECIPIENT_QUEUED;
            break;
        default:
            break;
        }
    if (n == 0)
        return false;
    s->index = s->note.index = made;
    s->note.count = n;
    s->note.size = m->size;
    s->note.content_of = m->content_of;
    s->note.expires_wall_ms = w->now_wall_ms + 900000000;
    s->q.retry = (struct store_retry){.id = model_id(index),
                                      .project = 1,
                                      .new_id = model_id(made),
                                      .now_wall_ms = w->now_wall_ms,
                                      .expires_wall_ms = s->note.expires_wall_ms};
    w->busy[index] = w->busy[made] = true;
    work_begin(w, s);
    work_post(w, s, STORE_RETRY);
    return true;
}

MODEL bool work_notify(struct work *w) {
    if (w->claimed_count == 0) {
        if (w->is_claiming)
            return false;
        struct work_slot *s = work_slot(w, STORE_NOTIFY_CLAIM, 0);
        s->q.notify_claim = (struct store_notify_claim){
            .now_wall_ms = w->now_wall_ms, .most = 5, .per_webhook = 100};
        w->is_claiming = true;
        work_post(w, s, STORE_NOTIFY_CLAIM);
        return true;
    }
    struct work_slot *s = work_slot(w, STORE_NOTIFY_SETTLE, 0);
    s->notify = (struct notify_result){.seq = w->claimed[--w->claimed_count],
                                       .state = NOTIFICATION_DELIVERED,
                                       .counts = true,
                                       .status = 200,
                                       .took_ms = 3,
                                       .response = STR("ok"),
                                       .mark_working = true};
    s->note.index = (uint32_t)s->notify.seq;
    s->q.notify_settle = (struct store_notify_settle){
        .result = &s->notify, .count = 1, .now_wall_ms = w->now_wall_ms};
    work_begin(w, s);
    work_post(w, s, STORE_NOTIFY_SETTLE);
    return true;
}

MODEL bool work_key(struct work *w) {
    if (w->keys >= MODEL_KEYS)
        return false;
    struct work_slot *s = work_slot(w, STORE_KEY_PUT, 0);
    s->note.index = w->keys;
    snprintf(s->text, sizeof s->text, "k%u", w->keys);
    s->q.key_put = (struct store_key_put){.key = {.id = model_id(100000 + w->keys),
                                                  .project = 1,
                                                  .name = str_of(s->text),
                                                  .prefix = str_of(s->text),
                                                  .scopes = SCOPE_SEND,
                                                  .created_wall_ms = w->now_wall_ms}};
    memset(s->q.key_put.key.hash, (int)w->keys, sizeof s->q.key_put.key.hash);
    w->keys++;
    work_begin(w, s);
    work_post(w, s, STORE_KEY_PUT);
    return true;
}

MODEL bool work_domain_put(struct work *w, struct work_slot *s, uint32_t i, bool replace) {
    s->note.domain = (struct model_domain){
        .is_there = 1, .version = (uint8_t)(w->model->domain[i].now.version + 1)};
    for (int k = 0; k < MODEL_DKIM_KEYS; k++)
        s->dkim[k] =
            (struct domain_key_row){.selector = s->selector[k],
                                    .algorithm = STR("ed25519-sha256"),
                                    .pem = model_pem(i, s->note.domain.version, k, s->pem[k]),
                                    .record = STR("v=DKIM1; k=ed25519; p=AA"),
                                    .created_wall_ms = w->now_wall_ms};
    s->q.domain_put = (struct store_domain_put){.domain = {.id = model_id(MODEL_ID_DOMAIN + i),
                                                           .project = 1,
                                                           .name = str_of(s->text),
                                                           .created_wall_ms = w->now_wall_ms,
                                                           .key = s->dkim,
                                                           .key_count = MODEL_DKIM_KEYS},
                                                .replace = replace};
    work_begin(w, s);
    work_post(w, s, STORE_DOMAIN_PUT);
    return true;
}

/* Made, given other keys, looked for in the DNS, removed (all but the first). */
MODEL bool work_domain(struct work *w) {
    uint32_t i = (uint32_t)work_random(w, w->domains + 1);
    if (i >= MODEL_DOMAINS || w->is_domain_busy[i] || w->model->domain[i].is_open_call)
        return false;
    if (w->domains == i)
        w->domains++;
    struct model_domain now = w->model->domain[i].now;
    uint64_t dice = work_random(w, 10);
    enum store_verb verb = !now.is_there || dice < 4 ? STORE_DOMAIN_PUT
                           : dice < 8 || i == 0      ? STORE_DOMAIN_CHECKED
                                                     : STORE_DOMAIN_DELETE;
    struct work_slot *s = work_slot(w, verb, 0);
    s->note.index = i;
    s->note.domain = now;
    s->selector[0] = STR("a1");
    s->selector[1] = STR("b1");
    snprintf(s->text, sizeof s->text, "d%u.example.net", i);
    w->is_domain_busy[i] = true;
    if (verb == STORE_DOMAIN_PUT)
        return work_domain_put(w, s, i, now.is_there);
    if (verb == STORE_DOMAIN_DELETE) {
        s->note.domain.is_there = s->note.domain.is_verified = 0;
        s->q.domain_delete = (struct store_domain_delete){.name = str_of(s->text), .project = 1};
    } else {
        bool is_found = !now.is_verified;
        s->note.domain.is_verified = is_found;
        s->q.domain_checked =
            (struct store_domain_checked){.id = model_id(MODEL_ID_DOMAIN + i),
                                          .project = 1,
                                          .is_verified = is_found,
                                          .published = s->selector,
                                          .published_count = is_found ? MODEL_DKIM_KEYS : 0,
                                          .now_wall_ms = w->now_wall_ms};
    }
    work_begin(w, s);
    work_post(w, s, verb);
    return true;
}

MODEL bool work_capture(struct work *w) {
    if (w->captures >= MODEL_CAPTURES)
        return false;
    struct work_slot *s = work_slot(w, STORE_CAPTURE_PUT, 0);
    uint32_t i = s->note.index = w->captures++;
    for (size_t at = 0; at < 200 + i; at++)
        s->content[at] = model_octet(MODEL_ID_CAPTURE + i, at);
    s->q.capture_put = (struct store_capture_put){
        .capture = {.id = model_id(MODEL_ID_CAPTURE + i),
                    .kind = i % 2 == 0 ? CAPTURE_MESSAGE : CAPTURE_WEBHOOK,
                    .wall_ms = w->now_wall_ms,
                    .meta_json = STR("{}"),
                    .content = {s->content, 200 + i}}};
    work_begin(w, s);
    work_post(w, s, STORE_CAPTURE_PUT);
    return true;
}

/* ---- with nothing under way ---- */

MODEL void work_drain(struct work *w) {
    while (w->under_way > 0)
        mailbox_wait(w->box, 1000);
}

/* At first secrets are in clear, then they are sealed, with another key at each opening. */
MODEL enum err work_open(struct work *w) {
    uint32_t opening = w->openings++;
    struct store_options o = {.backend = STORE_SQLITE,
                              .folder = w->o.folder,
                              .seal = opening == 0 ? NULL : model_seal(opening % 2 == 0),
                              .synchronous_normal = w->o.synchronous_normal,
                              .checkpoint_pages = w->o.checkpoint_pages};
    struct errinfo info = {0};
    enum err e = store_open(&o, &w->store, &info);
    if (e != OK && !(e == ERR_UNAVAILABLE && w->o.may_fail))
        work_unexpected(w, "the store cannot be opened", e, info.text);
    return e;
}

/* STORE_TOTALS stands for it in the notes. */
MODEL void work_note_opened(struct work *w) {
    struct model_note n = {.what = NOTE_END, .verb = STORE_TOTALS, .wall_ms = w->now_wall_ms};
    w->claimed_count = 0;
    work_note(w, &n);
}

/* Closed and opened. */
MODEL enum err work_reopen(struct work *w) {
    work_drain(w);
    struct model_note n = {.what = NOTE_BEGIN, .verb = STORE_TOTALS, .wall_ms = w->now_wall_ms};
    work_note(w, &n);
    if (w->store != NULL)
        store_close(&w->store);
    enum err e = work_open(w);
    if (e == OK)
        work_note_opened(w);
    return e;
}

MODEL void work_sweep(struct work *w, enum store_verb verb) {
    work_drain(w);
    struct model_note n = {.what = NOTE_BEGIN,
                           .verb = (uint8_t)verb,
                           .wall_ms = w->now_wall_ms,
                           .before_wall_ms = w->now_wall_ms - WORK_RETAIN_MS};
    union {
        struct store_call call;
        struct store_expire expire;
        struct store_retain retain;
    } q;
    memset(&q, 0, sizeof q);
    if (verb == STORE_EXPIRE)
        q.expire = (struct store_expire){.now_wall_ms = w->now_wall_ms, .most = 100000};
    else
        q.retain = (struct store_retain){.now_wall_ms = w->now_wall_ms,
                                         .content_before_wall_ms = n.before_wall_ms,
                                         .events_before_wall_ms = n.before_wall_ms,
                                         .captures_most = MODEL_CAPTURES_MOST,
                                         .most = 1 + (size_t)work_random(w, 200)};
    q.call.verb = verb;
    work_note(w, &n);
    enum err e = store_sync(w->store, &q.call);
    if (e != OK && !(e == ERR_UNAVAILABLE && w->o.may_fail))
        work_unexpected(w, "a sweep", e, q.call.info.text);
    w->unavailable += e == ERR_UNAVAILABLE;
    n.seq = verb == STORE_RETAIN && e == OK ? (uint32_t)q.retain.removed : 0;
    n.what = NOTE_END;
    n.err = (int32_t)e;
    work_note(w, &n);
    store_call_release(&q.call);
}

MODEL void work_webhook(struct work *w) {
    struct str events = STR("*");
    struct store_webhook_put q = {.call = {.verb = STORE_WEBHOOK_PUT},
                                  .webhook = {.id = model_id(MODEL_ID_WEBHOOK),
                                              .project = 1,
                                              .url = STR("https://hooks.example.org/a"),
                                              .secret = STR(MODEL_WEBHOOK_SECRET),
                                              .events = &events,
                                              .event_count = 1,
                                              .created_wall_ms = w->now_wall_ms}};
    struct model_note n = {
        .what = NOTE_BEGIN, .verb = STORE_WEBHOOK_PUT, .wall_ms = w->now_wall_ms};
    work_note(w, &n);
    enum err e = store_sync(w->store, &q.call);
    if (e == ERR_CONFLICT && w->may_have_webhook)
        e = OK; /* what was answered "unavailable" may be there after the next opening */
    w->has_webhook = e == OK;
    w->may_have_webhook |= e == ERR_UNAVAILABLE;
    if (e != OK && !(e == ERR_UNAVAILABLE && w->o.may_fail))
        work_unexpected(w, "a webhook", e, q.call.info.text);
    n.what = NOTE_END;
    n.err = (int32_t)e;
    work_note(w, &n);
    store_call_release(&q.call);
}

/* ---- the load ---- */

MODEL bool work_on_message(struct work *w) {
    uint32_t count = w->model->count;
    for (int tries = 0; tries < 12 && count > 0; tries++) {
        /* The newest are looked at more often. */
        uint32_t back = (uint32_t)work_random(w, work_random(w, 2) != 0 ? 20 : count);
        if (back >= count)
            back = count - 1;
        uint32_t i = count - 1 - back;
        const struct model_message *m = &w->model->message[i];
        /* What became of a call that failed is not known after closing: such a one is left alone.
         */
        if (w->busy[i] || m->known != 2 || m->may_be_gone || m->is_open_call || m->is_open_sweep ||
            w->seq[i] == 0)
            continue;
        uint64_t dice = work_random(w, 20);
        if (dice < 8    ? work_settle(w, i) || work_claim(w, i)
            : dice < 15 ? work_claim(w, i)
            : dice < 16 ? work_release_claims(w, i)
            : dice < 18 ? work_cancel(w, i)
                        : work_retry(w, i))
            return true;
    }
    return false;
}

/* Short loads live as long as others, and sweep as often: else nothing of theirs becomes old. */
MODEL int64_t work_step_ms(const struct work *w) {
    int64_t ms = 4 * WORK_RETAIN_MS / (w->o.ops > 0 ? w->o.ops : 1);
    return ms < 2000 ? 2000 : ms > WORK_STEP_MOST_MS ? WORK_STEP_MOST_MS : ms;
}

MODEL int work_sweep_every(const struct work *w) {
    return w->o.ops < WORK_LONG ? w->o.ops / 5 + 2 : 40;
}

MODEL void work_step(struct work *w) {
    uint64_t dice = work_random(w, 100);
    w->now_wall_ms += (int64_t)work_random(w, (uint64_t)work_step_ms(w));
    if (dice < 3 && work_key(w))
        return;
    if (dice < 8 && work_domain(w))
        return;
    if (dice < 12 && work_capture(w))
        return;
    if (dice < 30 && work_notify(w))
        return;
    if (dice < 65 && work_on_message(w))
        return;
    work_accept(w);
}

MODEL void work_between(struct work *w) {
    uint64_t dice = work_random(w, 10);
    if (dice < 4)
        work_sweep(w, STORE_EXPIRE);
    else if (dice < 8)
        work_sweep(w, STORE_RETAIN);
    else if (work_reopen(w) != OK)
        return;
    if (!w->has_webhook)
        work_webhook(w);
}

/* Opened, also on what an earlier process left. */
MODEL enum err work_start(struct work *w) {
    enum err e = work_open(w);
    if (e == OK && (w->ok > 0 || w->model->promises > 0))
        work_note_opened(w);
    return e;
}

/* False: it ended early, since the store could not be opened again. */
MODEL bool work_run(struct work *w) {
    if (!w->has_webhook)
        work_webhook(w);
    (void)(w->domains == 0 && work_domain(w));
    for (int i = 0; i < w->o.ops; i++) {
        while (w->under_way >= w->o.slots)
            mailbox_wait(w->box, 1000);
        if (!w->o.no_sweeps && i % work_sweep_every(w) == work_sweep_every(w) - 1)
            work_between(w);
        if (w->store == NULL)
            return false;
        work_step(w);
    }
    work_drain(w);
    return true;
}

MODEL void work_close(struct work *w) {
    if (w->store == NULL)
        return;
    work_drain(w);
    store_close(&w->store);
}

/* Of the notes that are in the ledger. */
MODEL void work_resume(struct work *w) {
    struct model_note n;
    off_t at = 0;
    while (pread(w->ledger, &n, sizeof n, at) == (ssize_t)sizeof n) {
        at += (off_t)sizeof n;
        model_note(w->model, &n);
        if (w->now_wall_ms < n.wall_ms)
            w->now_wall_ms = n.wall_ms;
        if (n.verb == STORE_KEY_PUT && w->keys <= n.index)
            w->keys = n.index + 1;
        if (n.verb == STORE_CAPTURE_PUT && w->captures <= n.index)
            w->captures = n.index + 1;
        if (n.verb == STORE_DOMAIN_PUT && w->domains <= n.index)
            w->domains = n.index + 1;
        if (n.what == NOTE_END && n.err == OK &&
            (n.verb == STORE_ACCEPT || n.verb == STORE_RETRY)) {
            w->seq[n.index] = n.seq;
            w->due_wall_ms[n.index] = n.wall_ms + WORK_SCHEDULED_MS;
        }
    }
    w->may_have_webhook = at > 0;
    w->openings = at > 0; /* what is sealed is there no more without a key */
    for (uint32_t i = 0; i < w->model->count; i++)
        w->has_unknown |= w->model->message[i].is_open_call || w->model->message[i].is_open_sweep;
    w->o.no_sweeps |= w->has_unknown; /* what they do to such a message is not known either */
}

MODEL void work_init(struct work *w, const struct work_options *o) {
    memset(w, 0, sizeof *w);
    w->o = *o;
    w->model = mem_zalloc(sizeof *w->model);
    w->random = 88172645463325252ull ^ (o->seed * 0x9e3779b97f4a7c15ull);
    w->now_wall_ms = 1800000000000;
    if (w->o.slots <= 0 || w->o.slots > WORK_SLOTS)
        w->o.slots = 1 + (int)work_random(w, WORK_SLOTS);
    w->box = mailbox_new();
    w->ledger = -1;
    w->shim_note = (shim_note_fn *)dlsym(RTLD_DEFAULT, "shim_note");
    if (o->ledger != NULL) {
        w->ledger = open(o->ledger, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (w->ledger < 0)
            abort();
        work_resume(w);
    }
}

MODEL void work_release(struct work *w) {
    work_close(w);
    mailbox_free(&w->box);
    if (w->ledger >= 0)
        close(w->ledger);
    free(w->model);
}
