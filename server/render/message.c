#include "server/render/message.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/render/value.h"

static const char *kind_name(enum recipient_kind k) {
    static const char *const names[] = {
        [RECIPIENT_TO] = "to", [RECIPIENT_CC] = "cc", [RECIPIENT_BCC] = "bcc"};
    ASSERT((size_t)k < sizeof(names) / sizeof(names[0]));
    return names[k];
}

static bool was_heard(const struct last_result *l) {
    return l->code != 0 || l->failure != FAILURE_NONE || !str_is_empty(l->text);
}

/* The words of the peer, or ours when there was none to speak. */
static void set_reply(json_t *o, const struct last_result *l) {
    json_object_set_new(o, "code", l->code != 0 ? json_integer(l->code) : json_null());
    json_object_set_new(o, "enhanced",
                        l->enhanced[0] != '\0' ? value_str(str_of(l->enhanced)) : json_null());
    struct str text = l->text;
    if (str_is_empty(text) && l->failure != FAILURE_NONE)
        text = str_of(failure_text(l->failure));
    json_object_set_new(o, "text", value_str(text));
    json_object_set_new(o, "mx", value_str(l->mx));
}

json_t *render_smtp(const struct last_result *l) {
    if (!was_heard(l))
        return NULL;
    json_t *o = json_object();
    set_reply(o, l);
    json_object_set_new(o, "tls", value_str(l->tls));
    return o;
}

json_t *render_refusal(const struct last_result *l) {
    if (!was_heard(l))
        return NULL;
    json_t *o = json_object();
    json_object_set_new(o, "class", json_string(verdict_class_name(l->class_)));
    json_object_set_new(o, "hard", json_boolean(l->is_hard));
    json_object_set_new(o, "scope",
                        json_string(l->is_about_recipient ? "recipient" : "infrastructure"));
    json_object_set_new(o, "stage", json_string(stage_name(l->stage)));
    set_reply(o, l);
    return o;
}

json_t *render_recipient(const struct recipient_row *r) {
    json_t *o = json_object();
    json_object_set_new(o, "email", value_str(r->email));
    json_object_set_new(o, "kind", json_string(kind_name(r->kind)));
    json_object_set_new(o, "state", json_string(recipient_shown_state(r)));
    json_object_set_new(o, "attempts", json_integer(r->attempts));
    if (r->state == RECIPIENT_QUEUED || r->state == RECIPIENT_SCHEDULED)
        value_set_time(o, "next_attempt_at", r->due_wall_ms);
    value_set_time(o, "updated_at", r->updated_wall_ms);
    if (r->possible_duplicate)
        json_object_set_new(o, "possible_duplicate", json_true());
    json_t *smtp = render_smtp(&r->last);
    if (smtp != NULL)
        json_object_set_new(o, "smtp", smtp);
    json_t *refusal = r->state != RECIPIENT_DELIVERED ? render_refusal(&r->last) : NULL;
    if (refusal != NULL)
        json_object_set_new(o, "refusal", refusal);
    return o;
}

/* What a recipient was when it was accepted. */
static enum recipient_state accepted_state(const struct recipient_row *r) {
    switch (r->state) {
    case RECIPIENT_SUPPRESSED: /* only ever decided at accept */
    case RECIPIENT_SCHEDULED:
        return r->state;
    default:
        return RECIPIENT_QUEUED;
    }
}

/* Without a tree of values: the answer that is given most often took a tenth of its thread. */
void render_accepted(const struct message_row *m, struct buf *out) {
    char id[ID_TEXT_SIZE], created[CLOCK_RFC3339_SIZE];
    struct recipient_row *then = mem_zalloc((m->recipient_count + 1) * sizeof(*then));
    for (size_t i = 0; i < m->recipient_count; i++)
        then[i].state = accepted_state(&m->recipient[i]);
    (void)buf_reserve(out, 512); /* most are shorter */
    id_print(&m->id, id);
    clock_print_rfc3339(m->created_wall_ms, created);
    value_put_member(out, "{\"id\":", str_of(id));
    value_put_member(out, ",\"message_id\":", m->message_id);
    value_put_member(out, ",\"state\":", str_of(message_state_name(then, m->recipient_count)));
    buf_put(out, STR(",\"recipients\":["));
    for (size_t i = 0; i < m->recipient_count; i++) {
        value_put_member(out, i > 0 ? ",{\"email\":" : "{\"email\":", m->recipient[i].email);
        value_put_member(out, ",\"state\":", str_of(recipient_shown_state(&then[i])));
        buf_putc(out, '}');
    }
    value_put_member(out, "],\"created_at\":", str_of(created));
    if (!str_is_absent(m->external_id))
        value_put_member(out, ",\"external_id\":", m->external_id);
    buf_putc(out, '}');
    free(then);
}

static json_t *from_of(const struct message_row *m) {
    json_t *from = json_object();
    json_object_set_new(from, "email", value_str(m->from_email));
    value_set_str(from, "name", m->from_name);
    return from;
}

