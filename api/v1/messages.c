/* /v1/messages: what became of them, and what can still be done. */
#include "api/page.h"
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/digest.h"
#include "server/intake/submit.h"
#include "server/mail/address.h"
#include "server/render/event.h"
#include "server/render/message.h"
#include "server/render/value.h"

#define DEFERRED "deferred" /* shown, not stored: queued after an attempt */

static const char no_message[] = "there is no message with this id";

/* The id of the path, and no query but what is named. */
static bool read_id(struct request *r, struct id *id, const char *const *names, size_t count) {
    request_check_query(r, names, count);
    return v1_param_id(r, id) && v1_is_good(r);
}

/* ---- the list ---- */

static struct str filter_address(struct request *r, struct str name) {
    struct str text = request_query(r, name);
    struct address parsed;
    struct errinfo info = {0};
    if (str_is_absent(text))
        return STR_NONE;
    if (address_parse(&parsed, text, r->arena, &info) == OK)
        return parsed.email;
    faults_add(&r->faults, arena_printf(r->arena, "?%.*s", STR_ARG(name)), "invalid_address", "%s",
               info.text);
    return STR_NONE;
}

/* "scheduled, queued, …" */
static struct str print_states(struct arena *a) {
    struct str list = STR(DEFERRED);
    for (int s = RECIPIENT_STATE_COUNT - 1; s >= 0; s--)
        list = arena_printf(a, "%s, %.*s", recipient_state_name((enum recipient_state)s),
                            STR_ARG(list));
    return list;
}

static struct str filter_state(struct request *r) {
    struct str text = request_query(r, STR("state"));
    enum recipient_state state;
    if (!str_is_absent(text) && !str_equal(text, STR(DEFERRED)) &&
        recipient_state_parse(text, &state) != OK)
        faults_add(&r->faults, STR("?state"), "invalid_value", "this is one of %.*s",
                   STR_ARG(print_states(r->arena)));
    return text;
}

static struct str filter_text(struct request *r, struct str name, size_t most) {
    struct str text = request_query(r, name);
    if (!str_is_absent(text) && (text.n == 0 || text.n > most))
        faults_add(&r->faults, arena_printf(r->arena, "?%.*s", STR_ARG(name)), "out_of_range",
                   "1 to %zu octets", most);
    return text;
}

/* That a message may have; a setting that was lowered since is not looked back at. */
static size_t recipients_max(const struct request *r) {
    struct intake *intake = env_intake(r->env);
    size_t n = intake_settings_of(intake)->limits.recipients_max;
    intake_unref(&intake);
    return n;
}

static void listed(struct request *r, struct store_call *call) {
    struct store_messages *q = CONTAINER_OF(call, struct store_messages, call);
    if (!v1_is_done(r, call, no_message))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_message_summary(&q->message[i]));
    struct page_mark mark = {.seq = q->count > 0 ? q->message[q->count - 1].seq : 0};
    request_json(r, 200,
                 page_json(list, q->more ? page_print(PAGE_MESSAGES, &mark, r->arena) : STR_NONE));
    request_finish(r);
}

void v1_messages_list(struct request *r) {
    static const char *const names[] = {"limit", "after", "state",      "to",
                                        "from",  "tag",   "external_id"};
    struct store_messages *q = ARENA_NEW(r->arena, struct store_messages);
    struct page page;
    request_check_query(r, names, sizeof(names) / sizeof(names[0]));
    page_read(r, PAGE_MESSAGES, &page);
    q->project = r->identity.project;
    q->state = filter_state(r);
    q->to = filter_address(r, STR("to"));
    q->from = filter_address(r, STR("from"));
    q->tag = filter_text(r, STR("tag"), LIMIT_TAG);
    q->external_id = filter_text(r, STR("external_id"), LIMIT_EXTERNAL_ID);
    q->before_seq = page.after.seq;
    q->limit = page.limit;
    if (v1_is_good(r) && v1_has_room(r, &page, recipients_max(r)))
        request_store(r, &q->call, STORE_MESSAGES, listed);
}

/* ---- one message, and what belongs to it ---- */

/* There is memory for one that has every recipient it may have; else 503. */
static bool has_room_for_one(struct request *r) {
    if (request_set_aside(r, LIMIT_PAGE_ROW + recipients_max(r) * LIMIT_PAGE_RECIPIENT))
        return true;
    request_finish(r);
    return false;
}

