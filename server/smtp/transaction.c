#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/smtp/command.h"
#include "server/smtp/session_state.h"

enum {
    WINDOW = 128 * 1024,       /* of body, with the stream at a time */
    COPY_BELOW = 8 * 1024,     /* shorter runs are gathered: one segment, one TLS record */
    SMALL_MESSAGE = 64 * 1024, /* is gathered whole: leaves in one write, or one flight */
    GATHER_MOST =
        32 * 1024, /* here, before it is copied to the stream, which gathers a turn's writes */
    ENVELOPE_USUAL = 192,
    RCPT_PATIENCE_MS = 30000, /* for each recipient, beyond the timeouts of single replies */
    HEARD_LATELY_MS = 1000,   /* a server that spoke then is hardly gone */
};

/* ---- telling the owner ---- */

static bool report(struct session *s, size_t i, const struct session_result *r) {
    if (s->recipient[i] == RECIPIENT_REPORTED)
        return true;
    s->recipient[i] = RECIPIENT_REPORTED;
    s->ev->on_recipient(s->ctx, i, r);
    return !s->is_closed;
}

bool transaction_report_rest(struct session *s, const struct session_result *r) {
    for (size_t i = 0; i < s->t.count; i++)
        if (!report(s, i, r))
            return false;
    return true;
}

static bool report_reply(struct session *s, enum stage stage, const struct reply *r) {
    struct session_result result = {
        .stage = stage, .reply = r, .rcpt_accepted_before = s->accepted};
    return transaction_report_rest(s, &result);
}

void transaction_release(struct session *s) {
    message_unref(&s->t.message);
    free(s->recipient);
    s->recipient = NULL;
    s->t = (struct transaction){0};
    s->in_transaction = false;
}

void transaction_finish(struct session *s, bool reusable) {
    transaction_release(s);
    s->ev->on_done(s->ctx, reusable);
}

/* Everybody knows: on_done, now or when the server has forgotten the transaction as well. */
static void finish_after(struct session *s, bool success) {
    if (session_die_out_of_step(s))
        return;
    if (success) {
        s->has_taken = true;
        session_enter(s, SESSION_IDLE);
        transaction_finish(s, true);
    } else {
        session_enter(s, SESSION_RESET);
    }
}

/* ---- beginning ---- */

static bool needs_utf8(const struct transaction *t) {
    bool needs = t->needs_smtputf8 || !str_is_ascii(t->mail_from);
    for (size_t i = 0; i < t->count && !needs; i++)
        needs = !str_is_ascii(t->recipient[i].email);
    return needs;
}

/* What can be known to fail before a byte is sent. */
static enum failure foresee(struct session *s, struct errinfo *info) {
    const struct capability *c = &s->caps;
    if (body_check(message_bytes(s->t.message), &s->is_8bit, info) != OK)
        return FAILURE_LOCAL;
    if (s->t.needs_smtputf8 && !c->smtputf8) /* C41 */
        return FAILURE_NEEDS_SMTPUTF8;
    if (s->is_8bit && !c->eightbit) { /* C5, RFC 6152 3 */
        (void)err_set(info, ERR_INVALID, "", "the server does not take 8-bit content");
        return FAILURE_NEEDS_SMTPUTF8;
    }
    if (c->size_max > 0 && message_size(s->t.message) > c->size_max) { /* C35 */
        (void)err_set(info, ERR_INVALID, "", "the message has %zu octets, the server takes %llu",
                      message_size(s->t.message), (unsigned long long)c->size_max);
        return FAILURE_TOO_LARGE;
    }
    return FAILURE_NONE;
}

static enum err put_mail(const struct session *s, struct buf *out) {
    struct command_mail m = {.from = s->t.mail_from,
                             .with_size = s->caps.size_known,
                             .size_bytes = message_size(s->t.message),
                             .with_8bitmime = s->is_8bit,
                             .with_smtputf8 = s->t.needs_smtputf8};
    return command_mail(out, &m);
}

/* A chunk of none is refused by some (Postfix: "Null BDAT request"), and a whole line would be one
 * more command to who does not know BDAT. */
enum { TRIAL_OCTETS = 1 };

static size_t tried_octets(const struct session *s) {
    return s->is_trial ? TRIAL_OCTETS : 0;
}

