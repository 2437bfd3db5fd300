#include "api/v1/submission.h"

#include "server/base/base64.h"
#include "server/base/buf.h"

/* What stands in for a value that was refused. */
static const struct address someone = {
    .email = {"a@invalid.invalid", 17}, .local = {"a", 1}, .domain = {"invalid.invalid", 15}};

/* ---- addresses ---- */

struct address_parts {
    struct str email, name;
};

static void read_part_email(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &((struct address_parts *)out)->email);
}

static void read_part_name(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &((struct address_parts *)out)->name);
}

static const struct json_field address_fields[] = {
    {"email", {"address"}, read_part_email},
    {"name", {NULL}, read_part_name},
};

static void read_address_object(const struct json_at *at, const struct json_node *v,
                                struct address *out) {
    struct address_parts parts = {0};
    struct errinfo info = {0};
    struct arena *a = json_arena(at);
    json_read_object(at, v, address_fields, sizeof(address_fields) / sizeof(address_fields[0]),
                     &parts);
    struct json_at email = json_member(at, "email"), name = json_member(at, "name");
    if (str_is_absent(parts.email)) {
        if (!json_has(v, "email") && !json_has(v, "address"))
            json_fault(&email, "required", "the address is missing");
        return;
    }
    struct address parsed;
    if (address_parse(&parsed, parts.email, a, &info) != OK) {
        json_fault(&email, "invalid_address", "%s", info.text);
        return;
    }
    if (!str_is_empty(parts.name) && address_set_name(&parsed, parts.name, a, &info) != OK) {
        json_fault(&name, "invalid_name", "%s", info.text);
        return;
    }
    *out = parsed;
}

enum room { FOR_ONE, FOR_SEVERAL }; /* in the field */

/* *out is always an address afterwards. */
static void read_one(const struct json_at *at, const struct json_node *v, enum room room,
                     struct address *out) {
    struct str text = STR("");
    struct errinfo info = {0};
    *out = someone;
    if (v->kind == JSON_IS_OBJECT) {
        read_address_object(at, v, out);
    } else if (v->kind == JSON_IS_STRING) {
        (void)json_read_str(at, v, &text);
        struct address parsed;
        if (address_parse_named(&parsed, text, json_arena(at), &info) == OK)
            *out = parsed;
        else if (room == FOR_SEVERAL && address_is_several(text))
            json_fault(at, "invalid_address",
                       "several addresses are given as an array, each in an element of its own");
        else
            json_fault(at, "invalid_address", "%s", info.text);
    } else {
        json_fault(at, "wrong_type", "an address is a string or an object with email and name");
    }
}

static void read_list(const struct json_at *at, const struct json_node *v,
                      struct address_list *out) {
    struct arena *a = json_arena(at);
    if (v->kind != JSON_IS_ARRAY) {
        out->list = ARENA_NEW(a, struct address);
        out->count = 1;
        read_one(at, v, FOR_SEVERAL, &out->list[0]);
        json_note_single(at);
        return;
    }
    if (!json_read_array(at, v, LIMIT_RECIPIENTS_MAX))
        return;
    out->list = ARENA_ARRAY(a, struct address, (size_t)v->count + 1);
    for (const struct json_node *each = v->first; each != NULL; each = each->next) {
        struct json_at here = json_element(at, out->count);
        read_one(&here, each, FOR_SEVERAL, &out->list[out->count++]);
    }
}

#define SUBMISSION ((struct submission *)out)

static void read_from(const struct json_at *at, const struct json_node *v, void *out) {
    if (v->kind != JSON_IS_ARRAY) {
        read_one(at, v, FOR_ONE, &SUBMISSION->from);
        return;
    }
    SUBMISSION->from = someone;
    if (v->count == 0)
        json_fault(at, "required", "the address is missing");
    else if (v->count > 1) /* which domain would sign, whose rights would count? (T11) */
        json_fault(at, "too_many", "a message is from one address, not %u", v->count);
    if (v->count != 1)
        return;
    struct json_at here = json_element(at, 0);
    read_one(&here, v->first, FOR_ONE, &SUBMISSION->from);
}

static void read_sender(const struct json_at *at, const struct json_node *v, void *out) {
    read_one(at, v, FOR_ONE, &SUBMISSION->sender);
}

static void read_to(const struct json_at *at, const struct json_node *v, void *out) {
    read_list(at, v, &SUBMISSION->to);
}

static void read_cc(const struct json_at *at, const struct json_node *v, void *out) {
    read_list(at, v, &SUBMISSION->cc);
}

static void read_bcc(const struct json_at *at, const struct json_node *v, void *out) {
    read_list(at, v, &SUBMISSION->bcc);
}

static void read_reply_to(const struct json_at *at, const struct json_node *v, void *out) {
    read_list(at, v, &SUBMISSION->reply_to);
}

/* ---- text ---- */

static void read_subject(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &SUBMISSION->subject);
}

static void read_text(const struct json_at *at, const struct json_node *v, void *out) {
    if (!json_read_content(at, v, &SUBMISSION->text))
        SUBMISSION->text = STR("");
}

