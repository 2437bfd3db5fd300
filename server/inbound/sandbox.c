#include "server/inbound/sandbox.h"

#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/net/listener.h"
#include "server/render/capture.h"

enum {
    META_MAX = 1024 * 1024,
    CONNECTIONS_LEAST = 256, /* five eighths of the process's descriptors, between these */
    CONNECTIONS_MOST = 12 * 1024,
    TRIM_SHARE = 8, /* of those that are too many an eighth goes at each look */
    HELD_MOST = 256 * 1024 * 1024,
    LOOK_MS = 1000, /* how often connections are counted, and sizes added up */
};

struct connection {
    TAILQ_ENTRY(connection) link;
    struct sandbox *sandbox;
    struct receive *receive;
    struct capture_note *storing; /* under way; it forgets us when the connection ends first */
    bool is_busy; /* it was granted a recipient, and its message not answered since */
};
TAILQ_HEAD(connections, connection);

struct sandbox {
    struct loop *loop;
    struct listener *listener;
    struct store *store;
    struct tls_server_ctx *tls;
    size_t message_bytes_max, held_bytes_max;
    uint16_t port;
    size_t count, usual, most; /* connections, how many stay, and how many there may be */
    struct timer *look;
    size_t storing;                          /* captures on their way to the store */
    struct connections idle_list, busy_list; /* who came, or was granted one, last is last */
    /* stopping: set on the loop; main waits until both counts are 0 */
    struct mailbox *stop_box; /* main's, handed over with the note */
    struct mailbox *stopper;  /* the same, once the loop knows */
    struct note stop, stopped;
};

/* A capture on its way to the store: keeps its text. */
struct capture_note {
    struct store_capture_put put;
    struct sandbox *sandbox;
    struct connection *connection; /* NULL: gone */
    struct buf meta;
    char *content;
};

static void finish_stop(struct sandbox *s) {
    if (s->stopper && s->count == 0 && s->storing == 0)
        mailbox_send(s->stopper, &s->stopped);
}

static struct connections *list_of(struct connection *c) {
    return c->is_busy ? &c->sandbox->busy_list : &c->sandbox->idle_list;
}

/* It is the last of its list then. */
static void set_busy(struct connection *c, bool is_busy) {
    TAILQ_REMOVE(list_of(c), c, link);
    c->is_busy = is_busy;
    TAILQ_INSERT_TAIL(list_of(c), c, link);
}

static void end_connection(struct connection *c, bool shutting_down) {
    struct sandbox *s = c->sandbox;
    if (c->storing)
        c->storing->connection = NULL;
    receive_close(&c->receive, shutting_down);
    TAILQ_REMOVE(list_of(c), c, link);
    free(c);
    s->count--;
    finish_stop(s);
}

static bool end_oldest(struct connections *list) {
    struct connection *c;
    TAILQ_FOREACH (c, list, link) {
        if (c->storing)
            continue;
        end_connection(c, true);
        return true;
    }
    return false;
}

/* Whoever has been of no use for longest goes, so that many who only hold connections shut nobody
 * out. False: all wait for the store. */
static bool make_room(struct sandbox *s) {
    return end_oldest(&s->idle_list) || end_oldest(&s->busy_list);
}

/* Who is sent away to make room may come again at once, so that another goes, and one for that one:
 * short of `most` nobody goes for another, and idle ones above `usual` go slowly. */
static void trim(struct sandbox *s) {
    size_t over = s->count > s->usual ? s->count - s->usual : 0;
    for (size_t n = (over + TRIM_SHARE - 1) / TRIM_SHARE; n > 0 && end_oldest(&s->idle_list); n--)
        ;
}

/* Who began longest ago goes first, until what is held is bearable. Who waits for the store stays:
 * the store has the message, or will say so. */
static void free_sizes(struct sandbox *s) {
    struct connection *c, *next;
    size_t held = 0;
    TAILQ_FOREACH (c, &s->busy_list, link)
        held += receive_held_bytes(c->receive);
    for (c = TAILQ_FIRST(&s->busy_list); c && held > s->held_bytes_max; c = next) {
        next = TAILQ_NEXT(c, link);
        size_t own = receive_held_bytes(c->receive);
        if (c->storing || own == 0)
            continue;
        held -= own;
        end_connection(c, true);
    }
}

