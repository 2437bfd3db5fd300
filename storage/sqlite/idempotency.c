/* Idempotency keys: which message a request made that came before under the same key. */
#include "storage/sqlite/writer.h"

static const char another_use[] = "the key was used for another submission";

/* NULL, or why it is not as asked for; *message_seq != 0: it was made by this request. */
static const char *look(struct backend *b, const struct key_use *u, struct str key,
                        int64_t *message_seq) {
    const char *refusal = NULL;
    sqlite3_stmt *st = sq_use(&b->h, SQL_IDEMPOTENCY_GET);
    sq_bind_int(st, 1, u->project);
    sq_bind_str(st, 2, key);
    sq_bind_int(st, 3, u->wall_ms);
    if (sq_row(&b->h, st)) {
        struct str stored = sq_peek(st, 0);
        bool is_equal =
            stored.n == KEY_FINGERPRINT && memcmp(stored.p, u->fingerprint, stored.n) == 0;
        if (sqlite3_column_type(st, 1) == SQLITE_INTEGER && sq_int(st, 1) > 0)
            *message_seq = sq_int(st, 1);
        if (!is_equal)
            refusal = another_use;
        else if (*message_seq == 0) /* sent once, whatever it was: not again */
            refusal = "the key was used for a message that cannot be read any more";
    }
    sq_end(st);
    return refusal;
}

enum err key_use_find(struct backend *b, const struct key_use *u, struct errinfo *info,
                      int64_t *message_seq) {
    *message_seq = 0;
    if (str_is_absent(u->key))
        return OK;
    const char *refusal = look(b, u, u->key, message_seq);
    /* That of a test key begins with a space. Earlier versions stored it without one, where now
     * those of other keys are: there it is only when the request is the same. */
    if (refusal == NULL && *message_seq == 0 && u->key.n > 1 && u->key.p[0] == ' ') {
        refusal = look(b, u, str_from(u->key, 1), message_seq);
        if (refusal == another_use) {
            refusal = NULL;
            *message_seq = 0;
        }
    }
    return refusal != NULL ? err_set(info, ERR_CONFLICT, "Idempotency-Key", "%s", refusal)
                           : sq_status(&b->h, info);
}

enum err key_use_load(struct backend *b, int64_t project, int64_t message_seq, struct errinfo *info,
                      struct arena *a, struct message_row *out) {
    enum found found = message_load(&b->h, message_seq, a, out);
    if (found == FOUND && out->project != project)
        found = FOUND_DAMAGED; /* somebody else's */
    enum err e = sq_status(&b->h, info);
    if (e == OK && found != FOUND) /* sent once, whatever is known of it: not again */
        e = err_set(info, ERR_CONFLICT, "Idempotency-Key",
                    found == FOUND_DAMAGED
                        ? "the key was used for a message that cannot be read any more"
                        : "the key was used for a message that is no longer kept");
    return e;
}

void key_use_put(struct backend *b, const struct key_use *u, int64_t message_seq,
                 int64_t until_wall_ms) {
    if (str_is_absent(u->key))
        return;
    sqlite3_stmt *st = sq_use(&b->h, SQL_IDEMPOTENCY_PUT);
    sq_bind_int(st, 1, u->project);
    sq_bind_str(st, 2, u->key);
    sq_bind_blob(st, 3, u->fingerprint, KEY_FINGERPRINT);
    sq_bind_int(st, 4, message_seq);
    sq_bind_int(st, 5, until_wall_ms);
    sq_run(&b->h, st);
}
