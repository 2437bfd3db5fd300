#include "storage/sqlite/result.h"

#include "server/base/limits.h"

enum { VERSION = 1 };
enum { FLAG_HARD = 1, FLAG_RECIPIENT = 2 };
enum { ABSENT = 0 }; /* a length is stored plus one */

bool result_is_empty(const struct last_result *r) {
    return r->code == 0 && r->failure == FAILURE_NONE && r->class_ == CLASS_NONE && r->text.n == 0;
}

static void put_number(struct buf *out, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        buf_putc(out, (char)(v | 0x80));
    buf_putc(out, (char)v);
}

static void put_text(struct buf *out, struct str s) {
    if (s.n > LIMIT_REPLY_STORED)
        s.n = LIMIT_REPLY_STORED;
    put_number(out, str_is_absent(s) ? ABSENT : s.n + 1);
    buf_put(out, s);
}

struct input {
    struct str rest;
    bool failed;
};

static uint64_t get_number(struct input *in, uint64_t most) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 63 && in->rest.n > 0; shift += 7) {
        uint8_t b = (uint8_t)in->rest.p[0];
        in->rest = str_from(in->rest, 1);
        v |= (uint64_t)(b & 0x7F) << shift;
        if ((b & 0x80) == 0) {
            if (v <= most)
                return v;
            break;
        }
    }
    in->failed = true;
    return 0;
}

static struct str get_text(struct input *in, struct arena *a) {
    uint64_t n = get_number(in, LIMIT_REPLY_STORED + 1);
    if (n == ABSENT || in->failed)
        return STR_NONE;
    if (n - 1 > in->rest.n) {
        in->failed = true;
        return STR_NONE;
    }
    struct str s = arena_dup(a, str_slice(in->rest, 0, (size_t)n - 1));
    in->rest = str_from(in->rest, (size_t)n - 1);
    return s;
}

static void put_result(struct buf *out, const struct last_result *r) {
    put_number(out, (r->is_hard ? FLAG_HARD : 0u) | (r->is_about_recipient ? FLAG_RECIPIENT : 0u));
    put_number(out, (uint64_t)r->class_);
    put_number(out, (uint64_t)r->stage);
    put_number(out, (uint64_t)r->failure);
    put_number(out, (uint64_t)(r->code > 0 ? r->code : 0));
    put_text(out, str_make(r->enhanced, strnlen(r->enhanced, sizeof(r->enhanced) - 1)));
    put_text(out, r->text);
    put_text(out, r->mx);
    put_text(out, r->tls);
}

static void get_result(struct input *in, struct arena *a, struct last_result *r) {
    *r = (struct last_result){0};
    uint64_t flags = get_number(in, UINT8_MAX);
    r->is_hard = (flags & FLAG_HARD) != 0;
    r->is_about_recipient = (flags & FLAG_RECIPIENT) != 0;
    r->class_ = (enum verdict_class)get_number(in, CLASS_COUNT - 1);
    r->stage = (enum stage)get_number(in, STAGE_COUNT - 1);
    r->failure = (enum failure)get_number(in, FAILURE_COUNT - 1);
    r->code = (int)get_number(in, 999);
    struct str enhanced = get_text(in, a);
    if (enhanced.n >= sizeof(r->enhanced))
        in->failed = true;
    else if (enhanced.n > 0)
        memcpy(r->enhanced, enhanced.p, enhanced.n);
    r->text = get_text(in, a);
    r->mx = get_text(in, a);
    r->tls = get_text(in, a);
}

void result_pack(struct buf *out, const struct last_result *r) {
    put_number(out, VERSION);
    put_result(out, r);
}

enum err result_unpack(struct str in, struct arena *a, struct last_result *out) {
    *out = (struct last_result){0};
    if (str_is_absent(in))
        return OK;
    struct input i = {.rest = in};
    if (get_number(&i, VERSION) != VERSION)
        return ERR_INVALID;
    get_result(&i, a, out);
    return i.failed || i.rest.n != 0 ? ERR_INVALID : OK;
}

void attempt_recipients_pack(struct buf *out, const struct attempt_row *a) {
    put_number(out, VERSION);
    put_number(out, a->recipient_count);
    for (size_t i = 0; i < a->recipient_count; i++) {
        put_number(out, (uint64_t)a->recipient[i].index);
        put_number(out, (uint64_t)a->recipient[i].action);
        put_result(out, &a->recipient[i].result);
    }
}

enum err attempt_recipients_unpack(struct str in, struct arena *a, struct attempt_row *out) {
    struct input i = {.rest = in};
    if (get_number(&i, VERSION) != VERSION)
        return ERR_INVALID;
    out->recipient_count = (size_t)get_number(&i, RECIPIENT_KEY_SPAN);
    out->recipient = ARENA_ARRAY(a, struct attempt_recipient, out->recipient_count);
    for (size_t k = 0; k < out->recipient_count && !i.failed; k++) {
        out->recipient[k].index = (int)get_number(&i, RECIPIENT_KEY_SPAN - 1);
        out->recipient[k].action = (enum verdict_action)get_number(&i, VERDICT_FAILED);
        get_result(&i, a, &out->recipient[k].result);
    }
    return i.failed || i.rest.n != 0 ? ERR_INVALID : OK;
}
