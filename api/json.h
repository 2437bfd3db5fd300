/* json: a request's body as JSON, and reading it so that every fault is found at once (T15).
 *
 * json_body_parse() refuses what json_parse() refuses (json_tree.h). After that nothing is an
 * error: reading goes on, and each thing that is wrong becomes a fault with its pointer.
 *
 *     static const struct json_field fields[] = {{"url", {NULL}, read_url}, ...};
 *     struct json_at top = {.faults = &faults};
 *     json_read_object(&top, root, fields, 3, &wanted);
 *
 * A member with the value null is as good as none, but where `is_change` is set: there it would say
 * nothing, and is refused. Strings given out are in the arena of the
 * faults; those of json_read_content(), for what can be large, are in the body.
 *
 * Thread: owner.
 */
#pragma once

#include <jansson.h>

#include "api/json_tree.h"
#include "server/base/buf.h"
#include "server/mail/submission.h"

/* ERR_INVALID: `info` says what and where; ERR_UNAVAILABLE: no memory. The body is overwritten
 * (json_tree.h), nodes are in `a`. Forgets mem_is_short(), which what is read of the value may set
 * anew. */
NODISCARD enum err json_body_parse(struct buf *body, struct arena *a, struct json_node **out,
                                   struct errinfo *info);
/* Once, before threads: seeds the hash of objects that are written, and lets mem_is_short() know
 * what JSON lacks. */
void json_setup(void);

/* A place in the document; links live on the stack and become text only for a fault. */
struct json_at {
    const struct json_at *parent; /* NULL: the top */
    struct str name;              /* absent: an element */
    size_t index;
    struct faults *faults; /* of the top; others reach it through their parents */
    bool is_change;        /* of the top: members replace what is there (PATCH) */
};
struct json_at json_member(const struct json_at *parent, const char *name);
struct json_at json_element(const struct json_at *parent, size_t index);
/* Of the faults: where what is read from here can be kept. */
struct arena *json_arena(const struct json_at *at);
/* "#/to/0" (RFC 6901 6). In the arena of the faults. */
struct str json_pointer(const struct json_at *at);
void json_fault(const struct json_at *at, const char *code, const char *fmt, ...) PRINTF(3, 4);
/* One value stands there, where a list is usual: faults of its elements are told there. */
void json_note_single(const struct json_at *at);

typedef void (*json_read_fn)(const struct json_at *at, const struct json_node *v, void *out);
struct json_field {
    const char *name;
    const char *alias[3]; /* names that people guess */
    json_read_fn read;
};
/* Not an object: wrong_type. A member that no field takes: unknown_field. A field that is given
 * under two of its names: duplicate_field. */
void json_read_object(const struct json_at *at, const struct json_node *v,
                      const struct json_field *fields, size_t count, void *out);

/* Is there such a member, with a value other than null? */
bool json_has(const struct json_node *object, const char *name);

/* false: a fault was added, or there is no memory (mem_is_short()). */
bool json_read_str(const struct json_at *at, const struct json_node *v, struct str *out);
bool json_read_content(const struct json_at *at, const struct json_node *v, struct str *out);
bool json_read_bool(const struct json_at *at, const struct json_node *v, bool *out);
/* `most` INT64_MAX: no bound, or one that is known elsewhere. */
bool json_read_int(const struct json_at *at, const struct json_node *v, int64_t least, int64_t most,
                   int64_t *out);
bool json_read_array(const struct json_at *at, const struct json_node *v, size_t most);
/* An array of strings, or one string alone. false: those that are none are absent. */
bool json_read_strs(const struct json_at *at, const struct json_node *v, size_t most,
                    struct str **out, size_t *count);
