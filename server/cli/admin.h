/* admin: speaks to the API as the administrator: over the control socket of the running server, or,
 * when no server holds the store, over one that it opens itself for as long as the command runs.
 *
 *     struct admin a;
 *     if (admin_open(o, env, false, &a, &info) == OK)
 *         admin_call(&a, "GET", "/v1/keys", NULL, &answer);
 *     admin_close(&a);
 *
 * So a command does the same, by the same code, whether or not a server runs. Thread: main.
 */
#pragma once

#include "server/cli/client.h"
#include "server/cli/settings.h"

#define ADMIN_OPTION_DATA                                                                          \
    { "data", 'd', OPTION_TEXT, "FOLDER", "the server's data; else as its settings say" }
#define ADMIN_OPTION_JSON                                                                          \
    { "json", 'j', OPTION_FLAG, NULL, "print the whole answer" }
#define ADMIN_OPTIONS ADMIN_OPTION_DATA, SETTINGS_OPTION_CONFIG, SETTINGS_OPTION_DEV

struct admin {
    struct settings settings;
    struct errinfo unread; /* why `settings` are not the server's; no text: they are */
    char socket_path[512];
    struct client client;
    struct seal *seal;
    struct store *store; /* NULL: a server answers */
    struct api *api;
};

/* ERR_INVALID: a setting; ERR_CONFLICT: a server holds the store and does not answer;
 * ERR_NOT_FOUND: there is no store, and `may_create` is false; ERR_UNAVAILABLE. Close in any case.
 */
NODISCARD enum err admin_open(const struct options *o, char *const *env, bool may_create,
                              struct admin *out, struct errinfo *info);
void admin_close(struct admin *a);
/* Of a listing that has several pages, the answer has all of them. */
void admin_call(const struct admin *a, const char *method, const char *path, const json_t *body,
                struct client_answer *answer);
/* What admin_open() said, on standard error; returns the exit code. */
int admin_fail(const char *command, enum err e, const struct errinfo *info);

/* A whole command: opens, does, closes; returns the exit code. `may_create`: as admin_open(). */
int admin_do(const struct options *o, char *const *env, const char *command, bool may_create,
             int (*act)(const struct admin *a, void *ctx), void *ctx);
/* A whole command that is one request: opens, asks, lets `show` print the answer (NULL: nothing),
 * closes; returns the exit code. `may_create`: as admin_open(). Takes the reference of `body`. */
int admin_run(const struct options *o, char *const *env, const char *command, bool may_create,
              const char *method, const char *path, json_t *body,
              int (*show)(const struct options *o, const json_t *answer));
/* Each of the answer's "data" by `print`, a line or more; the exit code. */
int admin_show_list(const json_t *answer, void (*print)(const json_t *one));
/* `word` with everything that is not unreserved percent-encoded, for a path (RFC 3986 2.3). */
void admin_put_path(struct buf *path, const char *word);
