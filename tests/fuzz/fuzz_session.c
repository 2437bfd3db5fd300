/* T1, T6, T7, T8: the client's session against a server that says anything, in any cut, and whose
 * connection does anything at any moment. Streams and timers are the ones below: no socket, no
 * clock. The first three octets are options; of the others 0xF8 to 0xFF are what happens to the
 * connection, the rest is what the server says.
 *
 * Whatever it does: each recipient is told once, each transaction ends once, nobody is told of
 * success before the whole message and one final dot, or its chunk, were written, commands are
 * whole lines, no password goes out in clear, nothing is called back inside of a call. */
#include <stdint.h>
#include <stdlib.h>

#include "server/base/log.h"
#include "server/mail/outcome.h"
#include "server/smtp/body.h"
#include "server/smtp/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TRANSACTIONS = 4, RCPT_MAX = 4 };
enum {
    OP_QUIT = 0xF8,
    OP_TLS_VERIFIED,
    OP_TLS_UNVERIFIED,
    OP_WATCHDOG,
    OP_FAILED, /* the next octet says how */
    OP_CLOSED,
    OP_DRAINED,
    OP_TURN /* what was gathered arrives */
};

/* ---- the stream and the timer that the session gets ------------------------------------------ */

struct stream {
    const struct stream_events *ev;
    void *ctx;
    size_t pending;
    bool is_connecting, in_handshake, is_over;
    struct tls_info tls;
    void (*release[64])(void *arg);
    void *release_arg[64];
    size_t release_count;
};

struct timer {
    void (*fn)(void *arg);
    void *arg;
    bool is_set;
};

static struct stream stream;
static struct buf arrived = BUF_INIT(1 << 20), written = BUF_INIT(1 << 20);
static struct buf heard = BUF_INIT(1 << 20); /* all that ever arrived */
static struct timer watchdog;
static bool is_stream_open, is_timer_there;
static char tls_context; /* its address is all that is used */
static int tls_refs;

static void release_all(void) {
    for (size_t i = 0; i < stream.release_count; i++)
        stream.release[i](stream.release_arg[i]);
    stream.release_count = 0;
}

struct stream *stream_connect(struct loop *l, const struct stream_connect_options *o,
                              const struct stream_events *ev, void *ctx) {
    (void)l;
    ASSERT(!is_stream_open);
    is_stream_open = true;
    stream = (struct stream){
        .ev = ev, .ctx = ctx, .is_connecting = true, .in_handshake = o->tls != NULL};
    return &stream;
}

void stream_close(struct stream **sp, bool flush) {
    (void)flush;
    ASSERT(*sp == &stream && is_stream_open);
    release_all();
    is_stream_open = false;
    *sp = NULL;
}

void stream_write(struct stream *s, struct str bytes) {
    ASSERT(is_stream_open && !s->is_connecting && !s->in_handshake);
    buf_put(&written, bytes);
    s->pending += bytes.n;
}

void stream_write_ref(struct stream *s, struct str bytes, void (*done)(void *arg), void *arg) {
    stream_write(s, bytes);
    ASSERT(s->release_count < sizeof s->release / sizeof s->release[0]);
    s->release[s->release_count] = done;
    s->release_arg[s->release_count++] = arg;
}

size_t stream_pending(const struct stream *s) {
    return s->pending;
}

bool stream_has_failed(const struct stream *s) {
    (void)s;
    return false; /* there is memory for all that is written */
}

struct str stream_peek(struct stream *s) {
    (void)s;
    ASSERT(is_stream_open);
    return buf_str(&arrived);
}

void stream_drain(struct stream *s, size_t n) {
    (void)s;
    buf_consume(&arrived, n);
}

void stream_set_deadline(struct stream *s, int64_t delay_ms) {
    (void)s;
    ASSERT(delay_ms >= 0);
}

void stream_start_tls_client(struct stream *s, struct tls_client_ctx *tls, enum tls_verify verify,
                             const char *tls_name, int64_t timeout_ms) {
    (void)verify, (void)timeout_ms;
    ASSERT((char *)tls == &tls_context && tls_name && s->pending == 0 && arrived.n == 0);
    s->in_handshake = true;
}

struct tls_info stream_tls_info(const struct stream *s) {
    return s->tls;
}

struct sockaddr_any stream_peer(const struct stream *s) {
    (void)s;
    struct sockaddr_any to;
    if (sockaddr_parse(STR("192.0.2.1"), 25, &to) != OK)
        abort();
    return to;
}

struct sockaddr_any stream_local(const struct stream *s) {
    return stream_peer(s);
}

