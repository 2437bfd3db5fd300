/* T22: whatever a value holds, the line is one JSON object with one line end, and the value reads
 * back (what is not UTF-8 or too long is marked, not passed on). So do the octets of strangers that
 * the API shows: a server's words, the mail and the requests that the sandbox took. */
#include <jansson.h>

#include "server/base/buf.h"
#include "server/base/log.h"
#include "server/render/capture.h"
#include "server/render/value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUT = 512, SHOWN = 64 /* each octet is printed by itself */ };

static struct buf line = BUF_INIT(1 << 16);

static void check_line(enum log_format format, const struct log_field *fields) {
    buf_clear(&line);
    log_format_line(&line, format, LOG_WARN, 0, "room", "message", fields);
    ASSERT(buf_status(&line) == OK && line.n > 1 && line.p[line.n - 1] == '\n');
    struct str text = str_make(line.p, line.n - 1);
    ASSERT(str_is_utf8(text) && !str_has_control(text, false));
}

static struct str text_of(const json_t *v) {
    ASSERT(json_is_string(v));
    struct str s = str_make(json_string_value(v), json_string_length(v));
    ASSERT(str_is_utf8(s));
    return s;
}

static void check_shown(struct str text) {
    static struct buf out = BUF_INIT(1 << 16);
    json_t *v = value_str(text);
    if (str_is_absent(text))
        ASSERT(json_is_null(v));
    else if (str_is_utf8(text))
        ASSERT(str_equal(text_of(v), text));
    else
        ASSERT(str_find(text_of(v), STR("\xEF\xBF\xBD")) >= 0);
    json_decref(v);
    const struct received m = {.helo = text,
                               .mail_from = text,
                               .rcpt = &text,
                               .rcpt_count = 1,
                               .data = text,
                               .peer = "[::1]:25"};
    buf_clear(&out);
    render_capture_message(&m, &out);
    v = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_object(v));
    struct str helo = text_of(json_object_get(v, "helo"));
    ASSERT(!str_is_utf8(text) || str_equal(helo, text));
    ASSERT(str_equal(text_of(json_array_get(json_object_get(v, "rcpt_to"), 0)), helo));
    const struct capture_header header = {.name = STR("X-Name"), .value = text};
    buf_clear(&out);
    render_capture_webhook(text, &header, 1, text.n, &out);
    json_t *w = json_loadb(out.p, out.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_object(w) && str_equal(text_of(json_object_get(w, "path")), helo));
    ASSERT(str_equal(text_of(json_object_get(json_object_get(w, "headers"), "x-name")), helo));
    json_decref(w);
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* one is short, so that the other is cut before the input is long */
    size_t cut = size % 2 == 0 ? size / 8 : size - size / 8;
    struct str first = str_make(data ? (const void *)data : "", cut),
               second = str_make(first.p + first.n, size - cut);
    static const struct id id = {{1, 2, 3}};
    const struct log_field fields[] = {
        LOG_STR("a", first),   LOG_INT("n", -1),          LOG_STR("b", second),  LOG_ID("id", &id),
        LOG_ID("no_id", NULL), LOG_STR("none", STR_NONE), LOG_STRZ("dash", "-"), {0}};
    check_line(LOG_FORMAT_TEXT, fields);
    check_line(LOG_FORMAT_JSON, fields);
    json_t *o = json_loadb(line.p, line.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_object(o) && json_object_size(o) == 11);
    json_t *b = json_object_get(o, "b");
    ASSERT(json_is_string(b));
    struct str got = str_make(json_string_value(b), json_string_length(b));
    if (second.n <= CUT && str_is_utf8(second))
        ASSERT(str_equal(got, second));
    ASSERT(json_integer_value(json_object_get(o, "n")) == -1);
    ASSERT(json_is_null(json_object_get(o, "none")) && json_is_null(json_object_get(o, "no_id")));
    ASSERT(json_string_length(json_object_get(o, "id")) == ID_TEXT);
    json_decref(o);
    check_shown(second.n > 0 ? str_slice(second, 0, second.n < SHOWN ? second.n : SHOWN)
                             : STR_NONE);
    return 0;
}