static const char *tls_name(enum tls_level t) {
    return t == TLS_VERIFY ? "verify" : t == TLS_ENCRYPT ? "encrypt" : NULL;
}

static json_t *head_of(const struct message_row *m) {
    json_t *o = json_object();
    json_object_set_new(o, "id", value_id(&m->id));
    json_object_set_new(o, "message_id", value_str(m->message_id));
    if (m->recipient != NULL)
        json_object_set_new(o, "state",
                            json_string(message_state_name(m->recipient, m->recipient_count)));
    json_object_set_new(o, "from", from_of(m));
    json_object_set_new(o, "subject", value_str(m->subject));
    json_object_set_new(o, "created_at", value_time(m->created_wall_ms));
    value_set_time(o, "expires_at", m->expires_wall_ms);
    value_set_str(o, "external_id", m->external_id);
    value_set_stored(o, "tags", m->tags_json);
    value_set_stored(o, "metadata", m->metadata_json);
    json_object_set_new(o, "size_bytes", json_integer(m->size_bytes));
    return o;
}

json_t *render_message(const struct message_row *m) {
    json_t *o = head_of(m);
    json_object_set_new(o, "return_path", value_str(m->mail_from));
    value_set_str(o, "route", m->route);
    if (tls_name(m->tls) != NULL)
        json_object_set_new(o, "tls", json_string(tls_name(m->tls)));
    json_object_set_new(o, "stream", json_string(m->lane == LANE_BULK ? "bulk" : "transactional"));
    if (m->lane == LANE_HIGH)
        json_object_set_new(o, "priority", json_string("high"));
    json_object_set_new(o, "has_content", json_boolean(m->has_content));
    if (!id_is_zero(&m->retry_of))
        json_object_set_new(o, "retry_of", value_id(&m->retry_of));
    json_t *list = json_array();
    for (size_t i = 0; i < m->recipient_count && m->recipient != NULL; i++)
        json_array_append_new(list, render_recipient(&m->recipient[i]));
    json_object_set_new(o, "recipients", list);
    return o;
}

size_t render_message_bytes(const struct message_row *m) {
    enum { NAMES = 512 }; /* of the members, times, ids and numbers */
    size_t n = NAMES + m->message_id.n + m->from_email.n + m->from_name.n + m->subject.n +
               m->external_id.n + m->tags_json.n + m->metadata_json.n + m->mail_from.n + m->route.n;
    for (size_t i = 0; i < m->recipient_count && m->recipient != NULL; i++) {
        const struct recipient_row *r = &m->recipient[i];
        n += NAMES + r->email.n + 2 * (r->last.text.n + r->last.mx.n); /* smtp and refusal */
    }
    return n;
}

json_t *render_message_summary(const struct message_row *m) {
    json_t *o = head_of(m);
    json_object_set_new(o, "recipient_count", json_integer((json_int_t)m->recipient_count));
    json_t *list = json_array();
    for (size_t i = 0; i < m->recipient_count && m->recipient != NULL; i++) {
        json_t *r = json_object();
        json_object_set_new(r, "email", value_str(m->recipient[i].email));
        json_object_set_new(r, "state", json_string(recipient_shown_state(&m->recipient[i])));
        json_array_append_new(list, r);
    }
    json_object_set_new(o, "recipients", list);
    return o;
}

json_t *render_attempt(const struct attempt_row *a, const struct message_row *m) {
    json_t *o = json_object();
    json_object_set_new(o, "started_at", value_time(a->started_wall_ms));
    json_object_set_new(o, "took_ms", json_integer(a->took_ms));
    json_object_set_new(o, "host", value_str(a->host));
    json_object_set_new(o, "address", value_str(a->address));
    json_t *tls = json_null();
    if (!str_is_empty(a->tls_version)) {
        tls = json_object();
        json_object_set_new(tls, "version", value_str(a->tls_version));
        json_object_set_new(tls, "cipher", value_str(a->tls_cipher));
        json_object_set_new(tls, "verified", json_boolean(a->tls_verified));
    }
    json_object_set_new(o, "tls", tls);
    json_object_set_new(o, "transcript", value_str(a->transcript));
    json_t *list = json_array();
    for (size_t i = 0; i < a->recipient_count; i++) {
        const struct attempt_recipient *r = &a->recipient[i];
        json_t *v = json_object();
        json_object_set_new(v, "index", json_integer(r->index));
        if (m != NULL && r->index >= 0 && (size_t)r->index < m->recipient_count)
            json_object_set_new(v, "email", value_str(m->recipient[r->index].email));
        json_object_set_new(v, "outcome", json_string(verdict_action_name(r->action)));
        json_t *smtp = render_smtp(&r->result);
        if (smtp != NULL)
            json_object_set_new(v, "smtp", smtp);
        json_array_append_new(list, v);
    }
    json_object_set_new(o, "recipients", list);
    return o;
}
