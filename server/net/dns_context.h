/* dns_context: a libunbound context that asks whom the settings say. For dns only.
 *
 *     struct ub_ctx *ctx;
 *     if (dns_context_new(&upstream, true, &ctx, &info) == OK) ... ub_ctx_delete(ctx)
 *
 * Thread: any, but one makes or ends a context at a time: the library keeps one log for all.
 */
#pragma once

#include "server/base/err.h"

struct ub_ctx;

enum { DNS_ANCHOR_NAME_SIZE = 256 };

/* Strings are the owner's. Thread: immutable. */
struct dns_upstream {
    char *mode, *resolv_conf;
    char *hosts_file;  /* NULL: not used */
    char *anchor_file; /* NULL: none */
    char *hints_file;  /* of the root servers, for recursion; NULL: what the library knows */
    bool is_recursive;
};

/* That file, no file for "", the system's for NULL; the caller's. One of the system's that is not
 * there is its decision; one that was given is a mistake. */
char *dns_context_anchor_file(const char *given);
char *dns_context_hints_file(const char *given);
/* ERR_INVALID: names the setting that is wrong; it is NULL then, or what the library has set up by
 * halves and cannot free: the caller keeps it. */
NODISCARD enum err dns_context_new(const struct dns_upstream *u, bool validates,
                                   struct ub_ctx **out, struct errinfo *info);
/* "192.0.2.1,192.0.2.2@5353" */
NODISCARD enum err dns_context_check_addresses(const char *mode, struct errinfo *info);
/* The owner of the first record of the anchor's file: "." or, in tests, a zone of one's own. */
NODISCARD enum err dns_context_anchor_name(const char *file, char name[DNS_ANCHOR_NAME_SIZE],
                                           struct errinfo *info);
/* The file can be opened, and holds an address of a server. */
NODISCARD enum err dns_context_check_hints(const char *file, struct errinfo *info);
