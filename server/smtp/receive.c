#include "server/smtp/receive.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/smtp/dialogue.h"

enum {
    OUT_MAX = 256 * 1024,        /* replies that a peer may leave unread before we stop reading */
    CONNECTION_MS = 3600 * 1000, /* R25: nobody needs longer */
    TLS_TIMEOUT_MS = 30000,
    FREE_TURNS = 8,   /* in a row that bring no mail on, before the next one has to wait */
    TLS_TURN_MS = 50, /* a turn's length: what has come is many records, each read by itself */
};

struct receive {
    struct stream *stream;
    struct dialogue *dialogue;
    struct receive_options o;
    const struct receive_policy *policy;
    void *ctx;
    struct timer *idle, *whole, *resume;
    size_t progress; /* dialogue_progress() when the idle timer was set */
    size_t steps;    /* dialogue_steps() after the last turn */
    /* When the turns that brought no mail on will have been paid for, at one each turn_ms. */
    int64_t paid_mono_ms;
    int64_t turn_ends_mono_ms; /* of the turn after a rest, in TLS */
    bool is_resting;           /* the next turn has to wait */
    bool is_switching; /* from STARTTLS to the end of the handshake: nothing may be written */
    bool is_early;     /* the peer talked before the greeting */
    bool is_answering; /* a message waits for receive_answer_data() */
    bool is_ending;    /* the last reply was written: on_end is due */
    bool is_ended;     /* on_end was called */
    bool is_closed;    /* receive_close() was called; freed when the last frame is left */
    unsigned depth;
};

/* ---- frames and ends ---- */

static void enter_frame(struct receive *r) {
    r->depth++;
}

static void leave_frame(struct receive *r) {
    if (--r->depth > 0 || !r->is_closed)
        return;
    stream_close(&r->stream, true);
    timer_free(&r->idle);
    timer_free(&r->whole);
    timer_free(&r->resume);
    dialogue_free(&r->dialogue);
    tls_server_ctx_unref(&r->o.tls);
    free(r);
}

static void end(struct receive *r) {
    if (r->is_ended || r->is_closed)
        return;
    r->is_ended = true;
    r->is_answering = false;
    timer_cancel(r->idle);
    timer_cancel(r->whole);
    timer_cancel(r->resume);
    if (r->policy->on_end)
        r->policy->on_end(r->ctx, r);
}

/* False: there was no memory for all of it, and so none is said: of replies that are not all there
 * the peer would take each for another command's. */
static bool write_out(struct receive *r, struct buf *out) {
    bool is_whole = buf_status(out) == OK;
    if (is_whole && out->n > 0)
        stream_write(r->stream, buf_str(out));
    buf_release(out);
    return is_whole;
}

static void say(struct receive *r, const char *line) {
    if (!r->is_switching)
        stream_write(r->stream, str_of(line));
}

static void out_of_time(void *arg) {
    struct receive *r = arg;
    enter_frame(r);
    say(r, "421 4.4.2 timed out, closing\r\n"); /* R14 */
    end(r);
    leave_frame(r);
}

/* The clock runs from one command, or one KiB of data, to the next: a byte now and then does not
 * hold a connection. */
static void watch_progress(struct receive *r, bool anew) {
    size_t progress = dialogue_progress(r->dialogue);
    if (!anew && progress == r->progress)
        return;
    r->progress = progress;
    timer_set(r->idle,
              dialogue_is_in_data(r->dialogue) ? r->o.data_timeout_ms : r->o.command_timeout_ms);
}

/* Who talks and brings no mail on (an octet now and then, HELP, NOOP) is heard once in turn_ms when
 * its free turns are used up: ten thousand of them must not take the time of those who send mail.
 */
static void watch_steps(struct receive *r) {
    size_t steps = dialogue_steps(r->dialogue);
    int64_t now_ms = clock_mono_ms();
    if (steps != r->steps) {
        r->steps = steps;
        r->paid_mono_ms = 0;
        return;
    }
    if (now_ms < r->turn_ends_mono_ms)
        return;
    r->paid_mono_ms = (r->paid_mono_ms > now_ms ? r->paid_mono_ms : now_ms) + r->o.turn_ms;
    int64_t wait_ms = r->paid_mono_ms - now_ms - FREE_TURNS * r->o.turn_ms;
    if (wait_ms > 0) {
        r->is_resting = true;
        stream_set_reading(r->stream, false);
        timer_set(r->resume, wait_ms);
    }
}

/* ---- input ---- */

static void deliver(struct receive *r) {
    struct received *m = dialogue_message(r->dialogue);
    struct sockaddr_any peer = stream_peer(r->stream);
    sockaddr_print_ip(&peer, m->peer);
    m->tls = stream_tls_info(r->stream);
    r->is_answering = true;
    timer_cancel(r->idle); /* the owner's time now, not the peer's */
    stream_set_reading(r->stream, false);
    r->policy->on_message(r->ctx, r, m);
}

static void follow(struct receive *r, enum dialogue_wants wants) {
    switch (wants) {
    case DIALOGUE_MORE:
        break;
    case DIALOGUE_ANSWER:
        deliver(r);
        break;
    case DIALOGUE_TLS:
        /* what the peer sent after STARTTLS is dropped by the stream (T6) */
        timer_cancel(r->idle);
        r->is_switching = true;
        stream_start_tls_server(r->stream, r->o.tls, TLS_TIMEOUT_MS);
        break;
    case DIALOGUE_CLOSE:
        end(r);
        break;
    }
}