static void read_html(const struct json_at *at, const struct json_node *v, void *out) {
    if (!json_read_content(at, v, &SUBMISSION->html))
        SUBMISSION->html = STR("");
}

/* ---- attachments ---- */

struct attachment_form {
    struct attachment *attachment;
    bool has_content, has_disposition, says_inline;
};
#define FORM ((struct attachment_form *)out)

static void read_filename(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &FORM->attachment->filename);
}

static void read_content(const struct json_at *at, const struct json_node *v, void *out) {
    struct str encoded;
    FORM->has_content = true;
    if (!json_read_content(at, v, &encoded))
        return;
    size_t size = base64_decoded_size(encoded);
    char *decoded = (char *)(uintptr_t)encoded.p; /* in its place: it is not held twice */
    if (base64_decode_to(encoded, decoded) == OK)
        FORM->attachment->content = str_make(decoded, size);
    else
        json_fault(at, "invalid_base64", "the content is not base64 (RFC 4648 4, with padding)");
}

static void read_type(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &FORM->attachment->content_type);
}

static void read_cid(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &FORM->attachment->cid);
}

static void read_disposition(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    if (!json_read_str(at, v, &s))
        return;
    FORM->has_disposition = true;
    FORM->says_inline = str_equal(s, STR("inline"));
    if (!FORM->says_inline && !str_equal(s, STR("attachment")))
        json_fault(at, "invalid_value", "this is \"attachment\" or \"inline\"");
}

static const struct json_field attachment_fields[] = {
    {"filename", {"name", "fileName"}, read_filename},    {"content", {NULL}, read_content},
    {"type", {"content_type", "contentType"}, read_type}, {"disposition", {NULL}, read_disposition},
    {"cid", {"content_id", "contentId"}, read_cid},
};

static void read_attachment(const struct json_at *at, const struct json_node *v,
                            struct attachment *out) {
    struct attachment_form form = {.attachment = out};
    size_t before = at->parent->parent->faults->count;
    json_read_object(at, v, attachment_fields,
                     sizeof(attachment_fields) / sizeof(attachment_fields[0]), &form);
    struct json_at content = json_member(at, "content");
    if (v->kind == JSON_IS_OBJECT && !form.has_content)
        json_fault(&content, "required", "the content is missing");
    out->is_inline = form.has_disposition ? form.says_inline : !str_is_absent(out->cid);
    struct json_at filename = json_member(at, "filename");
    if (at->parent->parent->faults->count == before && !out->is_inline &&
        str_is_absent(out->filename))
        json_fault(&filename, "required", "an attachment needs a file name");
}

static void read_attachments(const struct json_at *at, const struct json_node *v, void *out) {
    if (!json_read_array(at, v, LIMIT_ATTACHMENTS))
        return;
    SUBMISSION->attachments = ARENA_ARRAY(json_arena(at), struct attachment, (size_t)v->count + 1);
    for (const struct json_node *each = v->first; each != NULL; each = each->next) {
        struct json_at here = json_element(at, SUBMISSION->attachment_count);
        read_attachment(&here, each, &SUBMISSION->attachments[SUBMISSION->attachment_count++]);
    }
}

/* ---- header fields, tags, metadata ---- */

/* What was no string was refused, and is not to be refused again for what stands in its place. */
static void replace_refused(const struct json_node *v, struct str *list, size_t count,
                            struct str good) {
    if (v->kind != JSON_IS_ARRAY)
        return;
    const struct json_node *each = v->first;
    for (size_t i = 0; i < count && each != NULL; i++, each = each->next)
        if (each->kind != JSON_IS_STRING)
            list[i] = good;
}

static void add_header(const struct json_at *at, struct str name, const struct json_node *v,
                       struct submission *out) {
    struct header_field *field = &out->headers[out->header_count];
    field->name = name;
    if (json_read_str(at, v, &field->value))
        out->header_count++;
}

/* {"X-A": "1", "X-B": ["2", "3"]} */
static void read_headers(const struct json_at *at, const struct json_node *v, void *out) {
    size_t most = 0;
    if (v->kind != JSON_IS_OBJECT) {
        json_fault(at, "wrong_type", "header fields are an object: names and values");
        return;
    }
    for (const struct json_node *m = v->first; m != NULL; m = m->next)
        most += m->kind == JSON_IS_ARRAY && m->count > 0 ? m->count : 1;
    if (most > LIMIT_HEADERS) {
        json_fault(at, "too_many", "%zu header fields; at most %d are allowed", most,
                   (int)LIMIT_HEADERS);
        return;
    }
    SUBMISSION->headers = ARENA_ARRAY(json_arena(at), struct header_field, most + 1);
    for (const struct json_node *m = v->first; m != NULL; m = m->next) {
        struct json_at here = {.parent = at, .name = m->name};
        struct str name = arena_dup(json_arena(at), m->name);
        if (m->kind != JSON_IS_ARRAY) {
            add_header(&here, name, m, SUBMISSION);
            continue;
        }
        size_t i = 0;
        if (m->count == 0)
            json_fault(&here, "required", "the value is missing");
        for (const struct json_node *e = m->first; e != NULL; e = e->next) {
            struct json_at each = json_element(&here, i++);
            add_header(&each, name, e, SUBMISSION);
        }
    }
}

