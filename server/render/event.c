#include "server/render/event.h"

#include "server/render/message.h"
#include "server/render/value.h"

static json_t *recipient_of(const struct event_row *e) {
    json_t *r = json_object();
    json_object_set_new(r, "email", value_str(e->email));
    json_object_set_new(r, "state",
                        json_string(e->type == EVENT_RECIPIENT_DEFERRED
                                        ? "deferred"
                                        : recipient_state_name(e->state)));
    return r;
}

/* Which word goes with what was heard: an acceptance or a refusal. */
static void set_result(json_t *data, const struct event_row *e) {
    if (e->type == EVENT_RECIPIENT_DELIVERED) {
        json_t *smtp = render_smtp(&e->result);
        if (smtp != NULL)
            json_object_set_new(data, "smtp", smtp);
        return;
    }
    json_t *refusal = render_refusal(&e->result);
    if (refusal != NULL)
        json_object_set_new(data, "refusal", refusal);
}

static void set_message(json_t *data, const struct event_row *e) {
    if (!id_is_zero(&e->message_id))
        json_object_set_new(data, "message_id", value_id(&e->message_id));
    value_set_str(data, "external_id", e->external_id);
    value_set_str(data, "state", e->message_state);
}

static void set_recipient(json_t *data, const struct event_row *e) {
    json_object_set_new(data, "recipient", recipient_of(e));
    json_object_set_new(data, "final", json_boolean(event_type_is_final(e->type)));
    json_object_set_new(data, "seq", json_integer(e->recipient_seq));
    json_object_set_new(data, "attempt", json_integer(e->attempt));
    value_set_time(data, "next_attempt_at", e->next_attempt_wall_ms);
    if (e->is_late)
        json_object_set_new(data, "late", json_true());
    if (e->possible_duplicate)
        json_object_set_new(data, "possible_duplicate", json_true());
    set_result(data, e);
}

static void set_webhook(json_t *data, const struct event_row *e) {
    if (!id_is_zero(&e->webhook_id))
        json_object_set_new(data, "webhook_id", value_id(&e->webhook_id));
    value_set_str(data, "note", e->note);
}

json_t *render_event_value(const struct event_row *e) {
    json_t *data = json_object();
    set_message(data, e);
    if (e->recipient_index >= 0 && !str_is_absent(e->email))
        set_recipient(data, e);
    else
        json_object_set_new(data, "final", json_boolean(event_type_is_final(e->type)));
    set_webhook(data, e);
    value_set_stored(data, "tags", e->tags_json);
    value_set_stored(data, "metadata", e->metadata_json);

    json_t *v = json_object();
    json_object_set_new(v, "id", value_id(&e->id));
    json_object_set_new(v, "type", json_string(event_type_name(e->type)));
    json_object_set_new(v, "timestamp", value_time(e->wall_ms));
    json_object_set_new(v, "data", data);
    return v;
}

void render_event(const struct event_row *e, struct buf *out) {
    json_t *v = render_event_value(e);
    value_print(v, out);
    json_decref(v);
}
