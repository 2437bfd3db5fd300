#include "server/smtp/dialogue.h"

#include <stdlib.h>

#include "server/base/limits.h"
#include "server/smtp/data.h"
#include "server/smtp/path.h"

enum {
    ERRORS_MAX = 20,        /* R25: then 421 */
    OUT_ENOUGH = 64 * 1024, /* replies for one call; the caller comes back with the rest */
    RECEIVED_MAX = 100,     /* R26 */
    BEGINNINGS_MAX = 20,    /* of transactions since the last message, that are steps */
    STEP_OCTETS = 64,       /* of data are a step, or a line: some clients send each by itself */
};

enum phase {
    PHASE_EXPECT_HELO,
    PHASE_READY,
    PHASE_MAIL,
    PHASE_RCPT,
    PHASE_DATA,
    PHASE_ANSWERING,
    PHASE_TLS,
    PHASE_CLOSED,
};

struct dialogue {
    struct dialogue_options o;
    char *host_name;
    enum phase phase;
    bool is_secured;
    struct buf line;     /* an unfinished command */
    struct arena *arena; /* of the transaction: addresses */
    struct buf helo;
    struct buf data;
    struct data_reader reader;
    struct str *rcpt;
    size_t rcpt_room;
    struct received message;
    size_t errors, commands, steps;
    size_t beginnings, asked; /* MAIL and RCPT since the last message */
};

struct dialogue *dialogue_new(const struct dialogue_options *o) {
    ASSERT(o->host_name && o->message_bytes_max > 0);
    struct dialogue *d = mem_zalloc(sizeof(*d));
    d->o = *o;
    if (d->o.rcpt_max == 0)
        d->o.rcpt_max = LIMIT_SMTP_RCPT;
    d->host_name = str_dupz(str_of(o->host_name));
    buf_init(&d->line, LIMIT_SMTP_COMMAND);
    buf_init(&d->helo, LIMIT_SMTP_COMMAND);
    buf_init(&d->data, o->message_bytes_max);
    d->arena = arena_new();
    return d;
}

void dialogue_free(struct dialogue **dp) {
    struct dialogue *d = *dp;
    if (d) {
        buf_release(&d->line);
        buf_release(&d->helo);
        buf_release(&d->data);
        arena_free(&d->arena);
        free(d->rcpt);
        free(d->host_name);
        free(d);
    }
    *dp = NULL;
}

/* ---- replies ---- */

static void answer(struct buf *out, int code, const char *enhanced, const char *text) {
    buf_printf(out, "%d %s%s%s\r\n", code, enhanced ? enhanced : "", enhanced ? " " : "", text);
}

static void refuse(struct dialogue *d, struct buf *out, int code, const char *enhanced,
                   const char *text) {
    if (++d->errors > ERRORS_MAX) {
        answer(out, 421, "4.7.0", "too many errors, closing");
        d->phase = PHASE_CLOSED;
    } else {
        answer(out, code, enhanced, text);
    }
}

static void refuse_and_close(struct dialogue *d, struct buf *out, int code, const char *enhanced,
                             const char *text) {
    answer(out, code, enhanced, text);
    d->phase = PHASE_CLOSED;
}

static void put_answer(struct buf *out, struct receive_answer a) {
    answer(out, a.code, a.enhanced, a.text ? a.text : a.code < 400 ? "OK" : "refused");
}

void dialogue_greet(struct dialogue *d, struct buf *out) {
    buf_printf(out, "220 %s ESMTP\r\n", d->host_name); /* R21: no enhanced code here */
}

/* ---- transaction ---- */

static void reset(struct dialogue *d) {
    arena_clear(d->arena);
    buf_release(&d->data);
    d->message = (struct received){.helo = buf_str(&d->helo)};
    /* who was told goodbye (one error too many) stays so */
    if (d->phase != PHASE_EXPECT_HELO && d->phase != PHASE_CLOSED)
        d->phase = PHASE_READY;
}

void dialogue_secured(struct dialogue *d) {
    ASSERT(d->phase == PHASE_TLS);
    d->is_secured = true;
    d->phase = PHASE_EXPECT_HELO; /* RFC 3207 4.2: all knowledge is forgotten */
    buf_clear(&d->helo);
    buf_clear(&d->line);
    reset(d);
}

struct received *dialogue_message(struct dialogue *d) {
    ASSERT(d->phase == PHASE_ANSWERING);
    return &d->message;
}

size_t dialogue_progress(const struct dialogue *d) {
    return d->commands + (d->phase == PHASE_DATA ? d->reader.octets / 1024 : 0);
}

size_t dialogue_steps(const struct dialogue *d) {
    return d->steps;
}

