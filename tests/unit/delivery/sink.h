/* sink: receiving mail servers for the tests of delivery, on a loop thread of their own. What a
 * recipient's local part says is what happens to it:
 *
 *   ok...         250
 *   bounce...     550 5.1.1 at RCPT
 *   later...      451 4.7.1 at RCPT, the first `later_times` times that it is asked for
 *   few...        452 4.5.3 from the fourth RCPT of a transaction on
 *   login...      530 5.7.0 at RCPT
 *   hold...       the message is taken, but the answer after the final dot never comes
 *
 * `holds_all`: no message is ever answered. `break_every` n: each n-th message's connection is
 * closed instead of an answer. `says_421`: to MAIL, whoever it is for. `is_plain`: it offers no
 * extension, and has one connection at a time. A server without SMTP
 * (`sink_hostile`) closes, talks nonsense, or stays silent. Thread: counters are read from the
 * test's thread, `holds_all` and `later_times` may be set there while it runs, atomically; all else
 * is of the sink's loop. */
#pragma once

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/net/listener.h"
#include "server/smtp/receive.h"

#define SINK static __attribute__((unused))

enum { SINK_CONNECTIONS = 512, SINK_NUMBERS = 512 };

struct sink {
    struct loop *loop;
    struct listener *listener;
    struct tls_server_ctx *tls;
    struct sockaddr_any at;
    struct sink_connection {
        struct sink *sink;
        struct receive *receive;
        unsigned rcpts, asked;
    } connection[SINK_CONNECTIONS];
    int later_times, break_every;
    bool holds_all, says_421, is_plain;
    const char *hostile; /* raw text said at once; "": closes; NULL: a real server */
    int hostile_fd[SINK_CONNECTIONS];
    /* counters, atomic */
    int messages, recipients, connections, open_now, held, later_seen, tls_messages, signed_;
    int utf8_messages;        /* under SMTPUTF8 */
    int many;                 /* messages with more than one recipient */
    int most_recipients;      /* that one transaction was asked to take, refused ones too */
    int number[SINK_NUMBERS]; /* of the messages taken, in order: 7 of ok7@example.net */
    /* the last message */
    char mail_from[256];
    struct buf data;
};

static inline int sink_get(const int *counter) {
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}
static inline void sink_add(int *counter, int by) {
    __atomic_add_fetch(counter, by, __ATOMIC_SEQ_CST);
}

/* Runs `fn(arg)` on the loop and waits for it. */
struct sink_run {
    struct note note;
    void (*fn)(void *arg);
    void *arg;
    struct mailbox *reply_to;
    bool is_done;
};
SINK void sink_run_done(struct note *n) {
    CONTAINER_OF(n, struct sink_run, note)->is_done = true;
}
SINK void sink_run_there(struct note *n) {
    struct sink_run *r = CONTAINER_OF(n, struct sink_run, note);
    r->fn(r->arg);
    n->run = sink_run_done;
    mailbox_send(r->reply_to, n);
}
SINK void sink_on_loop(struct loop *l, void (*fn)(void *arg), void *arg) {
    struct sink_run r = {
        .note = {.run = sink_run_there}, .fn = fn, .arg = arg, .reply_to = mailbox_new()};
    mailbox_send(loop_mailbox(l), &r.note);
    while (!r.is_done)
        mailbox_wait(r.reply_to, -1);
    mailbox_free(&r.reply_to);
}

SINK struct receive_answer sink_on_mail(void *ctx, struct str from) {
    struct sink_connection *c = ctx;
    c->rcpts = c->asked = 0;
    if (c->sink->says_421)
        return (struct receive_answer){421, "4.3.2", "going away"};
    snprintf(c->sink->mail_from, sizeof(c->sink->mail_from), "%.*s", STR_ARG(from));
    return (struct receive_answer){250, "2.1.0", "ok"};
}

SINK struct receive_answer sink_on_rcpt(void *ctx, struct str to) {
    struct sink_connection *c = ctx;
    struct sink *s = c->sink;
    if ((int)++c->asked > sink_get(&s->most_recipients))
        sink_add(&s->most_recipients, (int)c->asked - sink_get(&s->most_recipients));
    if (str_starts_with(to, STR("bounce")))
        return (struct receive_answer){550, "5.1.1", "no such user"};
    if (str_starts_with(to, STR("login")))
        return (struct receive_answer){530, "5.7.0", "authentication required"};
    if (str_starts_with(to, STR("later")) && sink_get(&s->later_seen) < sink_get(&s->later_times)) {
        sink_add(&s->later_seen, 1);
        return (struct receive_answer){451, "4.3.0", "local trouble"};
    }
    if (str_starts_with(to, STR("few")) && c->rcpts >= 3)
        return (struct receive_answer){452, "4.5.3", "too many recipients"};
    c->rcpts++;
    return (struct receive_answer){250, "2.1.5", "ok"};
}

SINK void sink_drop(struct sink_connection *c) {
    receive_close(&c->receive, false);
    sink_add(&c->sink->open_now, -1);
}

