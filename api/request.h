/* request: one HTTP request on its way through a loop, and what handlers work with.
 *
 * A handler gets a request that is complete, authenticated and within the limits of its row in the
 * table. It answers with request_json() or request_problem() and then request_finish(), at once or
 * later: what it asks of others (store, workers, keeper) is answered in the mailbox of the
 * request's loop, and the connection waits meanwhile. Whatever the client does, the request lives
 * until it was finished: a client that went away is noticed when the answer is written.
 *
 *     static void handle(struct request *r) {
 *         struct store_message *q = ARENA_NEW(r->arena, struct store_message);
 *         q->id = id;
 *         request_store(r, &q->call, STORE_MESSAGE, answered);
 *     }
 *     static void answered(struct request *r, struct store_call *call) { ...; request_finish(r); }
 *
 * Thread: owner loop.
 */
#pragma once

#include "api/env.h"
#include "api/reply.h"
#include "api/routes.h"
#include "server/intake/rights.h"

struct wait;
struct waits;

enum {
    REQUEST_FREE_REPLY = 64 * 1024, /* of which all connections together may hold one each */
    REQUEST_FREE_READ = 64 * 1024,  /* the same of what was made of its header and body */
    REQUEST_PAUSE_MS = 250,         /* to twice that, before who asks too often is told so */
};

struct request_field {
    struct str name, value;
};

/* What the HTTP side lets in. Thread: owner loop (each has a copy). */
struct request_limits {
    size_t body_max_bytes, memory_max_bytes;
};

struct request {
    struct env *env;
    struct mailbox *box; /* of its loop */
    struct arena *arena;
    struct id id;
    int64_t started_wall_ms, started_mono_us;

    /* the request line and header; in the arena */
    struct str method, target, version;
    struct str path; /* as it came */
    struct request_field *query;
    size_t query_count;
    struct request_field *header;
    size_t header_count;
    bool is_head;

    const struct route *route;
    struct str param[ROUTE_PARAMS]; /* decoded */
    struct identity identity;
    struct key_rate_left rate; /* quota 0: the key has none */
    bool is_control;           /* came over the control socket */
    struct route_view view;

    struct arena *scratch; /* of its loop: for what ends with the turn */
    struct buf body;
    size_t body_max_bytes;
    size_t body_announced_bytes; /* by Content-Length; 0: it was not said */
    size_t memory_max_bytes;     /* the budget of all requests, of which it was charged, by this
                                    key: */
    size_t charged_bytes;
    size_t aside_bytes; /* of these, what was set aside for the answer */
    size_t page_bytes;  /* and what pages share */
    bool is_promised;   /* the answer is not taken back for want of memory */
    struct id charged_key_id;

    struct http_reply reply;
    struct faults faults;

    /* snapshots: one reference each, NULL until needed */
    struct keyring *keyring;

    bool is_finished;
    bool is_slowed; /* it is refused, and that is said after a pause */
    /* Set by who runs the loop: the connection is woken when the request is finished later. */
    void (*wake)(struct request *r);
    void *connection;
    /* Set while a handler waits for something that may take long; called when the server drains or
     * the client went away: it finishes the request soon. */
    void (*hurry)(struct request *r);
    struct waits *waits; /* of its loop */
    struct wait *wait;   /* NULL: it does not wait for a message */
    struct pause *pause; /* NULL: it does not pause */
    void *state;         /* the handler's */

    /* a store call under way */
    void (*store_done)(struct request *r, struct store_call *call);
    void (*work_run)(struct request *r);
    void (*work_done)(struct request *r);
    struct work work;
    void (*load_done)(struct request *r, enum err err);
    struct keeper_load load;
};

/* `target` as it stands in the request line. */
struct request *request_new(struct env *env, struct mailbox *box, struct str target);
void request_free(struct request **rp);

/* ---- before the handler; each returns false when the reply is set and the request is over ---- */

/* Reads path and query from the target. */
bool request_parse_target(struct request *r);
/* Refuses what two parsers could read differently (T18, RFC 9112 6.3, 5.1). The connection is
 * closed. */
bool request_check_framing(struct request *r);
/* Route, key, scope, media types, size as announced, memory. */
bool request_admit(struct request *r, const struct request_limits *limits);
/* A piece of the body. ERR_LIMIT: larger than its route allows; ERR_AGAIN: no memory for it. In
 * both cases the reply is set, and what follows is to be thrown away. */
