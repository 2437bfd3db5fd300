#include "server/smtp/session.h"

#include <stdlib.h>
#include <string.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/smtp/command.h"
#include "server/smtp/session_state.h"

/* One row a state: its name, the stage that it is for outcome, and the time that it may take. */
static const struct {
    const char *name;
    enum stage stage;
    size_t timeout; /* offset in struct session_timeouts; 0 is `connect`, which the stream keeps */
} states[] = {
#define TIME(field) offsetof(struct session_timeouts, field)
    [SESSION_CONNECTING] = {"connecting", STAGE_CONNECT, TIME(connect)},
    [SESSION_GREETING] = {"greeting", STAGE_GREETING, TIME(greeting)},
    [SESSION_EHLO] = {"ehlo", STAGE_EHLO, TIME(ehlo)},
    [SESSION_HELO] = {"helo", STAGE_EHLO, TIME(ehlo)},
    [SESSION_STARTTLS] = {"starttls", STAGE_STARTTLS, TIME(starttls)},
    [SESSION_TLS] = {"tls", STAGE_TLS, TIME(starttls)},
    [SESSION_AUTH] = {"auth", STAGE_AUTH, TIME(ehlo)},
    [SESSION_IDLE] = {"idle", STAGE_MAIL, 0},
    [SESSION_MAIL] = {"mail", STAGE_MAIL, TIME(mail)},
    [SESSION_RCPT] = {"rcpt", STAGE_RCPT, TIME(rcpt)},
    [SESSION_DATA] = {"data", STAGE_DATA, TIME(data)},
    [SESSION_BODY] = {"body", STAGE_BODY, TIME(block)},
    [SESSION_END] = {"end", STAGE_END, TIME(end)},
    [SESSION_RESET] = {"reset", STAGE_END, TIME(rset)},
    [SESSION_REFUSED] = {"refused", STAGE_MAIL, 0},
    [SESSION_DEAD] = {"dead", STAGE_MAIL, 0},
#undef TIME
};
_Static_assert(sizeof(states) / sizeof(states[0]) == SESSION_STATE_COUNT, "one row a state");
_Static_assert(offsetof(struct session_timeouts, connect) == 0, "0 stands for no deadline");

void session_timeouts_default(struct session_timeouts *t) {
    *t = (struct session_timeouts){.connect = 30000,
                                   .greeting = 300000,
                                   .ehlo = 300000,
                                   .starttls = 30000,
                                   .mail = 300000,
                                   .rcpt = 300000,
                                   .data = 120000,
                                   .block = 180000,
                                   .end = 600000,
                                   .rset = 20000,
                                   .min_rate_bytes_s = 500};
}

enum stage session_stage(const struct session *s) {
    bool is_sending = s->state >= SESSION_MAIL && s->state <= SESSION_BODY;
    if (is_sending && s->is_body_written)
        return STAGE_END; /* the end of the message may have arrived (C18) */
    return states[s->state].stage;
}

enum stage session_stage_of_reply(const struct session *s) {
    return s->state == SESSION_BODY ? session_stage(s) : states[s->state].stage;
}

/* ---- frames and freeing ---- */

static void enter_frame(struct session *s) {
    s->depth++;
}

static void leave_frame(struct session *s) {
    if (--s->depth > 0 || !s->is_closed)
        return;
    transaction_release(s);
    timer_free(&s->watchdog);
    reply_parser_free(&s->parser);
    auth_free(&s->auth);
    buf_release_secret(&s->auth_user);
    buf_release_secret(&s->auth_password);
    transcript_release(&s->transcript);
    tls_client_ctx_unref(&s->o.tls_ctx);
    free(s->host_name);
    free(s->ehlo_name);
    free(s);
}

static void disconnect(struct session *s, bool polite) {
    timer_cancel(s->watchdog);
    if (!s->stream)
        return;
    if (polite)
        stream_write(s->stream, STR("QUIT\r\n"));
    stream_close(&s->stream, polite);
}

/* ---- dying ---- */