struct timer *timer_new(struct loop *l, void (*fn)(void *arg), void *arg) {
    (void)l;
    ASSERT(!is_timer_there);
    is_timer_there = true;
    watchdog = (struct timer){.fn = fn, .arg = arg};
    return &watchdog;
}

void timer_free(struct timer **tp) {
    ASSERT(*tp == &watchdog && is_timer_there);
    is_timer_there = false;
    *tp = NULL;
}

void timer_set(struct timer *t, int64_t delay_ms) {
    ASSERT(is_timer_there && delay_ms >= 0);
    t->is_set = true;
}

void timer_cancel(struct timer *t) {
    ASSERT(is_timer_there);
    t->is_set = false;
}

struct tls_client_ctx *tls_client_ctx_ref(struct tls_client_ctx *c) {
    tls_refs++;
    return c;
}

void tls_client_ctx_unref(struct tls_client_ctx **cp) {
    tls_refs -= *cp != NULL;
    *cp = NULL;
}

/* ---- its owner ------------------------------------------------------------------------------- */

static const char user[] = "user@example.net", password[] = "pass-word",
                  password_base64[] = "cGFzcy13b3Jk";

static struct owner {
    struct session *session;
    struct message *message;
    struct session_recipient recipient[RCPT_MAX];
    size_t rcpt_count, told_count, sent;
    bool told[RCPT_MAX];
    bool in_call, in_transaction, was_ready, is_dead;
    bool may_tell_password, closes_on_done, is_long, has_no_head;

    size_t out_before; /* what the transaction adds begins there */
} o;

/* As the last of the flight. */
static bool was_sent_as_chunk(void) {
    static struct buf wire = BUF_INIT(1 << 20);
    struct str bytes = message_bytes(o.message).piece[1];
    struct str out = str_from(buf_str(&written), o.out_before);
    if (str_find(out, STR("BDAT 1\r\n")) >= 0)
        bytes = str_from(bytes, 1); /* which went before */
    bool is_ended = str_ends_with(bytes, STR("\n"));
    buf_clear(&wire);
    buf_printf(&wire, "BDAT %zu LAST\r\n", bytes.n + (is_ended ? 0 : 2));
    buf_put(&wire, bytes);
    buf_putz(&wire, is_ended ? "" : "\r\n");
    return str_ends_with(out, buf_str(&wire));
}

/* The message, dot-stuffed and ended, was written once in this transaction; or as a chunk. */
static bool was_sent_whole(void) {
    static struct buf wire = BUF_INIT(1 << 20);
    if (was_sent_as_chunk())
        return true;
    struct body b;
    struct str piece;
    buf_clear(&wire);
    body_init(&b, message_bytes(o.message));
    while (body_next(&b, 512, &piece))
        buf_put(&wire, piece);
    struct str out = str_from(buf_str(&written), o.out_before);
    ptrdiff_t at = str_find(out, buf_str(&wire));
    return at >= 0 && str_find(str_from(out, (size_t)at + wire.n), STR(".\r\n")) < 0;
}

static void check_result(const struct session_result *r) {
    ASSERT(!o.in_call && !o.is_dead);
    ASSERT(r->stage < STAGE_COUNT && (r->failure == FAILURE_NONE) == (r->reply != NULL));
    ASSERT(r->rcpt_accepted_before <= o.rcpt_count);
    if (!r->reply)
        ASSERT(r->text.n > 0);
    struct outcome_input in = {.stage = r->stage,
                               .reply = r->reply,
                               .failure = r->failure,
                               .rcpt_accepted_before = r->rcpt_accepted_before};
    struct verdict v = outcome_judge(&in);
    if (v.action == VERDICT_DELIVERED)
        ASSERT(o.in_transaction && was_sent_whole());
}

static void on_ready(void *ctx) {
    (void)ctx;
    ASSERT(!o.in_call && !o.was_ready && !o.is_dead);
    o.was_ready = true;
}

static void on_recipient(void *ctx, size_t i, const struct session_result *r) {
    (void)ctx;
    ASSERT(o.in_transaction && i < o.rcpt_count && !o.told[i]);
    check_result(r);
    o.told[i] = true;
    o.told_count++;
}

static void on_done(void *ctx, bool reusable) {
    (void)ctx;
    ASSERT(!o.in_call && o.in_transaction && !o.is_dead && o.told_count == o.rcpt_count);
    o.in_transaction = false;
    o.is_dead = !reusable;
    if (o.closes_on_done)
        session_close(&o.session);
}

