/* httpc_state: what the files of httpc share; nobody else includes it.
 *
 *   httpc.c       requests, names, the end of a transfer
 *   httpc_curl.c  one transfer with libcurl: what it is told, what it asks
 *
 * Thread: owner loop.
 */
#pragma once

#include <sys/queue.h>

#include "server/base/buf.h"
#include "server/net/httpc.h"

enum {
    HTTPC_ADDRESSES_MAX = 16, /* of one name that are checked; a name with more is refused */
    HTTPC_TRIES_MAX = 3,
};

struct curl_slist;
struct transfer;

/* Thread: owner loop. */
struct httpc {
    struct loop *loop;
    struct dns *dns;
    const struct guard *guard;
    char *ca_file;
    size_t parallel_max, running;
    void *multi;           /* a CURLM */
    struct timer *timer;   /* curl's */
    struct timer *starter; /* begins what waits, from the loop */
    TAILQ_HEAD(transfers, transfer) transfers, waiting;
};

struct name_query {
    struct dns_query q;
    struct transfer *t;
};

/* One request:  waiting -> (names asked) -> (curl runs, an address at a time) -> done, freed.
 * A transfer whose client is gone (`h` NULL) waits only for its dns answers. */
struct transfer {
    TAILQ_ENTRY(transfer) link;
    struct httpc *h;
    struct loop *loop;
    struct arena *arena;
    struct httpc_request r; /* strings in the arena; the body is the caller's */
    void (*done)(void *arg, const struct httpc_result *res);
    void *arg;
    struct url url;
    struct loop_hold hold;
    bool is_running; /* counted in h->running */
    struct timer *timeout;
    int64_t start_mono_ms;
    enum failure early; /* found inside httpc_send */
    struct name_query a, aaaa;
    int names_open;
    struct sockaddr_any addr[HTTPC_ADDRESSES_MAX];
    size_t addr_count, addr_at;
    void *easy; /* a CURL; NULL: not with curl */
    struct curl_slist *headers, *connect_to;
    char error[256]; /* CURL_ERROR_SIZE */
    struct buf body;
    size_t header_bytes;
    bool is_header_whole; /* its empty line came */
    bool is_truncated, is_denied;
    bool had_grace; /* its time is over */
    bool is_short;  /* libcurl, or we, had no memory for something of it */
    struct httpc_result res;
    char text[320];
};

/* httpc.c */
/* Tells the owner and lets go. From the loop, never from inside httpc_send. */
void httpc_finish(struct transfer *t, enum failure failure, const char *text);

/* httpc_curl.c */
void httpc_curl_open(struct httpc *h);
void httpc_curl_close(struct httpc *h);
void httpc_curl_timer(void *arg); /* h->timer has passed */
/* Begins at addr[addr_at]; httpc_finish() follows. */
void httpc_curl_begin(struct transfer *t);
void httpc_curl_leave(struct transfer *t);
/* Which address curl is or was at. */
void httpc_curl_note_address(struct transfer *t);
bool httpc_curl_is_connected(const struct transfer *t);