static void look(void *arg) {
    struct sandbox *s = arg;
    trim(s);
    free_sizes(s);
    timer_set(s->look, LOOK_MS);
}

static struct receive_answer answer_for(struct str address, bool at_end) {
    static const struct {
        const char *local;
        bool at_end;
        struct receive_answer answer;
    } rows[] = {
        {"bounce", false, {550, "5.1.1", "no such user here (the sandbox refuses bounce@)"}},
        {"defer", false, {451, "4.7.1", "try again later (the sandbox defers defer@)"}},
        {"full", false, {452, "4.2.2", "mailbox full (the sandbox defers full@)"}},
        {"spam", true, {554, "5.7.1", "message looks like spam (the sandbox refuses spam@)"}},
    };
    ptrdiff_t at = str_find_char(address, '@');
    struct str local = at < 0 ? address : str_slice(address, 0, (size_t)at);
    struct str bare = str_split(&local, '+');
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].at_end == at_end && str_equal_nocase(bare, str_of(rows[i].local)))
            return rows[i].answer;
    return (struct receive_answer){250, at_end ? "2.0.0" : "2.1.5", "ok"};
}

static struct receive_answer on_rcpt(void *ctx, struct str to) {
    struct receive_answer a = answer_for(to, false);
    if (a.code < 400)
        set_busy(ctx, true);
    return a;
}

static const struct receive_answer not_stored = {451, "4.3.0", "not stored, try again"};

static void on_stored(struct store_call *call) {
    struct store_capture_put *put = CONTAINER_OF(call, struct store_capture_put, call);
    struct capture_note *n = CONTAINER_OF(put, struct capture_note, put);
    struct sandbox *s = n->sandbox;
    if (call->err != OK)
        log_warn("sandbox", "message not captured", LOG_STRZ("why", call->info.text));
    if (n->connection) {
        n->connection->storing = NULL;
        set_busy(n->connection, false);
        receive_answer_data(n->connection->receive,
                            call->err == OK ? (struct receive_answer){250, "2.0.0", "captured"}
                                            : not_stored);
    }
    store_call_release(call);
    buf_release(&n->meta);
    free(n->content);
    free(n);
    s->storing--;
    finish_stop(s);
}

static void on_message(void *ctx, struct receive *r, const struct received *m) {
    struct connection *c = ctx;
    struct sandbox *s = c->sandbox;
    for (size_t i = 0; i < m->rcpt_count; i++) {
        struct receive_answer a = answer_for(m->rcpt[i], true);
        if (a.code >= 400) {
            set_busy(c, false);
            receive_answer_data(r, a);
            return;
        }
    }
    char *content = mem_try_zalloc(m->data.n);
    if (!content) {
        log_warn("sandbox", "message not captured", LOG_STRZ("why", "there is no memory for it"));
        set_busy(c, false);
        receive_answer_data(r, not_stored);
        return;
    }
    if (m->data.n > 0)
        memcpy(content, m->data.p, m->data.n);
    struct capture_note *n = mem_zalloc(sizeof *n);
    int64_t now = clock_wall_ms();
    n->sandbox = s;
    n->connection = c;
    n->content = content;
    c->storing = n;
    buf_init(&n->meta, META_MAX);
    render_capture_message(m, &n->meta);
    n->put.call = (struct store_call){
        .verb = STORE_CAPTURE_PUT, .reply_to = loop_mailbox(s->loop), .done = on_stored};
    n->put.capture = (struct capture_row){.id = id_new(now),
                                          .kind = CAPTURE_MESSAGE,
                                          .wall_ms = now,
                                          .meta_json = buf_str(&n->meta),
                                          .content = str_make(n->content, m->data.n)};
    s->storing++;
    store_post(s->store, &n->put.call);
}

static void on_end(void *ctx, struct receive *r) {
    (void)r;
    end_connection(ctx, false);
}

static const struct receive_policy policy = {
    .on_rcpt = on_rcpt, .on_message = on_message, .on_end = on_end};