static void read_message(struct request *r, const struct id *id,
                         void (*done)(struct request *r, struct store_call *call)) {
    struct store_message *q = ARENA_NEW(r->arena, struct store_message);
    q->id = *id;
    q->project = r->identity.project;
    request_store(r, &q->call, STORE_MESSAGE, done);
}

static void got(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_message))
        return;
    request_json(r, 200, render_message(&CONTAINER_OF(call, struct store_message, call)->message));
    request_finish(r);
}

void v1_message_get(struct request *r) {
    struct id id;
    if (read_id(r, &id, NULL, 0) && has_room_for_one(r))
        read_message(r, &id, got);
}

/* ---- events ---- */

static void events_read(struct request *r, struct store_call *call) {
    struct store_events *q = CONTAINER_OF(call, struct store_events, call);
    if (!v1_is_done(r, call, no_message))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_event_value(&q->event[i]));
    struct page_mark mark = {.seq = q->count > 0 ? q->event[q->count - 1].seq : 0};
    request_json(r, 200,
                 page_json(list, q->more ? page_print(PAGE_EVENTS, &mark, r->arena) : STR_NONE));
    request_finish(r);
}

/* A message that is not there has no events; that is told apart from one that has none left. */
static void events_of_found(struct request *r, struct store_call *call) {
    if (v1_is_done(r, call, no_message))
        request_store(r, &((struct store_events *)r->state)->call, STORE_EVENTS, events_read);
}

void v1_message_events(struct request *r) {
    static const char *const names[] = {"limit", "after"};
    struct store_events *q = ARENA_NEW(r->arena, struct store_events);
    struct page page;
    page_read(r, PAGE_EVENTS, &page);
    if (!read_id(r, &q->message_id, names, 2) || !v1_has_room(r, &page, 1) || !has_room_for_one(r))
        return;
    q->project = r->identity.project;
    q->after_seq = page.after.seq;
    q->limit = page.limit;
    r->state = q;
    read_message(r, &q->message_id, events_of_found);
}

/* ---- attempts ---- */

/* Thread: the request's. */
struct attempts {
    struct store_attempts read;
    struct message_row *addresses;
};

/* The recipients' addresses, kept from the message for its attempts. */
static struct message_row *keep_addresses(struct request *r, const struct message_row *m) {
    struct message_row *kept = ARENA_NEW(r->arena, struct message_row);
    kept->recipient_count = m->recipient_count;
    kept->recipient = ARENA_ARRAY(r->arena, struct recipient_row, m->recipient_count + 1);
    for (size_t i = 0; i < m->recipient_count; i++)
        kept->recipient[i].email = arena_dup(r->arena, m->recipient[i].email);
    return kept;
}

static void attempts_read(struct request *r, struct store_call *call) {
    const struct attempts *s = r->state;
    const struct store_attempts *q = &s->read;
    if (!v1_is_done(r, call, no_message))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_attempt(&q->attempt[i], s->addresses));
    struct page_mark mark = {.seq = q->count > 0 ? q->attempt[q->count - 1].seq : 0};
    request_json(r, 200,
                 page_json(list, q->more ? page_print(PAGE_ATTEMPTS, &mark, r->arena) : STR_NONE));
    request_finish(r);
}

static void attempts_of_found(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_message))
        return;
    struct attempts *s = r->state;
    s->addresses = keep_addresses(r, &CONTAINER_OF(call, struct store_message, call)->message);
    request_store(r, &s->read.call, STORE_ATTEMPTS, attempts_read);
}

void v1_message_attempts(struct request *r) {
    static const char *const names[] = {"limit", "after"};
    struct attempts *s = ARENA_NEW(r->arena, struct attempts);
    struct store_attempts *q = &s->read;
    struct page page;
    page_read(r, PAGE_ATTEMPTS, &page);
    if (!read_id(r, &q->message_id, names, 2) || !v1_has_room(r, &page, recipients_max(r)))
        return;
    q->project = r->identity.project;
    q->after_seq = page.after.seq;
    q->limit = page.limit;
    r->state = s;
    read_message(r, &q->message_id, attempts_of_found);
}

/* ---- the message itself ---- */