static void put_bdat(const struct session *s, struct buf *out) {
    struct str piece[BODY_CHUNK_PIECES];
    size_t octets = body_chunk(message_bytes(s->t.message), piece) - tried_octets(s);
    buf_printf(out, "BDAT %zu LAST\r\n", octets);
}

/* All commands of the envelope, checked before the first is sent. */
static enum err put_envelope(const struct session *s, struct buf *out) {
    enum err e = put_mail(s, out);
    for (size_t i = 0; i < s->t.count && e == OK; i++)
        e = command_rcpt(out, s->t.recipient[i].email, s->t.needs_smtputf8);
    if (s->is_one_flight)
        put_bdat(s, out);
    else
        buf_putz(out, s->is_trial ? "BDAT 1\r\n" : "DATA\r\n");
    return e == OK ? buf_status(out) : e;
}

static void send_lines(struct session *s, const struct buf *lines, size_t replies) {
    transcript_client(&s->transcript, buf_str(lines));
    session_command(s, buf_str(lines), replies);
}

/* A trial, then one flight, or neither. To who takes one message a session, or says 500 to BDAT, no
 * message was sent unasked; who was silent for a while may be gone: a connection that is lost
 * behind a message leaves its outcome unknown. What a server would begin a message by goes to
 * nobody who may have refused the recipients, and may not have taken the chunk that it has to (T1).
 */
static void choose_way(struct session *s, const struct transaction *t) {
    bool may_be = s->caps.pipelining && s->caps.chunking && !t->avoid_chunking && s->has_taken &&
                  message_size(t->message) <= SMALL_MESSAGE &&
                  message_size(t->message) > TRIAL_OCTETS &&
                  !body_has_command(message_bytes(t->message));
    s->is_pipelined = s->caps.pipelining;
    s->is_trial = may_be && !s->knows_bdat;
    s->is_one_flight =
        may_be && s->knows_bdat && clock_boot_ms() - s->heard_boot_ms < HEARD_LATELY_MS;
}

/* The octets that follow BDAT 1, or of those after them all. */
static void send_octets(struct session *s, size_t from, size_t most) {
    struct str piece[BODY_CHUNK_PIECES];
    (void)body_chunk(message_bytes(s->t.message), piece);
    for (size_t i = 0; i < BODY_CHUNK_PIECES; i++) {
        size_t skipped = from < piece[i].n ? from : piece[i].n;
        struct str rest = str_from(piece[i], skipped);
        from -= skipped;
        rest.n = rest.n < most ? rest.n : most;
        most -= rest.n;
        if (rest.n > 0)
            stream_write(s->stream, rest);
    }
}

static void send_chunk(struct session *s) {
    transcript_note(&s->transcript, "message, %zu octets", message_size(s->t.message));
    send_octets(s, tried_octets(s), SIZE_MAX);
    s->is_body_written = !stream_has_failed(s->stream);
}

void session_send(struct session *s, const struct transaction *t) {
    ASSERT(s->state == SESSION_IDLE && !s->in_transaction);
    ASSERT(t->count > 0 && t->message);
    if (s->info.transactions++ > 0)
        transcript_clear(&s->transcript);
    s->t = *t;
    s->t.needs_smtputf8 = needs_utf8(t);
    s->t.message = message_ref(t->message);
    s->recipient = mem_zalloc(t->count * sizeof(*s->recipient));
    s->in_transaction = true;
    s->next = s->asked = s->accepted = 0;
    s->is_mail_refused = s->is_body_written = false;
    choose_way(s, t);
    s->refusal_info = (struct errinfo){0};
    s->refusal = foresee(s, &s->refusal_info);
    struct buf lines = BUF_INIT(1024 * 1024 + t->count * 512);
    (void)buf_reserve(&lines, ENVELOPE_USUAL + t->count * 64);
    enum err e = s->refusal == FAILURE_NONE ? put_envelope(s, &lines) : OK;
    if (e == ERR_UNAVAILABLE) {
        (void)err_set(&s->refusal_info, e, "", "no memory for the envelope");
        s->refusal = FAILURE_SHORT;
    } else if (e != OK) {
        (void)err_set(&s->refusal_info, e, "", "an address that cannot be sent");
        s->refusal = FAILURE_LOCAL;
    }
    if (s->refusal != FAILURE_NONE) {
        session_enter(s, SESSION_REFUSED); /* no callback runs inside session_send() */
    } else {
        timer_set(s->watchdog, s->o.timeouts.mail + s->o.timeouts.rcpt + s->o.timeouts.data +
                                   (s->is_one_flight ? s->o.timeouts.end : 0) +
                                   (int64_t)t->count * RCPT_PATIENCE_MS);
        session_enter(s, SESSION_MAIL);
        if (s->is_pipelined) {
            s->asked = t->count;
            send_lines(s, &lines, t->count + 2);
            if (s->is_one_flight)
                send_chunk(s);
            else if (s->is_trial)
                send_octets(s, 0, TRIAL_OCTETS);
        } else {
            struct buf mail = BUF_INIT(4096);
            ASSERT(put_mail(s, &mail) == OK);
            send_lines(s, &mail, 1);
            buf_release(&mail);
        }
    }
    buf_release(&lines);
}