static void feed(struct receive *r) {
    while (!r->is_ended && !r->is_closed && !r->is_answering && !r->is_ending && !r->is_resting) {
        struct str in = stream_peek(r->stream);
        if (in.n == 0)
            return;
        if (stream_pending(r->stream) > OUT_MAX) {
            stream_set_reading(r->stream, false);
            return;
        }
        size_t before = in.n;
        struct buf out = BUF_INIT(4 * OUT_MAX);
        enum dialogue_wants wants = dialogue_feed(r->dialogue, &in, &out);
        stream_drain(r->stream, before - in.n);
        if (!write_out(r, &out)) {
            end(r);
            return;
        }
        watch_progress(r, false);
        if (wants == DIALOGUE_MORE)
            watch_steps(r);
        follow(r, wants);
        if (wants == DIALOGUE_TLS)
            return;
    }
}

static void resume(void *arg) {
    struct receive *r = arg;
    enter_frame(r);
    if (r->is_resting) {
        r->is_resting = false;
        if (stream_tls_info(r->stream).version[0])
            r->turn_ends_mono_ms = clock_mono_ms() + TLS_TURN_MS;
        stream_set_reading(r->stream, true);
    }
    if (r->is_ending)
        end(r);
    else
        feed(r);
    leave_frame(r);
}

/* ---- what the stream says ---- */

static void on_open(void *ctx) {
    struct receive *r = ctx;
    enter_frame(r);
    r->is_switching = false;
    if (stream_tls_info(r->stream).version[0]) {
        dialogue_secured(r->dialogue);
    } else if (r->is_early || stream_peek(r->stream).n > 0) {
        say(r, "554 5.5.0 wait for the greeting\r\n"); /* T2 */
        end(r);
    } else {
        struct buf out = BUF_INIT(1024);
        dialogue_greet(r->dialogue, &out);
        if (!write_out(r, &out))
            end(r);
    }
    if (!r->is_ended && !r->is_closed)
        watch_progress(r, true);
    leave_frame(r);
}

static void on_read(void *ctx) {
    struct receive *r = ctx;
    enter_frame(r);
    feed(r);
    leave_frame(r);
}

static void on_drained(void *ctx) {
    struct receive *r = ctx;
    enter_frame(r);
    if (!r->is_ended && !r->is_closed && !r->is_answering && !r->is_resting) {
        stream_set_reading(r->stream, true);
        feed(r);
    }
    leave_frame(r);
}

static void on_failed(void *ctx, enum failure why, struct str text) {
    struct receive *r = ctx;
    enter_frame(r);
    log_debug("smtp", "receiving ended", LOG_STRZ("why", failure_name(why)), LOG_STR("text", text));
    end(r);
    leave_frame(r);
}

static void on_closed(void *ctx) {
    struct receive *r = ctx;
    enter_frame(r);
    end(r);
    leave_frame(r);
}

static const struct stream_events stream_events = {.on_open = on_open,
                                                   .on_read = on_read,
                                                   .on_drained = on_drained,
                                                   .on_failed = on_failed,
                                                   .on_closed = on_closed};

/* ---- the owner's calls ---- */

struct receive *receive_new(struct loop *l, int fd, const struct receive_options *o,
                            const struct receive_policy *p, void *ctx) {
    ASSERT(p->on_message && p->on_end);
    struct receive *r = mem_zalloc(sizeof(*r));
    char byte;
    r->is_early = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
    r->o = *o;
    r->o.host_name = NULL;
    r->o.tls = o->tls ? tls_server_ctx_ref(o->tls) : NULL;
    if (r->o.command_timeout_ms == 0)
        r->o.command_timeout_ms = 300 * 1000;
    if (r->o.data_timeout_ms == 0)
        r->o.data_timeout_ms = 180 * 1000;
    if (r->o.turn_ms == 0)
        r->o.turn_ms = 5 * 1000;
    r->policy = p;
    r->ctx = ctx;
    struct dialogue_options d = {.host_name = o->host_name,
                                 .offers_tls = o->tls != NULL,
                                 .message_bytes_max = o->message_bytes_max,
                                 .rcpt_max = o->rcpt_max,
                                 .policy = p,
                                 .ctx = ctx};
    r->dialogue = dialogue_new(&d);
    r->idle = timer_new(l, out_of_time, r);
    r->whole = timer_new(l, out_of_time, r);
    r->resume = timer_new(l, resume, r);
    timer_set(r->whole, CONNECTION_MS);
    r->stream = stream_accept(l, fd, &stream_events, r);
    return r;
}

void receive_answer_data(struct receive *r, struct receive_answer answer) {
    ASSERT(r->is_answering);
    enter_frame(r);
    r->is_answering = false;
    struct buf out = BUF_INIT(16 * 1024);
    enum dialogue_wants wants = dialogue_answer(r->dialogue, answer, &out);
    r->is_ending = !write_out(r, &out) || wants == DIALOGUE_CLOSE;
    stream_set_reading(r->stream, true);
    watch_progress(r, true);
    /* commands that were pipelined behind the message wait in the stream and no on_read tells of
     * them; they get their turn from the loop, because no callback runs inside this call */
    timer_set(r->resume, 0);
    leave_frame(r);
}

size_t receive_held_bytes(const struct receive *r) {
    return dialogue_held_bytes(r->dialogue);
}

void receive_close(struct receive **rp, bool shutting_down) {
    struct receive *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    enter_frame(r);
    if (shutting_down && !r->is_ended)
        say(r, "421 4.3.2 shutting down\r\n"); /* R17 */
    r->is_closed = true;
    leave_frame(r);
}