static void raw_read(struct request *r, struct store_call *call) {
    struct store_content *q = CONTAINER_OF(call, struct store_content, call);
    char id[ID_TEXT_SIZE];
    if (call->err == ERR_NOT_FOUND) {
        request_problem(r, PROBLEM_NOT_FOUND, "%s",
                        call->info.text[0] != '\0' ? call->info.text
                                                   : "there is no message with this id");
        request_finish(r);
        return;
    }
    if (!v1_is_done(r, call, no_message))
        return;
    id_print(&q->id, id);
    r->reply.status = 200;
    r->reply.content_type = "message/rfc822";
    r->reply.message = q->message; /* its reference is ours */
    q->message = NULL;
    http_reply_header(&r->reply, "Content-Disposition",
                      arena_printf(r->arena, "attachment; filename=\"%s.eml\"", id));
    request_finish(r);
}

/* Its size is known before it is read: many who ask for large messages at once get no more memory
 * than many who send some. */
static void raw_of_found(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_message))
        return;
    const struct message_row *m = &CONTAINER_OF(call, struct store_message, call)->message;
    struct store_content *q = ARENA_NEW(r->arena, struct store_content);
    if (!request_charge(r, (size_t)m->size_bytes)) {
        request_finish(r);
        return;
    }
    q->id = m->id;
    q->project = r->identity.project;
    request_store(r, &q->call, STORE_CONTENT, raw_read);
}

void v1_message_raw(struct request *r) {
    struct id id;
    if (read_id(r, &id, NULL, 0))
        read_message(r, &id, raw_of_found);
}

/* ---- cancel and retry ---- */

static bool may_use_sender(struct request *r, const struct message_row *m) {
    const struct rights rights = request_rights(r);
    struct domains *domains = env_domains(r->env);
    bool is_allowed = rights_allow_stored(&rights, domains, m->from_domain, m->mail_from);
    domains_unref(&domains);
    if (is_allowed)
        return true;
    request_problem(r, PROBLEM_FROM_NOT_ALLOWED, "this key may not send from %.*s by %.*s",
                    STR_ARG(m->from_domain), STR_ARG(m->mail_from));
    return false;
}

/* Who may not send a message may not decide about it either: neither stop it, nor send it again.
 * What a live key sent is real mail, which a test key cannot send. false: the problem is set. */
static bool may_decide(struct request *r, const struct message_row *m) {
    if (!may_use_sender(r, m))
        return false;
    if (!r->identity.is_test || keyring_is_test(r->keyring, &m->key_id))
        return true;
    request_problem(r, PROBLEM_FORBIDDEN,
                    "a test key cancels and sends again only what a test key sent");
    return false;
}

/* After the change it is too late to refuse the answer, which shows the message so many times. */
static bool can_answer(struct request *r, const struct message_row *m, size_t times) {
    if (request_promise_answer(r, times * render_message_bytes(m)))
        return true;
    request_finish(r);
    return false;
}

static void canceled(struct request *r, struct store_call *call) {
    static const char *const results[] = {
        [CANCEL_DONE] = "canceled", [CANCEL_TOO_LATE] = "too_late", [CANCEL_FINAL] = "final"};
    struct store_cancel *q = CONTAINER_OF(call, struct store_cancel, call);
    if (!v1_is_done(r, call, no_message))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->message.recipient_count; i++) {
        json_t *v = json_object();
        json_object_set_new(v, "email", value_str(q->message.recipient[i].email));
        json_object_set_new(v, "state",
                            json_string(recipient_shown_state(&q->message.recipient[i])));
        json_object_set_new(v, "result", json_string(results[q->result[i]]));
        json_array_append_new(list, v);
    }
    json_t *o = json_object();
    json_object_set_new(o, "id", value_id(&q->message.id));
    json_object_set_new(
        o, "state",
        json_string(message_state_name(q->message.recipient, q->message.recipient_count)));
    json_object_set_new(o, "recipients", list);
    request_json(r, 200, o);
    request_finish(r);
}

static void cancel_of_found(struct request *r, struct store_call *call) {
    struct store_cancel *q = r->state;
    if (!v1_is_done(r, call, no_message))
        return;
    const struct message_row *m = &CONTAINER_OF(call, struct store_message, call)->message;
    q->recipient_count = m->recipient_count;
    if (!may_decide(r, m))
        request_finish(r);
    else if (can_answer(r, m, 1))
        request_store(r, &q->call, STORE_CANCEL, canceled);
}