bool dialogue_is_in_data(const struct dialogue *d) {
    return d->phase == PHASE_DATA;
}

size_t dialogue_held_bytes(const struct dialogue *d) {
    return d->data.n;
}

/* ---- commands ---- */

static void do_helo(struct dialogue *d, struct str arg, bool is_esmtp, struct buf *out) {
    arg = str_trim(arg);
    if (arg.n == 0 || str_has_control(arg, false)) {
        refuse(d, out, 501, "5.5.4", "a name is needed");
        return;
    }
    buf_clear(&d->helo);
    buf_put(&d->helo, arg);
    d->steps += d->phase == PHASE_EXPECT_HELO;
    d->phase = PHASE_READY;
    reset(d);
    if (!is_esmtp) {
        answer(out, 250, NULL, d->host_name);
        return;
    }
    buf_printf(out, "250-%s\r\n250-PIPELINING\r\n250-SIZE %zu\r\n", d->host_name,
               d->o.message_bytes_max);
    if (d->o.offers_tls && !d->is_secured)
        buf_putz(out, "250-STARTTLS\r\n"); /* R18 */
    buf_putz(out, "250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n");
}

/* One parameter of MAIL; false: refused. */
static bool take_mail_parameter(struct dialogue *d, struct str name, struct str value,
                                struct buf *out) {
    uint64_t size = 0;
    if (str_equal_nocase(name, STR("SIZE"))) {
        if (str_parse_u64(value, UINT64_MAX, &size) != OK) {
            refuse(d, out, 501, "5.5.4", "SIZE wants a number");
            return false;
        }
        if (size > d->o.message_bytes_max) {
            refuse(d, out, 552, "5.3.4", "the message is too large"); /* R19 */
            return false;
        }
        return true;
    }
    if (str_equal_nocase(name, STR("BODY")) &&
        (str_equal_nocase(value, STR("7BIT")) || str_equal_nocase(value, STR("8BITMIME"))))
        return true;
    if (str_equal_nocase(name, STR("SMTPUTF8")) && value.n == 0) {
        d->message.smtputf8 = true;
        return true;
    }
    refuse(d, out, 555, "5.5.4", "unknown parameter");
    return false;
}

static bool take_mail_parameters(struct dialogue *d, struct str parameters, struct buf *out) {
    while (parameters.n > 0) {
        struct str value = str_split(&parameters, ' ');
        if (value.n == 0)
            continue;
        struct str name = str_split(&value, '=');
        if (!take_mail_parameter(d, name, value, out))
            return false;
    }
    return true;
}

static bool refuse_path(struct dialogue *d, enum err e, bool is_utf8, bool is_sender,
                        struct buf *out) {
    if (e == ERR_LIMIT)
        refuse(d, out, 501, is_sender ? "5.1.7" : "5.1.3", "the address is too long");
    else if (e != OK)
        refuse(d, out, 501, is_sender ? "5.1.7" : "5.1.3", "bad address syntax"); /* R11 */
    else if (is_utf8 && !d->message.smtputf8)
        refuse(d, out, 553, "5.6.7", "this address needs SMTPUTF8"); /* R23 */
    else
        return false;
    return true;
}

static void do_mail(struct dialogue *d, struct str arg, struct buf *out) {
    struct str mailbox = STR_NONE, parameters = STR_NONE;
    bool is_utf8 = false;
    if (d->phase != PHASE_READY) {
        refuse(d, out, 503, "5.5.1",
               d->phase == PHASE_EXPECT_HELO ? "say EHLO first" : "a transaction is open");
        return;
    }
    if (!str_starts_with_nocase(arg, STR("FROM:"))) {
        refuse(d, out, 501, "5.5.4", "MAIL FROM:<address>");
        return;
    }
    enum err e = path_parse(str_from(arg, 5), &mailbox, &parameters, &is_utf8);
    bool is_fine = e != OK || take_mail_parameters(d, parameters, out);
    if (!is_fine || refuse_path(d, e, is_utf8, true, out)) {
        reset(d);
        return;
    }
    d->message.mail_from = arena_dup(d->arena, mailbox.n > 0 ? mailbox : STR(""));
    struct receive_answer a = {250, "2.1.0", "OK"};
    if (d->o.policy && d->o.policy->on_mail)
        a = d->o.policy->on_mail(d->o.ctx, d->message.mail_from);
    put_answer(out, a);
    if (a.code >= 400) {
        reset(d);
        return;
    }
    d->phase = PHASE_MAIL;
    if (++d->beginnings <= BEGINNINGS_MAX)
        d->steps++;
}