static void on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    struct sandbox *s = ctx;
    (void)peer;
    if (s->stopper || (s->count >= s->most && !make_room(s))) {
        static const char sorry[] = "421 4.3.2 too many connections\r\n"; /* RFC 5321 3.8 */
        /* into an empty socket buffer; whoever does not get it sees the end */
        (void)!send(fd, sorry, sizeof sorry - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(fd);
        return;
    }
    if (!s->look) {
        s->look = timer_new(s->loop, look, s);
        timer_set(s->look, LOOK_MS);
    }
    struct connection *c = mem_zalloc(sizeof *c);
    struct receive_options o = {.host_name = "sandbox.postchute.invalid",
                                .tls = s->tls,
                                .message_bytes_max = s->message_bytes_max};
    c->sandbox = s;
    TAILQ_INSERT_TAIL(&s->idle_list, c, link);
    s->count++;
    c->receive = receive_new(s->loop, fd, &o, &policy, c);
}

static void nothing(struct note *n) {
    (void)n;
}

/* Main's question, which comes back to it with the answer. */
struct opening {
    struct note note;
    struct sandbox *sandbox;
    const struct sockaddr_any *at;
    struct errinfo *info;
    struct mailbox *asker;
    enum err err;
};

static void open_on_loop(struct note *n) {
    struct opening *o = CONTAINER_OF(n, struct opening, note);
    struct sandbox *s = o->sandbox;
    o->err = listener_open(s->loop, o->at, on_accept, s, &s->listener, o->info);
    n->run = nothing;
    mailbox_send(o->asker, n);
}

static enum err open_listener(struct sandbox *s, const struct sockaddr_any *at,
                              struct errinfo *info) {
    struct opening o = {
        .note.run = open_on_loop, .sandbox = s, .at = at, .info = info, .asker = mailbox_new()};
    mailbox_send(loop_mailbox(s->loop), &o.note);
    while (mailbox_wait(o.asker, -1) == 0)
        ;
    mailbox_free(&o.asker);
    return o.err;
}

static size_t connections_most(void) {
    struct rlimit files = {0};
    (void)getrlimit(RLIMIT_NOFILE, &files);
    size_t share = files.rlim_cur / 8 * 5;
    return share < CONNECTIONS_LEAST  ? CONNECTIONS_LEAST
           : share < CONNECTIONS_MOST ? share
                                      : CONNECTIONS_MOST;
}

enum err sandbox_start(const struct sandbox_options *o, struct sandbox **out,
                       struct errinfo *info) {
    struct sandbox *s = mem_zalloc(sizeof *s);
    struct sockaddr_any at;
    TAILQ_INIT(&s->idle_list);
    TAILQ_INIT(&s->busy_list);
    s->most = connections_most();
    s->usual = s->most / 5 * 4;
    s->store = o->store;
    s->message_bytes_max = o->message_bytes_max;
    s->held_bytes_max = o->held_bytes_max ? o->held_bytes_max : HELD_MOST;
    s->loop = loop_start("sandbox");
    enum err e = sockaddr_parse(str_of(o->address), o->port, &at);
    if (e == OK)
        e = tls_server_ctx_new_selfsigned("sandbox.postchute.invalid", &s->tls, info);
    if (e == OK)
        e = open_listener(s, &at, info);
    if (e != OK) {
        loop_stop(&s->loop);
        tls_server_ctx_unref(&s->tls);
        free(s);
        return e;
    }
    struct sockaddr_any bound = listener_address(s->listener);
    s->port = sockaddr_port(&bound);
    *out = s;
    return OK;
}

uint16_t sandbox_port(const struct sandbox *s) {
    return s->port;
}

static void stop_on_loop(struct note *n) {
    struct sandbox *s = CONTAINER_OF(n, struct sandbox, stop);
    struct connection *c;
    listener_close(&s->listener);
    timer_free(&s->look);
    s->stopper = s->stop_box;
    s->count++; /* keeps finish_stop() quiet until the end of this function */
    while ((c = TAILQ_FIRST(&s->idle_list)) != NULL || (c = TAILQ_FIRST(&s->busy_list)) != NULL)
        end_connection(c, true);
    s->count--;
    finish_stop(s);
}

void sandbox_stop(struct sandbox **sp) {
    struct sandbox *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    s->stop_box = mailbox_new();
    s->stop.run = stop_on_loop;
    s->stopped.run = nothing;
    mailbox_send(loop_mailbox(s->loop), &s->stop);
    while (mailbox_wait(s->stop_box, -1) == 0)
        ;
    loop_stop(&s->loop);
    mailbox_free(&s->stop_box);
    tls_server_ctx_unref(&s->tls);
    free(s);
}