/* Whether it was BDAT that the connection broke at, nobody knows. */
static void note_chunking(struct session *s, const struct session_result *why) {
    bool is_bdat_asked =
        (s->is_trial || s->is_one_flight) && s->state >= SESSION_MAIL && s->state <= SESSION_END;
    bool is_lost = why->failure == FAILURE_CLOSED || why->failure == FAILURE_TIMEOUT ||
                   why->failure == FAILURE_TOO_SLOW || why->failure == FAILURE_PROTOCOL;
    bool is_421 = why->reply && why->reply->code == 421 && s->state >= SESSION_DATA;
    s->info.is_chunking_broken |= is_bdat_asked && (is_lost || is_421);
}

void session_die(struct session *s, const struct session_result *why, bool polite) {
    if (s->state == SESSION_DEAD)
        return;
    note_chunking(s, why);
    session_enter(s, SESSION_DEAD);
    if (!why->reply)
        transcript_note(&s->transcript, "%s at %s: %.*s", failure_name(why->failure),
                        stage_name(why->stage), STR_ARG(why->text));
    disconnect(s, polite);
    if (s->in_transaction) {
        if (transaction_report_rest(s, why))
            transaction_finish(s, false);
    } else {
        s->ev->on_failed(s->ctx, why);
    }
}

void session_die_failed(struct session *s, enum failure why, const char *text) {
    struct session_result r = {.stage = session_stage(s),
                               .failure = why,
                               .text = str_of(text ? text : failure_text(why)),
                               .rcpt_accepted_before = s->accepted};
    if (why == FAILURE_AUTH_UNAVAILABLE)
        r.stage = STAGE_AUTH;
    /* the server is in its right mind and waits for a command: it gets its QUIT */
    bool polite = why == FAILURE_TLS_NOT_OFFERED || why == FAILURE_AUTH_UNAVAILABLE;
    session_die(s, &r, polite);
}

void session_die_protocol(struct session *s, const char *text) {
    session_die_failed(s, FAILURE_PROTOCOL, text);
}

bool session_die_out_of_step(struct session *s) {
    if (stream_peek(s->stream).n == 0)
        return false;
    session_die_protocol(s, "more replies than commands");
    return true;
}

/* What is for the eye: a server may echo what it was sent. */
static struct str shown_of(const struct session *s, const struct reply *r) {
    bool is_told = s->state == SESSION_AUTH && r->code != 334 && auth_is_told_by(s->auth, r->text);
    return is_told ? STR("(left out: it repeats what was sent)") : r->text;
}

struct str session_result_text(const struct session_result *r) {
    if (!str_is_empty(r->text))
        return r->text;
    return r->reply ? r->reply->text : str_of(failure_text(r->failure));
}

void session_die_refused(struct session *s, const struct reply *r) {
    struct session_result why = {.stage = session_stage(s), .reply = r, .text = shown_of(s, r)};
    session_die(s, &why, r->code != 421);
}

static void out_of_time(void *arg) {
    struct session *s = arg;
    enter_frame(s);
    if (s->state == SESSION_REFUSED) {
        transaction_refused(s);
    } else {
        session_die_failed(s, FAILURE_TOO_SLOW, NULL);
    }
    leave_frame(s);
}

/* ---- states ---- */

void session_command(struct session *s, struct str lines, size_t replies) {
    s->expected += replies;
    stream_write(s->stream, lines);
}

static void say(struct session *s, const char *line) {
    transcript_client(&s->transcript, str_of(line));
    session_command(s, str_of(line), 1);
}

static void send_ehlo(struct session *s, bool is_esmtp) {
    struct buf line = BUF_INIT(1024);
    command_ehlo(&line, is_esmtp, s->ehlo_name);
    transcript_client(&s->transcript, buf_str(&line));
    session_command(s, buf_str(&line), 1);
    buf_release(&line);
}

