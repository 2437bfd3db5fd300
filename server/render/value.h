/* value: rows to JSON values, the same way everywhere.
 *
 * The small words of every answer and every webhook: text that is made valid UTF-8 on the way,
 * times as RFC 3339 UTC, ids as text, and stored JSON taken over as it is. What a function returns
 * is one reference of the caller's; json_object_set_new() and json_array_append_new() take it over.
 *
 *     json_t *o = json_object();
 *     json_object_set_new(o, "id", value_id(&row->id));
 *     value_set_str(o, "external_id", row->external_id);   // absent: no member
 *     value_print(o, out);
 *     json_decref(o);
 *
 * Where memory is refused, a member is missing, a value is NULL, a text is cut off, and
 * mem_is_short() says so: whoever sends or stores what was printed asks that first.
 *
 * Thread: owner of the values.
 */
#pragma once

#include <jansson.h>

#include "server/base/buf.h"
#include "server/base/id.h"

json_t *value_str(struct str s); /* absent: null; bytes that are not UTF-8 become U+FFFD */
json_t *value_id(const struct id *id);
json_t *value_time(int64_t wall_ms); /* null: a time that cannot be printed */
/* Text that we stored as JSON before (tags, metadata); anything else: null. */
json_t *value_stored(struct str json);

/* Sets the member unless the text is absent. */
void value_set_str(json_t *object, const char *name, struct str s);
/* Sets the member unless it is 0. */
void value_set_time(json_t *object, const char *name, int64_t wall_ms);
void value_set_stored(json_t *object, const char *name, struct str json);

/* Compact JSON, members in the order in which they were set. */
void value_print(const json_t *v, struct buf *out);

/* `before`, which ends in the member's name and a colon, and then what value_str() would be. */
void value_put_member(struct buf *out, const char *before, struct str s);

/* Lists that are stored as JSON text: ["a","b"] and {"k":"v"}. Nothing is written for none. */
void value_print_strings(const struct str *list, size_t count, struct buf *out);
struct pair;
void value_print_pairs(const struct pair *list, size_t count, struct buf *out);