NODISCARD enum err request_add_body(struct request *r, struct str piece);
/* 400, and the connection is closed: who sends this is not understood. Always false. */
bool request_invalid(struct request *r, const char *why);
/* Once more, when the body is there: it may have taken longer than the key was good for. */
bool request_is_still_allowed(struct request *r);
/* Gives the body's memory back, as soon as nothing points into it. It stays charged: other forms of
 * it take its place. */
void request_drop_body(struct request *r);
/* Sets aside memory for what an outsider chose the size of, until the request is over (T16). false:
 * there is none; the problem is set. */
bool request_charge(struct request *r, size_t n);
/* Charges for what was made of a body and stays with the request, where that is more than the body
 * was charged and than any request may have. */
bool request_charge_read(struct request *r);
/* The same for what is read and rendered for the answer, at most half of the budget: so much is
 * there for one who is alone. When the request is finished, what the answer itself does not take is
 * given back. */
bool request_set_aside(struct request *r, size_t n);
/* The same for a page of rows: all pages under way have half of the budget. */
bool request_set_aside_page(struct request *r, size_t n);
/* The same, all of it, for what has a size that was looked up. */
bool request_set_aside_all(struct request *r, size_t n);
/* The same before something is changed, for the answer to it, about `n` bytes: false is a true 503.
 * Once it is carried out, the answer is given, however large it became. */
bool request_promise_answer(struct request *r, size_t n);

/* ---- for handlers ---- */

struct str request_header(const struct request *r, struct str name); /* absent: not there */
/* All fields of this name as one list with commas; absent: not there. */
struct str request_header_list(struct request *r, struct str name);
struct str request_query(const struct request *r, struct str name); /* decoded */
/* Adds a fault for each query parameter that is not in the list. */
void request_check_query(struct request *r, const char *const *names, size_t count);
/* NULL (and a 404 in the reply): not an id. */
bool request_param_id(struct request *r, size_t index, struct id *out);

void request_json(struct request *r, int status, json_t *v);             /* takes v */
void request_json_text(struct request *r, int status, struct buf *json); /* takes what is in it */
void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) PRINTF(3, 4);
/* What the request's faults say; 422 unless told otherwise. */
void request_problem_faults(struct request *r, enum problem_code code);
/* What json_body_parse() said. */
void request_problem_json(struct request *r, enum err e, const struct errinfo *info);
/* 503, when mem_is_short(), which is forgotten. request_json() and the others see to it themselves:
 * an answer that could not be built becomes this one. */
void request_problem_short(struct request *r);
/* What the key may do, for intake. */
struct rights request_rights(const struct request *r);
/* For the result of a store call other than OK. */
void request_problem_store(struct request *r, enum err e, const struct errinfo *info);
/* The answer stands. Not more than once; the request may be gone afterwards. */
void request_finish(struct request *r);

/* Posts the call, which lives in the arena; what came out is released after `done`. */
void request_store(struct request *r, struct store_call *call, enum store_verb verb,
                   void (*done)(struct request *r, struct store_call *call));
/* Runs `run` on a worker, then `done` on the loop. */
void request_work(struct request *r, void (*run)(struct request *r),
                  void (*done)(struct request *r));
/* The same for what takes a tenth of a second. false: many wait for such already; the problem is
 * set, and nothing is run. */
bool request_work_long(struct request *r, void (*run)(struct request *r),
                       void (*done)(struct request *r));
/* Keys and domains as they are in the store now, in force everywhere before `done` runs. */
void request_reload(struct request *r, void (*done)(struct request *r, enum err err));

/* ---- pieces, for tests ---- */

/* Percent-decoding of a path segment or (with `plus_is_space`) a query part: ERR_INVALID for a
 * broken escape, for control characters and for what is not UTF-8. */
NODISCARD enum err request_decode(struct str s, bool plus_is_space, struct arena *a,
                                  struct str *out);
/* Does the Accept header take this media type? Absent: yes. */
bool request_accepts(struct str accept, struct str type);
/* "application/json" of "application/json; charset=utf-8". */
struct str request_media_type(struct str content_type);
/* Seconds of the first "wait=10" in Prefer headers (RFC 7240), at most LIMIT_WAIT_S; -1: not asked
 * for, or not in a way that can be understood. */
int request_prefer_wait(struct str prefer);
/* May it be an Idempotency-Key: 1 to LIMIT_IDEMPOTENCY_KEY visible characters of us-ascii? */
bool request_is_idempotency_key(struct str key);