void session_enter(struct session *s, enum session_state to) {
    log_debug("smtp", "session", LOG_STRZ("peer", s->info.peer),
              LOG_STRZ("from", states[s->state].name), LOG_STRZ("to", states[to].name));
    s->state = to;
    int64_t timeout_ms = 0;
    if (states[to].timeout != 0)
        memcpy(&timeout_ms, (const char *)&s->o.timeouts + states[to].timeout, sizeof(timeout_ms));
    /* RFC 2920 3.2: a server may answer nothing until it has read, and judged, all there is */
    if (s->is_one_flight && to >= SESSION_MAIL && to <= SESSION_RCPT &&
        timeout_ms < s->o.timeouts.end)
        timeout_ms = s->o.timeouts.end;
    if (s->stream)
        stream_set_deadline(s->stream, timeout_ms);
    switch (to) {
    case SESSION_GREETING:
        s->expected = 1;
        break;
    case SESSION_EHLO:
        s->caps = (struct capability){0}; /* C33 */
        send_ehlo(s, true);
        break;
    case SESSION_HELO:
        send_ehlo(s, false);
        break;
    case SESSION_STARTTLS:
        say(s, "STARTTLS\r\n");
        break;
    case SESSION_TLS:
        s->had_tls = true;
        stream_start_tls_client(s->stream, s->o.tls_ctx,
                                s->o.tls == SESSION_TLS_VERIFY ? TLS_VERIFY_NAME : TLS_VERIFY_NONE,
                                s->host_name, s->o.timeouts.starttls);
        break;
    case SESSION_AUTH:
        opening_begin_auth(s);
        break;
    case SESSION_IDLE:
        timer_cancel(s->watchdog);
        break;
    case SESSION_MAIL:
    case SESSION_RCPT:
    case SESSION_DATA:
    case SESSION_BODY:
    case SESSION_END:
    case SESSION_RESET:
        transaction_enter(s);
        break;
    case SESSION_REFUSED:
        timer_set(s->watchdog, 0);
        break;
    default: /* CONNECTING, DEAD: nothing is to be done */
        break;
    }
}

/* ---- what the stream says ---- */

static void take_reply(struct session *s, const struct reply *r) {
    struct reply shown = *r;
    s->heard_boot_ms = clock_boot_ms();
    shown.text = shown_of(s, r);
    if (s->state == SESSION_AUTH && r->code == 334)
        transcript_note(&s->transcript, "334 challenge");
    else
        transcript_server(&s->transcript, &shown);
    if (s->expected > 0) {
        s->expected--;
    } else if (s->state == SESSION_BODY) {
        transaction_reply(s, r); /* a server may give up on a body before its end */
        return;
    } else if (r->code == 421) {
        session_die_refused(s, r);
        return;
    } else {
        session_die_protocol(s, "a reply that nothing asked for");
        return;
    }
    /* a refusal is told first; whoever goes on behind one asks then */
    if (s->expected == 0 && s->state != SESSION_STARTTLS && r->code / 100 < 4 &&
        s->state != SESSION_END && session_die_out_of_step(s))
        return;
    if (s->state <= SESSION_AUTH)
        opening_reply(s, r);
    else
        transaction_reply(s, r);
}

static void on_read(void *ctx) {
    struct session *s = ctx;
    enter_frame(s);
    while (s->stream && s->state != SESSION_TLS) {
        struct str in = stream_peek(s->stream);
        if (in.n == 0)
            break;
        size_t before = in.n;
        struct reply r = {0};
        struct errinfo info = {0};
        enum err e = reply_parse(s->parser, &in, &r, &info);
        stream_drain(s->stream, before - in.n);
        if (e == ERR_AGAIN)
            break;
        if (e == OK)
            take_reply(s, &r);
        else
            session_die_protocol(s, info.text);
    }
    leave_frame(s);
}

/* Which address it is. Of a race it is known now. */
static void note_peer(struct session *s) {
    if (s->info.to.len > 0 || stream_local(s->stream).len == 0)
        return;
    s->info.to = stream_peer(s->stream);
    sockaddr_print(&s->info.to, s->info.peer);
    if (s->o.rival.len > 0)
        transcript_note(&s->transcript, "connected to %s", s->info.peer);
}

static void on_open(void *ctx) {
    struct session *s = ctx;
    enter_frame(s);
    note_peer(s);
    s->info.tls = stream_tls_info(s->stream);
    if (s->info.tls.version[0])
        transcript_note(&s->transcript, "%s, %s", s->info.tls.version,
                        s->info.tls.is_verified ? "verified" : "not verified");
    session_enter(s, s->state == SESSION_TLS ? SESSION_EHLO : SESSION_GREETING);
    leave_frame(s);
}

static void on_drained(void *ctx) {
    struct session *s = ctx;
    enter_frame(s);
    if (s->state == SESSION_BODY)
        transaction_drained(s);
    leave_frame(s);
}

