#include "api/page.h"

#include "server/base/base64.h"
#include "server/base/limits.h"
#include "server/render/value.h"

enum { SEQ_BYTES = 8 };

static bool is_by_id(enum page_kind kind) {
    return kind == PAGE_CAPTURES || kind == PAGE_KEYS || kind == PAGE_DOMAINS;
}

struct str page_print(enum page_kind kind, const struct page_mark *mark, struct arena *a) {
    uint8_t bytes[1 + ID_BYTES] = {(uint8_t)kind};
    size_t n = 1;
    if (is_by_id(kind)) {
        memcpy(bytes + 1, mark->id.b, ID_BYTES);
        n += ID_BYTES;
    } else {
        for (size_t i = 0; i < SEQ_BYTES; i++)
            bytes[1 + i] = (uint8_t)((uint64_t)mark->seq >> (8 * (SEQ_BYTES - 1 - i)));
        n += SEQ_BYTES;
    }
    struct buf b = BUF_INIT(64);
    base32_encode(str_make(bytes, n), &b);
    struct str text = arena_dup(a, buf_str(&b));
    buf_release(&b);
    return text;
}

static enum err parse_bytes(struct str bytes, enum page_kind kind, struct page_mark *out) {
    size_t wanted = 1 + (is_by_id(kind) ? ID_BYTES : SEQ_BYTES);
    if (bytes.n != wanted || bytes.p[0] != (char)kind)
        return ERR_INVALID;
    *out = (struct page_mark){0};
    if (is_by_id(kind)) {
        memcpy(out->id.b, bytes.p + 1, ID_BYTES);
        return id_is_zero(&out->id) ? ERR_INVALID : OK;
    }
    uint64_t seq = 0;
    for (size_t i = 0; i < SEQ_BYTES; i++)
        seq = seq << 8 | (uint8_t)bytes.p[1 + i];
    if (seq == 0 || seq > INT64_MAX)
        return ERR_INVALID;
    out->seq = (int64_t)seq;
    return OK;
}

enum err page_parse(struct str text, enum page_kind kind, struct page_mark *out) {
    struct buf b = BUF_INIT(64);
    enum err e = base32_decode(text, &b);
    if (e == OK)
        e = parse_bytes(buf_str(&b), kind, out);
    buf_release(&b);
    return e == OK ? OK : ERR_INVALID;
}

void page_read(struct request *r, enum page_kind kind, struct page *out) {
    struct str limit = request_query(r, STR("limit"));
    struct str after = request_query(r, STR("after"));
    uint64_t n = PAGE_DEFAULT;
    *out = (struct page){.has_after = !str_is_absent(after)};
    if (!str_is_absent(limit) && (str_parse_u64(limit, LIMIT_PAGE, &n) != OK || n == 0))
        faults_add(&r->faults, STR("?limit"), "out_of_range", "this is a number from 1 to %d",
                   (int)LIMIT_PAGE);
    if (out->has_after && page_parse(after, kind, &out->after) != OK)
        faults_add(&r->faults, STR("?after"), "invalid_cursor",
                   "this is not a cursor of this listing");
    out->limit = (size_t)n;
}

bool page_set_aside(struct request *r, const struct page *page, size_t recipients) {
    return request_set_aside_page(r, page->limit *
                                         (LIMIT_PAGE_ROW + recipients * LIMIT_PAGE_RECIPIENT));
}

json_t *page_json(json_t *list, struct str after) {
    json_t *o = json_object();
    json_object_set_new(o, "data", list);
    json_object_set_new(o, "after", value_str(after));
    return o;
}