static void on_failed(void *ctx, const struct session_result *r) {
    (void)ctx;
    ASSERT(!o.in_transaction);
    check_result(r);
    o.is_dead = true;
    if (o.closes_on_done)
        session_close(&o.session);
}

static const struct session_events events = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

static void send_next(void) {
    if (!o.session || o.is_dead || o.in_transaction || !o.was_ready || o.sent == TRANSACTIONS)
        return;
    const struct transaction t = {.mail_from = o.sent == 1 ? STR("") : STR("from@example.org"),
                                  .recipient = o.recipient,
                                  .count = o.rcpt_count,
                                  .message = o.message,
                                  .avoid_chunking = o.has_no_head};
    memset(o.told, 0, sizeof o.told);
    o.told_count = 0;
    o.in_transaction = true;
    o.sent++;
    o.out_before = written.n;
    o.in_call = true;
    session_send(o.session, &t);
    o.in_call = false;
}

/* Whole lines; no password but where it may be told. */
static void check_written(void) {
    struct str out = buf_str(&written);
    ASSERT(buf_status(&written) == OK);
    for (struct str rest = out; rest.n > 0;) {
        ptrdiff_t lf = str_find_char(rest, '\n');
        if (lf < 0 && o.is_long) /* the rest of the body was still to come */
            break;
        if (lf < 0 && rest.n == 1 && str_ends_with(str_slice(out, 0, out.n - 1), STR("BDAT 1\r\n")))
            break; /* so was the rest of what is tried */
        ASSERT(lf > 0 && rest.p[lf - 1] == '\r');
        struct str line = str_slice(rest, 0, (size_t)lf - 1);
        ASSERT(str_find_char(line, '\r') < 0 && str_find_char(line, '\0') < 0);
        if (str_starts_with(line, STR("AUTH ")))
            ASSERT(o.may_tell_password);
        rest = str_from(rest, (size_t)lf + 1);
    }
    if (!o.may_tell_password)
        ASSERT(str_find(out, str_of(password_base64)) < 0);
    if (!o.session)
        return;
    struct str text = session_transcript(o.session);
    ASSERT(str_is_utf8(text));
    bool server_said_it = str_find(buf_str(&heard), str_of(password)) >= 0 ||
                          str_find(buf_str(&heard), str_of(password_base64)) >= 0;
    if (!server_said_it) /* what AUTH sends is left out */
        ASSERT(str_find(text, str_of(password)) < 0 && str_find(text, str_of(password_base64)) < 0);
}

/* ---- what happens ---------------------------------------------------------------------------- */

static bool is_alive(void) {
    return o.session && is_stream_open && !stream.is_over;
}

static void open_stream(bool is_tls, bool is_verified) {
    if (!is_alive() || (!stream.is_connecting && !stream.in_handshake) ||
        is_tls != stream.in_handshake)
        return;
    stream.is_connecting = stream.in_handshake = false;
    if (is_tls) {
        snprintf(stream.tls.version, sizeof stream.tls.version, "TLSv1.3");
        stream.tls.is_verified = is_verified;
        o.may_tell_password = o.may_tell_password || is_verified;
    }
    stream.ev->on_open(stream.ctx);
}

static void drain(void) {
    if (!is_alive() || stream.pending == 0)
        return;
    stream.pending = 0;
    release_all();
    stream.ev->on_drained(stream.ctx);
}

static void arrive(struct str bytes) {
    if (!is_alive() || stream.is_connecting || stream.in_handshake || bytes.n == 0)
        return;
    buf_put(&arrived, bytes);
    buf_put(&heard, bytes);
    stream.ev->on_read(stream.ctx);
}

static void fail(enum failure why) {
    if (!is_alive())
        return;
    stream.is_over = true;
    stream.ev->on_failed(stream.ctx, why, STR("it failed"));
}

static void close_by_peer(void) {
    if (!is_alive() || stream.is_connecting || stream.in_handshake)
        return;
    stream.is_over = true;
    stream.ev->on_closed(stream.ctx);
}

static void fire_watchdog(void) {
    if (!o.session || !watchdog.is_set)
        return;
    watchdog.is_set = false;
    watchdog.fn(watchdog.arg);
}

