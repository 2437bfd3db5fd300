/* log: one line per decision, to standard error, as JSON or readable text.
 *
 * Whoever takes a decision logs it, once; lower floors return. A line has a level, the room that
 * speaks, a fixed message and fields. Values are escaped (control characters, bytes that are not
 * UTF-8) and cut at 512 bytes. Secrets, bodies and whole dialogues are never logged.
 *
 *     log_info("delivery", "delivered", LOG_ID("message", &id), LOG_INT("ms", ms),
 *              LOG_STR("site", site));
 *
 * Thread: any (a line is one write(2)).
 */
#pragma once

#include "server/base/id.h"
#include "server/base/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_field {
    const char *key; /* NULL ends the list */
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_ID } kind;
    struct str str;
    int64_t integer;
    const struct id *id;
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .str = (v)})
#define LOG_STRZ(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .str = str_of(v)})
#define LOG_INT(k, v)                                                                              \
    ((struct log_field){.key = (k), .kind = LOG_FIELD_INT, .integer = (int64_t)(v)})
#define LOG_ID(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_ID, .id = (v)})

void log_setup(enum log_level least,
               enum log_format format); /* before threads start, or at reload */
bool log_is_on(enum log_level level);
NODISCARD enum err log_parse_level(struct str s, enum log_level *out);
void log_write(enum log_level level, const char *room, const char *message,
               const struct log_field *fields);
/* One line with one number, from the handler of a signal that a call of the thread itself has
 * caused (a refused system call). Nothing is allocated; the C library's lock of the time zone is
 * taken for the date (gmtime_r), so that a signal that comes at any time, while its thread may hold
 * that lock, must not end here. */
void log_signal_safe(enum log_level level, const char *room, const char *message, const char *key,
                     int64_t value);
/* Formats one line (with its LF) without writing it; for tests and for captures. */
struct buf;
void log_format_line(struct buf *out, enum log_format format, enum log_level level, int64_t wall_ms,
                     const char *room, const char *message, const struct log_field *fields);

#define LOG_AT(level, room, message, ...)                                                          \
    (log_is_on(level) ? log_write((level), (room), (message),                                      \
                                  (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})       \
                      : (void)0)
#define log_debug(room, message, ...) LOG_AT(LOG_DEBUG, room, message, __VA_ARGS__)
#define log_info(room, message, ...) LOG_AT(LOG_INFO, room, message, __VA_ARGS__)
#define log_warn(room, message, ...) LOG_AT(LOG_WARN, room, message, __VA_ARGS__)
#define log_error(room, message, ...) LOG_AT(LOG_ERROR, room, message, __VA_ARGS__)
