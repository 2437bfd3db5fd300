#include "server/base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"

enum { VALUE_BYTES = 512, LINE_BYTES = 64 * 1024 };

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug",
    [LOG_INFO] = "info",
    [LOG_WARN] = "warn",
    [LOG_ERROR] = "error",
};
static const char *const level_columns[] = {
    [LOG_DEBUG] = "DEBUG",
    [LOG_INFO] = "INFO ",
    [LOG_WARN] = "WARN ",
    [LOG_ERROR] = "ERROR",
};
enum { LEVEL_COUNT = sizeof(level_names) / sizeof(level_names[0]) };

static atomic_int least_level = LOG_INFO;
static atomic_int line_format = LOG_FORMAT_TEXT;

void log_setup(enum log_level least, enum log_format format) {
    atomic_store_explicit(&least_level, (int)least, memory_order_relaxed);
    atomic_store_explicit(&line_format, (int)format, memory_order_relaxed);
}

bool log_is_on(enum log_level level) {
    return (int)level >= atomic_load_explicit(&least_level, memory_order_relaxed);
}

enum err log_parse_level(struct str s, enum log_level *out) {
    for (unsigned i = 0; i < LEVEL_COUNT; i++) {
        if (str_equal_nocase(s, str_of(level_names[i]))) {
            *out = (enum log_level)i;
            return OK;
        }
    }
    return ERR_INVALID;
}

/* The code point of the well-formed character of n bytes at p. */
static uint32_t code_point(const char *p, size_t n) {
    static const uint8_t lead_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = (uint8_t)p[0] & lead_bits[n];
    for (size_t i = 1; i < n; i++)
        c = c << 6 | ((uint8_t)p[i] & 0x3Fu);
    return c;
}

/* What a reader of the log could be deceived with: controls of C0 and C1, DEL, the line separators
 * of Unicode, and what changes the direction of the text around it. */
static bool is_unsafe(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0x061C || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) || c == 0xFEFF;
}

/* At most VALUE_BYTES of `s`, whole characters where it has them. */
static struct str cut(struct str s) {
    if (s.n <= VALUE_BYTES)
        return s;
    size_t n = VALUE_BYTES;
    for (size_t back = 0; back < 3 && n > 0 && ((uint8_t)s.p[n] & 0xC0) == 0x80; back++)
        n--;
    return str_slice(s, 0, n);
}

/* Octets at the beginning that stand for themselves: most of what is logged. */
static size_t plain_run(struct str s) {
    size_t n = 0;
    while (n < s.n && s.p[n] >= ' ' && s.p[n] <= '~' && s.p[n] != '"' && s.p[n] != '\\')
        n++;
    return n;
}

/* By hand: strangers choose how many of these there are. What is unsafe has four digits. */
static void put_escape(struct buf *out, uint32_t c) {
    static const char hex[] = "0123456789abcdef";
    const char text[] = {'\\',       'u', hex[c >> 12 & 15], hex[c >> 8 & 15], hex[c >> 4 & 15],
                         hex[c & 15]};
    buf_put(out, str_make(text, sizeof text));
}

/* The same escapes serve both formats: "\u000a" inside of JSON strings and of quoted text. Bytes
 * that are no UTF-8 become U+FFFD each, as JSON can carry nothing else. */
static void put_escaped(struct buf *out, struct str s) {
    bool is_cut = s.n > VALUE_BYTES;
    s = cut(s);
    while (s.n > 0) {
        size_t plain = plain_run(s);
        buf_put(out, str_slice(s, 0, plain));
        s = str_from(s, plain);
        if (s.n == 0)
            break;
        size_t n = str_utf8_length(s);
        uint32_t c = n > 0 ? code_point(s.p, n) : 0xFFFD;
        if (n == 0 || is_unsafe(c)) {
            put_escape(out, c);
        } else {
            if (c == '"' || c == '\\')
                buf_putc(out, '\\');
            buf_put(out, str_slice(s, 0, n));
        }
        s = str_from(s, n > 0 ? n : 1);
    }
    if (is_cut)
        buf_put(out, STR("..."));
}

static void put_json_string(struct buf *out, struct str s) {
    buf_putc(out, '"');
    put_escaped(out, s);
    buf_putc(out, '"');
}