static void read_tags(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_strs(at, v, LIMIT_TAGS, &SUBMISSION->tags, &SUBMISSION->tag_count);
    replace_refused(v, SUBMISSION->tags, SUBMISSION->tag_count, STR("x"));
}

static void read_metadata(const struct json_at *at, const struct json_node *v, void *out) {
    if (v->kind != JSON_IS_OBJECT) {
        json_fault(at, "wrong_type", "metadata is an object of strings");
        return;
    }
    if (v->count > LIMIT_METADATA_PAIRS) {
        json_fault(at, "too_many", "%u pairs; at most %d are allowed", v->count,
                   (int)LIMIT_METADATA_PAIRS);
        return;
    }
    SUBMISSION->metadata = ARENA_ARRAY(json_arena(at), struct pair, (size_t)v->count + 1);
    for (const struct json_node *m = v->first; m != NULL; m = m->next) {
        struct json_at here = {.parent = at, .name = m->name};
        struct pair *p = &SUBMISSION->metadata[SUBMISSION->metadata_count];
        p->key = arena_dup(json_arena(at), m->name);
        if (json_read_str(&here, m, &p->value))
            SUBMISSION->metadata_count++;
    }
}

static void read_external_id(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &SUBMISSION->external_id);
}

/* ---- threading, delivery ---- */

static void read_in_reply_to(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &SUBMISSION->in_reply_to);
}

/* An array, or the text of the header field. */
static void read_references(const struct json_at *at, const struct json_node *v, void *out) {
    struct str text = STR_NONE;
    if (v->kind != JSON_IS_STRING) {
        (void)json_read_strs(at, v, LIMIT_REFERENCES, &SUBMISSION->references,
                             &SUBMISSION->reference_count);
        replace_refused(v, SUBMISSION->references, SUBMISSION->reference_count,
                        STR("<a@invalid.invalid>"));
        return;
    }
    (void)json_read_str(at, v, &text);
    json_note_single(at);
    SUBMISSION->references = ARENA_ARRAY(json_arena(at), struct str, LIMIT_REFERENCES + 1);
    while (!str_is_absent(text)) {
        struct str id = str_split(&text, ' ');
        if (id.n == 0)
            continue;
        if (SUBMISSION->reference_count > LIMIT_REFERENCES)
            break; /* submission_check() says that these are too many */
        SUBMISSION->references[SUBMISSION->reference_count++] = id;
    }
}

/* What is too long is for intake to say, which knows the server's limit. */
static void read_expires_in(const struct json_at *at, const struct json_node *v, void *out) {
    int64_t seconds;
    if (json_read_int(at, v, 1, INT64_MAX, &seconds))
        SUBMISSION->expires_in_ms = seconds < INT64_MAX / 1000 ? seconds * 1000 : INT64_MAX;
}

/* The stricter of the two wins. */
static void read_tls(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    if (!json_read_str(at, v, &s))
        return;
    enum tls_level level = str_equal(s, STR("encrypt"))  ? TLS_ENCRYPT
                           : str_equal(s, STR("verify")) ? TLS_VERIFY
                                                         : TLS_ROUTE_DEFAULT;
    if (level == TLS_ROUTE_DEFAULT)
        json_fault(at, "invalid_value", "this is \"encrypt\" or \"verify\"");
    if (level > SUBMISSION->tls)
        SUBMISSION->tls = level;
}

static void read_require_tls(const struct json_at *at, const struct json_node *v, void *out) {
    bool is_required = false;
    if (json_read_bool(at, v, &is_required) && is_required)
        SUBMISSION->tls = TLS_VERIFY;
}

static void read_route(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_str(at, v, &SUBMISSION->route);
}

static const struct json_field fields[] = {
    {"from", {NULL}, read_from},
    {"to", {NULL}, read_to},
    {"cc", {NULL}, read_cc},
    {"bcc", {NULL}, read_bcc},
    {"reply_to", {"replyTo"}, read_reply_to},
    {"sender", {NULL}, read_sender},
    {"subject", {NULL}, read_subject},
    {"text", {NULL}, read_text},
    {"html", {NULL}, read_html},
    {"attachments", {NULL}, read_attachments},
    {"headers", {NULL}, read_headers},
    {"tags", {NULL}, read_tags},
    {"metadata", {NULL}, read_metadata},
    {"external_id", {"externalId"}, read_external_id},
    {"expires_in", {"expiresIn"}, read_expires_in},
    {"in_reply_to", {"inReplyTo"}, read_in_reply_to},
    {"references", {NULL}, read_references},
    {"tls", {NULL}, read_tls},
    {"require_tls", {"requireTls", "requireTLS"}, read_require_tls},
    {"route", {NULL}, read_route},
};

void v1_submission_read(const struct json_node *root, struct faults *faults,
                        struct submission *out) {
    struct json_at top = {.faults = faults};
    json_read_object(&top, root, fields, sizeof(fields) / sizeof(fields[0]), out);
}