SINK int sink_number(struct str email) {
    int number = 0;
    for (size_t i = 0; i < email.n && email.p[i] != '@'; i++) {
        if (email.p[i] >= '0' && email.p[i] <= '9')
            number = number * 10 + email.p[i] - '0';
    }
    return number;
}

SINK void sink_on_message(void *ctx, struct receive *r, const struct received *m) {
    struct sink_connection *c = ctx;
    struct sink *s = c->sink;
    if (s->break_every > 0 && rand() % s->break_every == 0) {
        sink_drop(c);
        return;
    }
    buf_clear(&s->data);
    buf_put(&s->data, m->data);
    if (str_starts_with_nocase(m->data, STR("DKIM-Signature:")))
        sink_add(&s->signed_, 1);
    if (m->tls.version[0] != '\0')
        sink_add(&s->tls_messages, 1);
    sink_add(&s->utf8_messages, m->smtputf8);
    if (m->rcpt_count > 1)
        sink_add(&s->many, 1);
    if (__atomic_load_n(&s->holds_all, __ATOMIC_SEQ_CST) ||
        str_starts_with(m->rcpt[0], STR("hold"))) {
        sink_add(&s->held, 1);
        return;
    }
    sink_add(&s->recipients, (int)m->rcpt_count);
    if (sink_get(&s->messages) < SINK_NUMBERS)
        s->number[s->messages] = sink_number(m->rcpt[0]);
    sink_add(&s->messages, 1);
    receive_answer_data(r, (struct receive_answer){250, "2.0.0", "taken"});
}

SINK void sink_on_end(void *ctx, struct receive *r) {
    (void)r;
    sink_drop(ctx);
}

static const struct receive_policy SINK_POLICY = {.on_mail = sink_on_mail,
                                                  .on_rcpt = sink_on_rcpt,
                                                  .on_message = sink_on_message,
                                                  .on_end = sink_on_end};

/* 250 to whatever is said. */
SINK void sink_be_plain(int fd) {
    const char *says = "220 mx.test\r\n";
    char heard[1024];
    for (ssize_t n = 1; n > 0; says = "250 mx.test\r\n") {
        if (send(fd, says, strlen(says), MSG_NOSIGNAL) < 0)
            break;
        (void)poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
        n = recv(fd, heard, sizeof(heard), 0);
    }
    close(fd);
}

SINK void sink_on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    (void)peer;
    struct sink *s = ctx;
    sink_add(&s->connections, 1);
    if (s->hostile != NULL) {
        ssize_t n = send(fd, s->hostile, strlen(s->hostile), MSG_NOSIGNAL);
        (void)n;
        close(fd);
        return;
    }
    if (s->is_plain) {
        sink_be_plain(fd);
        return;
    }
    struct sink_connection *c = s->connection;
    while (c->receive != NULL && c < s->connection + SINK_CONNECTIONS - 1)
        c++;
    ASSERT(c->receive == NULL);
    *c = (struct sink_connection){.sink = s};
    const struct receive_options o = {
        .host_name = "mx.test", .tls = s->tls, .message_bytes_max = 1024 * 1024};
    sink_add(&s->open_now, 1);
    c->receive = receive_new(s->loop, fd, &o, &SINK_POLICY, c);
}

SINK void sink_listen(void *arg) {
    struct sink *s = arg;
    struct errinfo info = {0};
    if (s->at.len == 0)
        ASSERT(sockaddr_parse(STR("127.0.0.1"), 0, &s->at) == OK);
    ASSERT(listener_open(s->loop, &s->at, sink_on_accept, s, &s->listener, &info) == OK);
    s->at = listener_address(s->listener);
}

SINK void sink_close_all(void *arg) {
    struct sink *s = arg;
    for (int i = 0; i < SINK_CONNECTIONS; i++) {
        if (s->connection[i].receive != NULL)
            sink_drop(&s->connection[i]);
    }
}

/* What is connected stays so. */
SINK void sink_deafen(void *arg) {
    struct sink *s = arg;
    listener_close(&s->listener);
}

SINK void sink_unlisten(void *arg) {
    struct sink *s = arg;
    sink_close_all(s);
    listener_close(&s->listener);
}

SINK struct sink *sink_new(bool with_tls, const char *hostile) {
    struct sink *s = mem_zalloc(sizeof(*s));
    struct errinfo info = {0};
    buf_init(&s->data, 1024 * 1024);
    s->hostile = hostile;
    s->loop = loop_start("sink");
    if (with_tls)
        ASSERT(tls_server_ctx_new_selfsigned("mx.test", &s->tls, &info) == OK);
    sink_on_loop(s->loop, sink_listen, s);
    return s;
}

SINK void sink_free(struct sink **sp) {
    struct sink *s = *sp;
    if (s == NULL)
        return;
    *sp = NULL;
    sink_on_loop(s->loop, sink_unlisten, s);
    loop_stop(&s->loop);
    tls_server_ctx_unref(&s->tls);
    buf_release(&s->data);
    free(s);
}