void v1_message_cancel(struct request *r) {
    struct store_cancel *q = ARENA_NEW(r->arena, struct store_cancel);
    if (!read_id(r, &q->id, NULL, 0) || !v1_read_nothing(r))
        return;
    q->project = r->identity.project;
    q->now_wall_ms = r->started_wall_ms;
    r->state = q;
    read_message(r, &q->id, cancel_of_found);
}

static void retried(struct request *r, struct store_call *call) {
    struct store_retry *q = CONTAINER_OF(call, struct store_retry, call);
    char id[ID_TEXT_SIZE];
    if (call->err == ERR_CONFLICT && strcmp(call->info.field, "Idempotency-Key") == 0) {
        v1_problem_reused(r, call);
        request_finish(r);
        return;
    }
    if (!v1_is_done(r, call, no_message))
        return;
    json_t *o = json_object();
    json_object_set_new(o, "message", render_message(&q->message));
    json_object_set_new(o, "new_message",
                        q->made_new ? render_message(&q->new_message) : json_null());
    request_json(r, 202, o);
    id_print(q->made_new ? &q->new_message.id : &q->message.id, id);
    http_reply_header(&r->reply, "Location", arena_printf(r->arena, "/v1/messages/%s", id));
    if (q->is_replay)
        http_reply_header(&r->reply, "Idempotency-Replayed", STR("true"));
    request_finish(r);
}

/* What is refused by now may have been done when it was asked for first: that stands. */
static void retry_asked(struct request *r, struct store_call *call) {
    if (call->err == ERR_NOT_FOUND) {
        request_finish(r);
        return;
    }
    http_reply_clear(&r->reply);
    retried(r, call);
}

/* Else the problem is set. */
static bool may_repeat(struct request *r, const struct message_row *m) {
    struct domains *domains = env_domains(r->env);
    struct intake *intake = env_intake(r->env);
    (void)submit_may_repeat(intake, domains, m, &r->faults);
    intake_unref(&intake);
    domains_unref(&domains);
    if (r->faults.count > 0)
        request_problem_faults(r, PROBLEM_VALIDATION_FAILED);
    return r->faults.count == 0;
}

static void retry_of_found(struct request *r, struct store_call *call) {
    struct store_retry *q = r->state;
    if (!v1_is_done(r, call, no_message))
        return;
    const struct message_row *m = &CONTAINER_OF(call, struct store_message, call)->message;
    q->recipient_count = m->recipient_count;
    q->asks_only = !may_decide(r, m) || !may_repeat(r, m);
    if (q->asks_only && str_is_absent(q->idempotency_key))
        request_finish(r);
    else if (q->asks_only)
        request_store(r, &q->call, STORE_RETRY, retry_asked);
    else if (can_answer(r, m, 2))
        request_store(r, &q->call, STORE_RETRY, retried);
}

/* Which message goes again is all that a retry says. */
static void fingerprint(const struct store_retry *q, uint8_t out[SHA256_BYTES]) {
    static const char what[] = "retry 1";
    struct sha256 *h = sha256_new();
    sha256_put(h, what, sizeof(what));
    sha256_put(h, q->id.b, sizeof(q->id.b));
    sha256_finish(&h, out);
}

void v1_message_retry(struct request *r) {
    struct store_retry *q = ARENA_NEW(r->arena, struct store_retry);
    q->idempotency_key = v1_idempotency_key(r);
    if (!read_id(r, &q->id, NULL, 0) || !v1_read_nothing(r))
        return;
    struct intake *intake = env_intake(r->env);
    const struct intake_settings *settings = intake_settings_of(intake);
    r->state = q;
    q->project = r->identity.project;
    q->new_id = id_new(r->started_wall_ms);
    q->now_wall_ms = r->started_wall_ms;
    q->expires_wall_ms = r->started_wall_ms + settings->expires_default_ms;
    q->idempotency_until_wall_ms = r->started_wall_ms + settings->idempotency_keep_ms;
    fingerprint(q, q->fingerprint);
    intake_unref(&intake);
    read_message(r, &q->id, retry_of_found);
}