static void on_failed(void *ctx, enum failure why, struct str text) {
    struct session *s = ctx;
    enter_frame(s);
    note_peer(s);
    struct session_result r = {.stage = session_stage(s),
                               .failure = why,
                               .text = text,
                               .rcpt_accepted_before = s->accepted};
    if (s->state == SESSION_CONNECTING && why >= FAILURE_TLS_NOT_OFFERED &&
        why <= FAILURE_TLS_INJECTION)
        r.stage = STAGE_TLS; /* TLS from the first byte */
    if (s->state == SESSION_CONNECTING && why == FAILURE_CLOSED)
        /* it stood; in clear, it was reset before we looked */
        r.stage = s->info.to.len > 0 ? STAGE_TLS : STAGE_GREETING;
    if (r.stage == STAGE_END && why == FAILURE_SHORT && stream_pending(s->stream) > 0)
        /* the end of the message, which is the last, is still here */
        r.stage = s->state == SESSION_END ? STAGE_BODY : states[s->state].stage;
    session_die(s, &r, false);
    leave_frame(s);
}

static void on_closed(void *ctx) {
    struct session *s = ctx;
    enter_frame(s);
    session_die_failed(s, FAILURE_CLOSED, NULL);
    leave_frame(s);
}

static const struct stream_events stream_events = {.on_open = on_open,
                                                   .on_read = on_read,
                                                   .on_drained = on_drained,
                                                   .on_failed = on_failed,
                                                   .on_closed = on_closed};

/* ---- the owner's calls ---- */

struct session *session_open(struct loop *l, const struct session_options *o,
                             const struct session_events *ev, void *ctx) {
    ASSERT(o->ehlo_name && o->host_name);
    ASSERT(o->tls == SESSION_TLS_NONE || o->tls_ctx);
    struct session *s = mem_zalloc(sizeof(*s));
    s->loop = l;
    s->o = *o;
    s->o.tls_ctx = o->tls_ctx ? tls_client_ctx_ref(o->tls_ctx) : NULL;
    s->host_name = str_dupz(str_of(o->host_name));
    s->ehlo_name = str_dupz(str_of(o->ehlo_name));
    s->o.host_name = s->o.ehlo_name = s->o.auth_user = s->o.auth_password = NULL;
    buf_init(&s->auth_user, 1024);
    buf_init(&s->auth_password, 4096);
    if (o->auth_user) {
        buf_putz(&s->auth_user, o->auth_user);
        buf_putz(&s->auth_password, o->auth_password ? o->auth_password : "");
    }
    s->ev = ev;
    s->ctx = ctx;
    s->parser = reply_parser_new();
    transcript_init(&s->transcript, o->keep_transcript);
    sockaddr_print(&o->to, s->info.peer);
    s->watchdog = timer_new(l, out_of_time, s);
    bool is_implicit = o->tls == SESSION_TLS_IMPLICIT;
    struct stream_connect_options c = {.to = o->to,
                                       .source = o->source,
                                       .rival = o->rival,
                                       .rival_source = o->rival_source,
                                       .head_start_ms = o->head_start_ms,
                                       .connect_timeout_ms = o->timeouts.connect,
                                       .tls = is_implicit ? s->o.tls_ctx : NULL,
                                       .verify = is_implicit ? TLS_VERIFY_NAME : TLS_VERIFY_NONE,
                                       .tls_name = s->host_name,
                                       .tls_timeout_ms = o->timeouts.starttls};
    s->stream = stream_connect(l, &c, &stream_events, s);
    char rival[SOCKADDR_TEXT_SIZE] = "";
    if (o->rival.len > 0)
        sockaddr_print(&o->rival, rival);
    transcript_note(&s->transcript, "%s %s%s%s", s->host_name, s->info.peer,
                    o->rival.len > 0 ? " or " : "", rival);
    return s;
}

void session_set_events(struct session *s, const struct session_events *ev, void *ctx) {
    s->ev = ev;
    s->ctx = ctx;
}

void session_close(struct session **sp) {
    struct session *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    enter_frame(s);
    s->is_closed = true;
    s->state = SESSION_DEAD;
    disconnect(s, false);
    leave_frame(s);
}

void session_quit(struct session **sp) {
    struct session *s = *sp;
    if (s && s->state == SESSION_IDLE)
        disconnect(s, true);
    session_close(sp);
}

const struct session_info *session_info_of(const struct session *s) {
    return &s->info;
}

struct str session_transcript(const struct session *s) {
    return transcript_text(&s->transcript);
}