static void add_recipient(struct dialogue *d, struct str mailbox) {
    if (d->message.rcpt_count == d->rcpt_room) {
        size_t room = d->rcpt_room > 0 ? d->rcpt_room * 2 : 16;
        struct str *grown = mem_zalloc(room * sizeof(*grown));
        if (d->rcpt)
            memcpy(grown, d->rcpt, d->message.rcpt_count * sizeof(*grown));
        free(d->rcpt);
        d->rcpt = grown;
        d->rcpt_room = room;
    }
    d->rcpt[d->message.rcpt_count++] = mailbox;
    d->message.rcpt = d->rcpt;
    d->phase = PHASE_RCPT;
}

static void do_rcpt(struct dialogue *d, struct str arg, struct buf *out) {
    struct str mailbox = STR_NONE, parameters = STR_NONE;
    bool is_utf8 = false;
    /* whatever is answered: who has many recipients asks for each */
    if (++d->asked <= 2 * d->o.rcpt_max)
        d->steps++;
    if (d->phase != PHASE_MAIL && d->phase != PHASE_RCPT) {
        refuse(d, out, 503, "5.5.1", "say MAIL first"); /* R6 */
        return;
    }
    if (!str_starts_with_nocase(arg, STR("TO:"))) {
        refuse(d, out, 501, "5.5.4", "RCPT TO:<address>");
        return;
    }
    enum err e = path_parse(str_from(arg, 3), &mailbox, &parameters, &is_utf8);
    if (e == OK && mailbox.n == 0)
        e = ERR_INVALID;
    if (refuse_path(d, e, is_utf8, false, out))
        return;
    if (parameters.n > 0) {
        refuse(d, out, 555, "5.5.4", "unknown parameter");
        return;
    }
    if (d->message.rcpt_count >= d->o.rcpt_max) {
        answer(out, 452, "4.5.3", "too many recipients"); /* R10 */
        return;
    }
    struct receive_answer a = {250, "2.1.5", "OK"};
    if (d->o.policy && d->o.policy->on_rcpt)
        a = d->o.policy->on_rcpt(d->o.ctx, mailbox);
    if (a.code < 400) /* of who is refused nothing is kept: there is no end to them */
        add_recipient(d, arena_dup(d->arena, mailbox));
    put_answer(out, a);
}

static void do_data(struct dialogue *d, struct str arg, bool is_last, struct buf *out) {
    if (arg.n > 0) {
        refuse(d, out, 501, "5.5.4", "DATA has no argument");
    } else if (d->phase == PHASE_MAIL) {
        refuse(d, out, 554, "5.5.1", "no valid recipients"); /* R20 */
    } else if (d->phase != PHASE_RCPT) {
        refuse(d, out, 503, "5.5.1", "say MAIL and RCPT first");
    } else if (!is_last) {
        refuse_and_close(d, out, 554, "5.5.0", "wait for 354 before the message"); /* T2 */
    } else {
        buf_putz(out, "354 end with <CRLF>.<CRLF>\r\n");
        d->steps++;
        data_init(&d->reader);
        d->phase = PHASE_DATA;
    }
}

static void do_starttls(struct dialogue *d, struct str arg, struct buf *out) {
    if (!d->o.offers_tls) {
        refuse(d, out, 502, "5.5.1", "not here");
    } else if (d->is_secured) {
        refuse(d, out, 503, "5.5.1", "TLS is active already");
    } else if (arg.n > 0) {
        refuse(d, out, 501, "5.5.4", "STARTTLS has no argument");
    } else if (d->phase == PHASE_EXPECT_HELO) {
        refuse(d, out, 503, "5.5.1", "say EHLO first");
    } else {
        answer(out, 220, "2.0.0", "go ahead");
        d->steps++;
        d->phase = PHASE_TLS;
    }
}

static void do_command(struct dialogue *d, struct str line, bool is_last, struct buf *out) {
    struct str arg = line;
    struct str verb = str_split(&arg, ' ');
    arg = str_is_absent(arg) ? STR("") : str_trim(arg);
    d->commands++;
    if (str_equal_nocase(verb, STR("EHLO"))) {
        do_helo(d, arg, true, out);
    } else if (str_equal_nocase(verb, STR("HELO"))) {
        do_helo(d, arg, false, out);
    } else if (str_equal_nocase(verb, STR("MAIL"))) {
        do_mail(d, arg, out);
    } else if (str_equal_nocase(verb, STR("RCPT"))) {
        do_rcpt(d, arg, out);
    } else if (str_equal_nocase(verb, STR("DATA"))) {
        do_data(d, arg, is_last, out);
    } else if (str_equal_nocase(verb, STR("STARTTLS"))) {
        do_starttls(d, arg, out);
    } else if (str_equal_nocase(verb, STR("RSET"))) {
        reset(d); /* R8 */
        answer(out, 250, "2.0.0", "OK");
    } else if (str_equal_nocase(verb, STR("NOOP"))) {
        answer(out, 250, "2.0.0", "OK");
    } else if (str_equal_nocase(verb, STR("VRFY"))) {
        answer(out, 252, "2.5.2", "send some mail, it will be tried"); /* R15 */
    } else if (str_equal_nocase(verb, STR("QUIT"))) {
        answer(out, 221, "2.0.0", "bye");
        d->phase = PHASE_CLOSED;
    } else {
        refuse(d, out, 500, "5.5.2", "unknown command");
    }
}