static void play(struct str script, bool drains_by_itself) {
    static const enum failure failures[] = {
        FAILURE_CONNECT_REFUSED, FAILURE_CONNECT_TIMEOUT, FAILURE_CLOSED, FAILURE_TIMEOUT,
        FAILURE_TLS_HANDSHAKE,   FAILURE_TLS_UNTRUSTED,   FAILURE_LOCAL,  FAILURE_TLS_INJECTION};
    static struct buf gathered = BUF_INIT(1 << 20);
    buf_clear(&gathered);
    for (size_t i = 0; i <= script.n && o.session; i++) {
        unsigned op = i < script.n ? (unsigned char)script.p[i] : OP_TURN;
        if (op < OP_QUIT) {
            buf_putc(&gathered, (char)op);
            continue;
        }
        if (drains_by_itself || op == OP_DRAINED)
            drain();
        arrive(buf_str(&gathered));
        buf_clear(&gathered);
        if (op == OP_TLS_VERIFIED || op == OP_TLS_UNVERIFIED)
            open_stream(true, op == OP_TLS_VERIFIED);
        else if (op == OP_WATCHDOG)
            fire_watchdog();
        else if (op == OP_FAILED && i + 1 < script.n)
            fail(failures[(unsigned char)script.p[++i] % (sizeof failures / sizeof failures[0])]);
        else if (op == OP_CLOSED)
            close_by_peer();
        else if (op == OP_QUIT)
            break;
        send_next();
        if (watchdog.is_set && o.in_transaction && o.told_count == 0 && stream.pending == 0 &&
            is_alive() && written.n == o.out_before)
            fire_watchdog(); /* refused before a byte was sent: the loop's next turn */
    }
}

/* More than one window, or than one write; with a dot to be doubled in each line, or in none. */
static const char *long_text(uint8_t which) {
    static struct buf text = BUF_INIT(1 << 20);
    size_t size = which & 1 ? 40 * 1024 : 200 * 1024;
    buf_clear(&text);
    while (text.n < size)
        buf_putz(&text, which & 2 ? ".a line that begins with a dot, and is as long as most\r\n"
                                  : "a line that begins with none, and is as long as most are\r\n");
    ASSERT(buf_status(&text) == OK);
    return text.p;
}

static struct message *message_of(uint8_t which) {
    static const char *const texts[] = {"Subject: a\r\n\r\n.\r\n..b\r\n",
                                        "Subject: b\r\n\r\nno end", "\r\n",
                                        "Subject: 8\r\n\r\n\xc3\xa9\r\n"};
    static const struct id id;
    const char *text = which & 0x40 ? long_text(which) : texts[which % 4];
    char *bytes = mem_dup(text, strlen(text) + 1);
    return message_new(&id, bytes, strlen(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3)
        return 0;
    log_setup((enum log_level)(LOG_ERROR + 1),
              LOG_FORMAT_TEXT); /* addresses that are no addresses */
    const uint8_t flags = data[0], who = data[1], what = data[2];
    o = (struct owner){
        .rcpt_count = 1 + who % RCPT_MAX, .closes_on_done = who & 0x80, .is_long = what & 0x40};
    for (size_t i = 0; i < o.rcpt_count; i++)
        o.recipient[i].email = STR("to@example.net");
    if (who & 4)
        o.recipient[0].email = STR("\xc3\xa9@example.net");
    if (who & 8)
        o.recipient[0].email = STR("a>\r\nRSET@example.net"); /* must be noticed */
    o.message = message_of(what);
    o.has_no_head = str_starts_with(message_bytes(o.message).piece[1], STR("\r")); /* cut in two */
    struct session_options options = {.host_name = "mx.example.net",
                                      .ehlo_name = "relay.example.org",
                                      .tls = (enum session_tls)(flags % 5),
                                      .tls_ctx = (struct tls_client_ctx *)&tls_context,
                                      .insecure_auth = flags & 0x40,
                                      .keep_transcript = true};
    if (sockaddr_parse(STR("192.0.2.1"), 25, &options.to) != OK)
        abort();
    if (flags & 0x20) {
        options.auth_user = user;
        options.auth_password = password;
    }
    session_timeouts_default(&options.timeouts);
    o.may_tell_password = options.insecure_auth;
    buf_clear(&arrived);
    buf_clear(&heard);
    buf_clear(&written);
    o.in_call = true;
    o.session = session_open(NULL, &options, &events, NULL);
    o.in_call = false;
    open_stream(false, false);
    play(str_make(data + 3, size - 3), !(flags & 0x80));
    check_written();
    if (o.session && o.is_dead)
        ASSERT(!is_stream_open && !watchdog.is_set);
    o.in_call = true;
    if (o.session && (what & 0x80))
        session_quit(&o.session);
    session_close(&o.session);
    ASSERT(!is_stream_open && !is_timer_there && tls_refs == 0);
    message_unref(&o.message);
    return 0;
}