void transaction_refused(struct session *s) {
    struct session_result r = {.stage = STAGE_MAIL, .failure = s->refusal};
    r.text = str_of(s->refusal_info.text[0] ? s->refusal_info.text : failure_text(s->refusal));
    if (s->refusal == FAILURE_LOCAL)
        log_error("smtp", "message not sent", LOG_ID("message", message_id_of(s->t.message)),
                  LOG_STR("why", r.text));
    if (!transaction_report_rest(s, &r))
        return;
    session_enter(s, SESSION_IDLE);
    transaction_finish(s, true);
}

/* ---- body ---- */

static void release_message(void *arg) {
    struct message *m = arg;
    message_unref(&m);
}

static void flush_gathered(struct session *s, struct buf *gathered) {
    if (gathered->n > 0)
        stream_write(s->stream, buf_str(gathered));
    buf_clear(gathered);
}

/* Hands the stream up to a window of body. Long runs go by reference into the shared message;
 * what is short is gathered, a small message with its terminator as one write. */
static void pump_body(struct session *s) {
    size_t copy_below =
        message_size(s->t.message) <= SMALL_MESSAGE ? SMALL_MESSAGE + 1 : COPY_BELOW;
    struct buf gathered = BUF_INIT(GATHER_MOST);
    struct str piece;
    size_t usual = message_size(s->t.message) + 64; /* dots that are doubled, and the end */
    if (usual <= GATHER_MOST)
        (void)buf_reserve(&gathered, usual);
    while (!stream_has_failed(s->stream) && stream_pending(s->stream) + gathered.n < WINDOW) {
        if (!body_next(&s->body, WINDOW / 2, &piece)) {
            s->is_body_written = true;
            break;
        }
        if (gathered.n + piece.n > GATHER_MOST)
            flush_gathered(s, &gathered);
        if (piece.n <= GATHER_MOST && piece.n < copy_below) {
            buf_put(&gathered, piece);
        } else if (piece.n < copy_below) {
            stream_write(s->stream, piece);
        } else {
            flush_gathered(s, &gathered);
            stream_write_ref(s->stream, piece, release_message, message_ref(s->t.message));
        }
    }
    ASSERT(buf_status(&gathered) == OK);
    flush_gathered(s, &gathered);
    buf_release(&gathered);
    if (stream_has_failed(s->stream))
        s->is_body_written = false; /* no memory for all of it: the dot is not sent */
    else if (s->is_body_written && stream_pending(s->stream) == 0)
        session_enter(s, SESSION_END);
}

void transaction_drained(struct session *s) {
    if (s->is_body_written)
        session_enter(s, SESSION_END);
    else {
        stream_set_deadline(s->stream, s->o.timeouts.block);
        pump_body(s);
    }
}

/* The message of a trial. */
static void send_bdat(struct session *s) {
    struct buf line = BUF_INIT(64);
    put_bdat(s, &line);
    ASSERT(buf_status(&line) == OK);
    transcript_client(&s->transcript, buf_str(&line));
    stream_write(s->stream, buf_str(&line));
    buf_release(&line);
    send_chunk(s);
    if (s->is_body_written && stream_pending(s->stream) == 0)
        session_enter(s, SESSION_END);
}

static void begin_body(struct session *s) {
    size_t octets = message_size(s->t.message);
    int64_t rate = s->o.timeouts.min_rate_bytes_s;
    timer_cancel(s->watchdog);
    if (rate > 0)
        timer_set(s->watchdog, s->o.timeouts.block + (int64_t)octets * 1000 / rate);
    if (s->is_trial) {
        send_bdat(s);
        return;
    }
    transcript_note(&s->transcript, "message, %zu octets", octets);
    body_init(&s->body, message_bytes(s->t.message));
    pump_body(s);
}