/* One line from *in, into d->line. OK: complete, without CRLF; ERR_AGAIN; else not SMTP. */
static enum err take_line(struct dialogue *d, struct str *in) {
    const char *lf = memchr(in->p, '\n', in->n);
    size_t n = lf ? (size_t)(lf - in->p) + 1 : in->n;
    if (d->line.n + n > LIMIT_SMTP_COMMAND)
        return ERR_LIMIT;
    buf_put(&d->line, str_slice(*in, 0, n));
    *in = str_from(*in, n);
    if (!lf)
        return ERR_AGAIN;
    struct str line = buf_str(&d->line);
    const char *cr = memchr(line.p, '\r', line.n);
    if (!cr || cr != line.p + line.n - 2 || memchr(line.p, '\0', line.n))
        return ERR_INVALID;
    buf_truncate(&d->line, line.n - 2);
    return OK;
}

static void feed_command(struct dialogue *d, struct str *in, struct buf *out) {
    enum err e = take_line(d, in);
    if (e == ERR_AGAIN)
        return;
    if (e == ERR_LIMIT)
        refuse_and_close(d, out, 500, "5.5.2", "the line is too long");
    else if (e != OK)
        refuse_and_close(d, out, 550, "5.5.2", "lines end in CR LF, and hold neither nor NUL");
    else
        do_command(d, buf_str(&d->line), in->n == 0, out);
    buf_clear(&d->line);
}

/* ---- the message ---- */

/* Received fields in the header (R26). */
static size_t count_received(struct str data) {
    size_t count = 0;
    while (data.n > 0 && data.p[0] != '\r') {
        if (str_starts_with_nocase(data, STR("Received:")))
            count++;
        ptrdiff_t lf = str_find_char(data, '\n');
        data = str_from(data, lf < 0 ? data.n : (size_t)lf + 1);
    }
    return count;
}

static void feed_data(struct dialogue *d, struct str *in, struct buf *out) {
    size_t pieces = d->reader.octets / STEP_OCTETS;
    const char *from = in->p;
    enum err e = data_read(&d->reader, in, &d->data);
    if (memchr(from, '\n', (size_t)(in->p - from)) || d->reader.octets / STEP_OCTETS != pieces)
        d->steps++;
    if (e == ERR_AGAIN)
        return;
    d->commands++;
    if (e != OK) {
        refuse_and_close(d, out, 550, "5.5.2", "lines end in CR LF, and hold neither nor NUL");
        return;
    }
    if (d->reader.is_short) {
        reset(d);
        answer(out, 452, "4.3.1", "no memory for the message");
    } else if (d->reader.is_too_large) {
        reset(d);
        refuse(d, out, 552, "5.3.4", "the message is too large");
    } else if (count_received(buf_str(&d->data)) > RECEIVED_MAX) {
        reset(d);
        refuse(d, out, 554, "5.4.6", "too many hops");
    } else {
        d->message.data = buf_str(&d->data);
        d->beginnings = d->asked = 0;
        d->phase = PHASE_ANSWERING;
    }
}

enum dialogue_wants dialogue_answer(struct dialogue *d, struct receive_answer a, struct buf *out) {
    ASSERT(d->phase == PHASE_ANSWERING);
    put_answer(out, a);
    reset(d);
    if (a.code == 421)
        d->phase = PHASE_CLOSED;
    return d->phase == PHASE_CLOSED ? DIALOGUE_CLOSE : DIALOGUE_MORE;
}

enum dialogue_wants dialogue_feed(struct dialogue *d, struct str *in, struct buf *out) {
    size_t errors = d->errors;
    while (in->n > 0 && d->phase < PHASE_ANSWERING && out->n < OUT_ENOUGH && d->errors == errors) {
        if (d->phase == PHASE_DATA)
            feed_data(d, in, out);
        else
            feed_command(d, in, out);
    }
    return d->phase == PHASE_ANSWERING ? DIALOGUE_ANSWER
           : d->phase == PHASE_TLS     ? DIALOGUE_TLS
           : d->phase == PHASE_CLOSED  ? DIALOGUE_CLOSE
                                       : DIALOGUE_MORE;
}
