/* client: how a command speaks with the API of a running server, and how it shows its answers.
 *
 *     struct client c = {.url = "http://127.0.0.1:8025", .key = key};
 *     struct client_answer a;
 *     client_call(&c, "POST", "/v1/keys", body, NULL, 10000, &a);
 *     if (client_is_success(&a)) ... a.json ...
 *     else code = client_fail("key create", &a);
 *     client_answer_release(&a);
 *
 * Thread: main; it waits.
 */
#pragma once

#include <jansson.h>

#include "server/cli/cli.h"
#include "server/net/httpc_sync.h"

struct client {
    const char *url;         /* without a final '/' */
    const char *socket_path; /* NULL: TCP. A control socket asks for no key */
    struct str key;          /* absent: none is sent */
    const char *ca_file;     /* NULL: the system's */
};

struct client_answer {
    struct httpc_sync_result http;
    json_t *json; /* NULL: the body is none */
};

/* `body` may be NULL; `headers` (NULL-terminated, or NULL) are added. Release in any case. */
void client_call(const struct client *c, const char *method, const char *path, const json_t *body,
                 const char *const *headers, int64_t timeout_ms, struct client_answer *a);
void client_answer_release(struct client_answer *a);

bool client_is_success(const struct client_answer *a);
/* Nobody answered, or only with "not now" (429, 5xx): the same request may succeed later. */
bool client_may_try_again(const struct client_answer *a);
/* Says on standard error what went wrong: the problem's words and each of its errors. Returns the
 * exit code: CLI_FAILED when the server refused, CLI_UNREACHABLE otherwise. */
int client_fail(const char *command, const struct client_answer *a);

/* A member of an object as text; `fallback` when it is absent or no text. */
const char *client_text(const json_t *object, const char *name, const char *fallback);
/* A value as indented JSON and a line end on standard output. */
int client_print(const json_t *v);
