#include <stdlib.h>

#include "server/base/log.h"
#include "server/smtp/command.h"
#include "server/smtp/session_state.h"

enum {
    WINDOW = 128 * 1024,       /* of body, with the stream at a time */
    COPY_BELOW = 8 * 1024,     /* shorter runs are gathered: one segment, one TLS record */
    SMALL_MESSAGE = 64 * 1024, /* is gathered whole: leaves in one write */
    GATHER_MOST =
        32 * 1024, /* here, before it is copied to the stream, which gathers a turn's writes */
    ENVELOPE_USUAL = 192,
    RCPT_PATIENCE_MS = 30000, /* for each recipient, beyond the timeouts of single replies */
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

/* All commands of the envelope, checked before the first is sent. */
static enum err put_envelope(const struct session *s, struct buf *out) {
    enum err e = put_mail(s, out);
    for (size_t i = 0; i < s->t.count && e == OK; i++)
        e = command_rcpt(out, s->t.recipient[i].email, s->t.needs_smtputf8);
    buf_putz(out, "DATA\r\n");
    return e == OK ? buf_status(out) : e;
}

static void send_lines(struct session *s, const struct buf *lines, size_t replies) {
    transcript_client(&s->transcript, buf_str(lines));
    session_command(s, buf_str(lines), replies);
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
    s->is_pipelined = s->caps.pipelining;
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
                                   (int64_t)t->count * RCPT_PATIENCE_MS);
        session_enter(s, SESSION_MAIL);
        if (s->is_pipelined) {
            s->asked = t->count;
            send_lines(s, &lines, t->count + 2);
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

static void begin_body(struct session *s) {
    size_t octets = message_size(s->t.message);
    transcript_note(&s->transcript, "message, %zu octets", octets);
    int64_t rate = s->o.timeouts.min_rate_bytes_s;
    timer_cancel(s->watchdog);
    if (rate > 0)
        timer_set(s->watchdog, s->o.timeouts.block + (int64_t)octets * 1000 / rate);
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
    else if (s->is_pipelined || s->accepted > 0)
        session_enter(s, SESSION_DATA);
    else
        finish_after(s, false);
}

static bool has_somebody(const struct session *s) {
    for (size_t i = 0; i < s->t.count; i++)
        if (s->recipient[i] == RECIPIENT_ACCEPTED)
            return true;
    return false;
}

static void answered_data(struct session *s, const struct reply *r) {
    if (r->code == 354 && has_somebody(s)) {
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

static void answered_end(struct session *s, const struct reply *r) {
    bool success = r->code / 100 == 2;
    if (!success && r->code < 400) {
        session_die_protocol(s, "a reply to the message that belongs nowhere");
        return;
    }
    bool had_somebody = has_somebody(s);
    if (report_reply(s, STAGE_END, r))
        finish_after(s, success && had_somebody);
}

/* A reply while the body is under way: the server gives up on it, or was quicker than the stream's
 * word that all is sent. */
static void answered_body(struct session *s, const struct reply *r) {
    if (s->is_body_written && stream_pending(s->stream) == 0) {
        session_enter(s, SESSION_END);
        s->expected--;
        answered_end(s, r);
    } else if (r->code >= 400) {
        struct session_result why = {
            .stage = STAGE_BODY, .reply = r, .rcpt_accepted_before = s->accepted};
        session_die(s, &why, false);
    } else {
        session_die_protocol(s, "a reply before the end of the message");
    }
}

void transaction_reply(struct session *s, const struct reply *r) {
    if (r->code == 421) {
        struct session_result why = {
            .stage = session_stage(s), .reply = r, .rcpt_accepted_before = s->accepted};
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