/* ---- states ---- */

static void ask_recipient(struct session *s) {
    struct buf line = BUF_INIT(4096);
    ASSERT(command_rcpt(&line, s->t.recipient[s->next].email, s->t.needs_smtputf8) == OK);
    s->asked++;
    send_lines(s, &line, 1);
    buf_release(&line);
}

void transaction_enter(struct session *s) {
    switch (s->state) {
    case SESSION_RCPT:
        if (s->asked == s->next)
            ask_recipient(s);
        break;
    case SESSION_DATA:
        if (!s->is_pipelined) {
            transcript_client(&s->transcript, STR("DATA\r\n"));
            session_command(s, STR("DATA\r\n"), 1);
        }
        break;
    case SESSION_BODY:
        begin_body(s);
        break;
    case SESSION_END:
        timer_cancel(s->watchdog);
        if (!s->is_one_flight) /* where its reply is expected already */
            s->expected++;
        break;
    case SESSION_RESET:
        timer_cancel(s->watchdog);
        transcript_client(&s->transcript, STR("RSET\r\n"));
        session_command(s, STR("RSET\r\n"), 1);
        break;
    default:
        break;
    }
}

static void answered_mail(struct session *s, const struct reply *r) {
    int digit = r->code / 100;
    if (digit == 3) {
        session_die_protocol(s, "a reply to MAIL that belongs nowhere");
        return;
    }
    if (digit != 2) {
        s->is_mail_refused = true;
        if (!report_reply(s, STAGE_MAIL, r))
            return;
        if (!s->is_pipelined) {
            finish_after(s, false);
            return;
        }
    }
    session_enter(s, SESSION_RCPT);
}

static void answered_rcpt(struct session *s, const struct reply *r) {
    int digit = r->code / 100;
    if (digit == 3) {
        session_die_protocol(s, "a reply to RCPT that belongs nowhere");
        return;
    }
    size_t i = s->next++;
    if (digit == 2) {
        s->accepted++; /* also behind a refused MAIL: then DATA may be accepted too */
        if (!s->is_mail_refused)
            s->recipient[i] = RECIPIENT_ACCEPTED;
    } else {
        struct session_result result = {
            .stage = STAGE_RCPT, .reply = r, .rcpt_accepted_before = s->accepted};
        if (!report(s, i, &result))
            return;
        if (s->expected == 0 && session_die_out_of_step(s))
            return;
    }
    if (s->next < s->t.count)
        session_enter(s, SESSION_RCPT);
    else if (s->is_one_flight)
        session_enter(s, SESSION_END);
    else if (s->is_pipelined || s->accepted > 0)
        session_enter(s, SESSION_DATA);
    else
        finish_after(s, false);
}

static void answered_early(struct session *s, const struct reply *r) {
    if (r->code >= 400) {
        struct session_result why = {
            .stage = STAGE_BODY, .reply = r, .rcpt_accepted_before = s->accepted};
        session_die(s, &why, false);
    } else {
        session_die_protocol(s, "a reply before the end of the message");
    }
}

static bool has_somebody(const struct session *s) {
    for (size_t i = 0; i < s->t.count; i++)
        if (s->recipient[i] == RECIPIENT_ACCEPTED)
            return true;
    return false;
}

/* RFC 3030 2: to who knows BDAT, none of these but 503, for nobody, is an answer. What a message is
 * refused for has an enhanced code of another subject (X.3.3 is "cannot do that"). */
static bool is_no_command(const struct session *s, const struct reply *r) {
    struct enhanced_code e = r->enhanced;
    bool is_syntax = r->code == 500 || r->code == 501 || r->code == 502 || r->code == 504 ||
                     (r->code == 503 && has_somebody(s));
    return is_syntax &&
           (e.class_ == 0 || e.subject == 0 || e.subject == 5 || (e.subject == 3 && e.detail == 3));
}

static void die_of_chunking(struct session *s) {
    s->info.is_chunking_broken = true;
    struct session_result why = {.stage = STAGE_DATA,
                                 .failure = FAILURE_CHUNKING,
                                 .text = str_of(failure_text(FAILURE_CHUNKING)),
                                 .rcpt_accepted_before = s->accepted};
    session_die(s, &why, false); /* it may take the chunk for commands, and another for its rest */
}