/* Bare when nobody can mistake where the value ends. */
static bool needs_quotes(struct str s) {
    if (s.n == 0 || s.n > VALUE_BYTES || !str_is_utf8(s))
        return true;
    for (; s.n > 0; s = str_from(s, str_utf8_length(s))) {
        uint32_t c = code_point(s.p, str_utf8_length(s));
        if (c == ' ' || c == '"' || c == '\\' || c == '=' || is_unsafe(c))
            return true;
    }
    return false;
}

static void put_value(struct buf *out, enum log_format format, const struct log_field *f) {
    char id[ID_TEXT_SIZE];
    struct str text = f->str;
    switch (f->kind) {
    case LOG_FIELD_INT:
        buf_printf(out, "%lld", (long long)f->integer);
        return;
    case LOG_FIELD_ID:
        text = STR_NONE;
        if (f->id != NULL) {
            id_print(f->id, id);
            text = str_make(id, ID_TEXT);
        }
        break;
    case LOG_FIELD_STR:
        break;
    }
    if (str_is_absent(text))
        buf_putz(out, format == LOG_FORMAT_JSON ? "null" : "-");
    else if (format == LOG_FORMAT_JSON || needs_quotes(text) || str_equal(text, STR("-")))
        put_json_string(out, text);
    else
        buf_put(out, text);
}

static void put_head_json(struct buf *out, enum log_level level, const char *ts, const char *room,
                          const char *message) {
    buf_printf(out, "{\"ts\":\"%s\",\"level\":\"%s\",\"room\":", ts, level_names[level]);
    put_json_string(out, str_of(room));
    buf_put(out, STR(",\"msg\":"));
    put_json_string(out, str_of(message));
}

static void put_head_text(struct buf *out, enum log_level level, const char *ts, const char *room,
                          const char *message) {
    buf_printf(out, "%.12s %s ", ts + 11, level_columns[level]);
    put_escaped(out, str_of(room));
    buf_put(out, STR(": "));
    put_escaped(out, str_of(message));
}

void log_format_line(struct buf *out, enum log_format format, enum log_level level, int64_t wall_ms,
                     const char *room, const char *message, const struct log_field *fields) {
    char ts[CLOCK_RFC3339_SIZE];
    clock_print_rfc3339(wall_ms, ts);
    bool json = format == LOG_FORMAT_JSON;
    (json ? put_head_json : put_head_text)(out, level, ts, room, message);
    for (const struct log_field *f = fields; f != NULL && f->key != NULL; f++) {
        buf_putz(out, json ? "," : " ");
        (json ? put_json_string : put_escaped)(out, str_of(f->key));
        buf_putc(out, json ? ':' : '=');
        put_value(out, format, f);
    }
    buf_putz(out, json ? "}\n" : "\n");
}

/* One write, so that lines of several threads never mix. When nobody can be told, nobody is. */
static void write_line(const char *p, size_t length) {
    ssize_t n;
    do {
        n = write(STDERR_FILENO, p, length);
    } while (n < 0 && errno == EINTR);
}

void log_signal_safe(enum log_level level, const char *room, const char *message, const char *key,
                     int64_t value) {
    char ts[CLOCK_RFC3339_SIZE], line[512];
    if (!log_is_on(level))
        return;
    clock_print_rfc3339(clock_wall_ms(), ts);
    /* The words are ours and need no escapes; printing words and numbers allocates nothing. */
    bool json = atomic_load_explicit(&line_format, memory_order_relaxed) == LOG_FORMAT_JSON;
    int n = json ? snprintf(line, sizeof line,
                            "{\"ts\":\"%s\",\"level\":\"%s\",\"room\":\"%s\",\"msg\":\"%s\","
                            "\"%s\":%lld}\n",
                            ts, level_names[level], room, message, key, (long long)value)
                 : snprintf(line, sizeof line, "%.12s %s %s: %s %s=%lld\n", ts + 11,
                            level_columns[level], room, message, key, (long long)value);
    if (n > 0 && (size_t)n < sizeof line)
        write_line(line, (size_t)n);
}

void log_write(enum log_level level, const char *room, const char *message,
               const struct log_field *fields) {
    int saved_errno = errno;
    struct buf line = BUF_INIT(LINE_BYTES);
    log_format_line(&line,
                    (enum log_format)atomic_load_explicit(&line_format, memory_order_relaxed),
                    level, clock_wall_ms(), room, message, fields);
    ASSERT(buf_status(&line) == OK); /* a fixed message and a handful of values of 512 bytes */
    write_line(line.p, line.n);
    buf_release(&line);
    errno = saved_errno;
}
