#include "server/smtp/session_state.h"

/* From the greeting to IDLE: what each reply means for the next step (choose_next). */

void opening_begin_auth(struct session *s) {
    struct buf line = BUF_INIT(64 * 1024);
    auth_begin(s->auth, &line);
    transcript_note(&s->transcript, "AUTH %s, secret left out", auth_mechanism(s->auth));
    session_command(s, buf_str(&line), 1);
    buf_release_secret(&line);
}

static void ready(struct session *s) {
    s->info.pipelining = s->caps.pipelining;
    s->info.smtputf8 = s->caps.smtputf8;
    s->info.eightbit = s->caps.eightbit;
    s->info.enhanced = s->caps.enhanced;
    s->info.size_known = s->caps.size_known;
    s->info.size_max = s->caps.size_max;
    buf_release_secret(&s->auth_user);
    buf_release_secret(&s->auth_password);
    session_enter(s, SESSION_IDLE);
    s->ev->on_ready(s->ctx);
}

static void start_auth(struct session *s) {
    if (!s->o.insecure_auth && !s->info.tls.is_verified) {
        session_die_failed(s, FAILURE_AUTH_UNAVAILABLE,
                           "a password is only sent over TLS with a verified certificate");
        return;
    }
    s->auth = auth_new(&s->caps, s->auth_user.p, s->auth_password.p);
    if (!s->auth)
        session_die_failed(s, FAILURE_AUTH_UNAVAILABLE,
                           "the server offers neither PLAIN nor LOGIN");
    else
        session_enter(s, SESSION_AUTH);
}

static void after_tls_question(struct session *s) {
    if (s->auth_user.n > 0)
        start_auth(s);
    else
        ready(s);
}

static void choose_next(struct session *s) {
    bool wants_tls = s->o.tls != SESSION_TLS_NONE && s->o.tls != SESSION_TLS_IMPLICIT;
    if (!wants_tls || s->had_tls)
        after_tls_question(s);
    else if (s->caps.starttls)
        session_enter(s, SESSION_STARTTLS);
    else if (s->o.tls == SESSION_TLS_OPPORTUNISTIC)
        after_tls_question(s);
    else
        session_die_failed(s, FAILURE_TLS_NOT_OFFERED, NULL);
}

static void answered_ehlo(struct session *s, const struct reply *r) {
    int digit = r->code / 100;
    if (digit == 2) {
        s->is_esmtp = s->state == SESSION_EHLO;
        if (s->is_esmtp)
            s->caps = capability_parse(r);
        choose_next(s);
    } else if (digit == 5 && s->state == SESSION_EHLO) {
        if (!session_die_out_of_step(s))
            session_enter(s, SESSION_HELO); /* C1 */
    } else {
        session_die_refused(s, r);
    }
}

static void answered_starttls(struct session *s, const struct reply *r) {
    if (r->code == 220) {
        if (stream_peek(s->stream).n > 0) /* T6 */
            session_die_failed(s, FAILURE_TLS_INJECTION, NULL);
        else if (stream_pending(s->stream) > 0)
            session_die_protocol(s, "an answer to STARTTLS before it was asked");
        else
            session_enter(s, SESSION_TLS);
    } else if (r->code / 100 < 4) {
        session_die_protocol(s, "a reply to STARTTLS that is neither 220 nor a refusal");
    } else if (s->o.tls == SESSION_TLS_OPPORTUNISTIC) {
        if (!session_die_out_of_step(s))
            after_tls_question(s);
    } else {
        session_die_refused(s, r);
    }
}

static void answered_auth(struct session *s, const struct reply *r) {
    if (r->code == 334 && s->is_auth_canceled) {
        session_die_protocol(s, "a challenge after AUTH was canceled");
    } else if (r->code == 334) {
        struct buf line = BUF_INIT(64 * 1024);
        /* after a cancel the server's 501 is what is reported */
        s->is_auth_canceled = auth_continue(s->auth, r->text, &line) != OK;
        if (s->is_auth_canceled)
            transcript_note(&s->transcript, "AUTH canceled: unexpected challenge");
        session_command(s, buf_str(&line), 1);
        buf_release_secret(&line);
    } else if (r->code / 100 == 2) {
        auth_free(&s->auth);
        transcript_note(&s->transcript, "authenticated");
        ready(s);
    } else if (r->code >= 400) {
        session_die_refused(s, r);
    } else {
        session_die_protocol(s, "a reply to AUTH that belongs nowhere");
    }
}

void opening_reply(struct session *s, const struct reply *r) {
    switch (s->state) {
    case SESSION_GREETING:
        if (r->code == 220)
            session_enter(s, SESSION_EHLO);
        else if (r->code >= 400)
            session_die_refused(s, r);
        else
            session_die_protocol(s, "a greeting that is neither 220 nor a refusal");
        break;
    case SESSION_EHLO:
    case SESSION_HELO:
        answered_ehlo(s, r);
        break;
    case SESSION_STARTTLS:
        answered_starttls(s, r);
        break;
    case SESSION_AUTH:
        answered_auth(s, r);
        break;
    default:
        session_die_protocol(s, "a reply that nothing asked for");
        break;
    }
}