/* To BDAT 1. */
static void answered_trial(struct session *s, const struct reply *r) {
    bool is_for_somebody = has_somebody(s);
    if (r->code / 100 == 2 && is_for_somebody) {
        session_enter(s, SESSION_BODY);
    } else if (r->code / 100 == 2) {
        finish_after(s, false);
    } else if (r->code < 400 || is_no_command(s, r) || (r->code >= 500 && is_for_somebody)) {
        die_of_chunking(s); /* whatever it was: the answer to DATA says what is wrong */
    } else {
        s->info.is_chunking_broken |= is_for_somebody; /* or it may be put off for ever */
        if (report_reply(s, STAGE_DATA, r))
            finish_after(s, false);
    }
}

static void answered_data(struct session *s, const struct reply *r) {
    if (s->is_trial) {
        answered_trial(s, r);
    } else if (r->code == 354 && has_somebody(s)) {
        session_enter(s, SESSION_BODY);
    } else if (r->code == 354) {
        /* C36: the server wants a message for nobody: an empty one, whatever it says to it */
        transcript_client(&s->transcript, STR(".\r\n"));
        stream_write(s->stream, STR(".\r\n"));
        session_enter(s, SESSION_END);
    } else if (r->code >= 400) {
        if (report_reply(s, STAGE_DATA, r))
            finish_after(s, false);
    } else {
        session_die_protocol(s, "a reply to DATA that is neither 354 nor a refusal"); /* C6 */
    }
}

/* No 354 stands between replies to commands and the one to the message: which of them this was is
 * unknown when one is left over. But a server may say at once that it goes. */
static bool is_more_said(const struct session *s) {
    struct str rest = stream_peek(s->stream);
    return rest.n > 0 && !str_starts_with(STR("421"), str_slice(rest, 0, rest.n < 3 ? rest.n : 3));
}

static void answered_end(struct session *s, const struct reply *r) {
    bool success = r->code / 100 == 2;
    if ((s->is_trial || s->is_one_flight) && is_no_command(s, r)) {
        die_of_chunking(s);
        return;
    }
    if (s->is_one_flight && stream_pending(s->stream) > 0) {
        answered_early(s, r);
        return;
    }
    if ((s->is_trial || s->is_one_flight) && success && is_more_said(s)) {
        session_die_protocol(s, "more replies than commands");
        return;
    }
    if (!success && r->code < 400) {
        session_die_protocol(s, "a reply to the message that belongs nowhere");
        return;
    }
    bool had_somebody = has_somebody(s);
    s->knows_bdat |= s->is_trial && success;
    if (report_reply(s, STAGE_END, r))
        finish_after(s, success && had_somebody);
}

/* A reply while the body is under way: the server gives up on it, or was quicker than the stream's
 * word that all is sent. */
static void answered_body(struct session *s, const struct reply *r) {
    if (s->is_trial && is_no_command(s, r)) {
        die_of_chunking(s);
    } else if (s->is_body_written && stream_pending(s->stream) == 0) {
        session_enter(s, SESSION_END);
        s->expected--;
        answered_end(s, r);
    } else {
        answered_early(s, r);
    }
}

void transaction_reply(struct session *s, const struct reply *r) {
    if (r->code == 421) {
        struct session_result why = {
            .stage = session_stage_of_reply(s), .reply = r, .rcpt_accepted_before = s->accepted};
        session_die(s, &why, false);
        return;
    }
    switch (s->state) {
    case SESSION_MAIL:
        answered_mail(s, r);
        break;
    case SESSION_RCPT:
        answered_rcpt(s, r);
        break;
    case SESSION_DATA:
        answered_data(s, r);
        break;
    case SESSION_BODY:
        answered_body(s, r);
        break;
    case SESSION_END:
        answered_end(s, r);
        break;
    case SESSION_RESET:
        if (r->code / 100 == 2) {
            session_enter(s, SESSION_IDLE);
            transaction_finish(s, true);
        } else {
            struct session_result why = {.stage = STAGE_END, .reply = r};
            session_die(s, &why, true);
        }
        break;
    default:
        session_die_protocol(s, "a reply that nothing asked for");
        break;
    }
}
