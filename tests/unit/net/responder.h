/* responder: a small DNS server in the test, for what no real server does: silence, SERVFAIL,
 * truncation, answers to another question, malformed records. UDP and TCP on one loopback port, on
 * a thread of its own. Questions are counted. */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a row does to questions of its name (and type, 0: every type). */
enum rr_do {
    RR_ANSWER,
    RR_SERVFAIL,
    RR_REFUSED,
    RR_DROP,
    RR_TRUNCATE, /* over UDP; over TCP the records */
    RR_LIE,      /* answers for another name */
};

struct rr {
    const char *name;
    int type;
    const char *data; /* as in a zone file; TXT: strings separated by '|'; "\\#" + hex: raw */
    enum rr_do what;
};

struct responder {
    const struct rr
        *_Atomic rows; /* ends with .name NULL; a test may set others while it answers */
    int udp, tcp, stop;
    int port;
    pthread_t thread;
    atomic_int questions, tcp_questions;
    atomic_bool is_silent; /* while it is true, nothing is answered: who asks asks again */
    atomic_bool is_sick;   /* while it is true, every answer is SERVFAIL */
    char mode[32];         /* "127.0.0.1@port" */
};

static inline size_t wire_name(unsigned char *p, const char *name) {
    size_t n = 0;
    while (*name && strcmp(name, ".") != 0) {
        size_t label = strcspn(name, ".");
        p[n++] = (unsigned char)label;
        memcpy(p + n, name, label);
        n += label;
        name += label + (name[label] == '.');
    }
    p[n++] = 0;
    return n;
}

static inline size_t wire_rdata(unsigned char *p, const struct rr *r) {
    size_t n = 0;
    if (strncmp(r->data, "\\#", 2) == 0) {
        unsigned byte;
        for (const char *h = r->data + 2; sscanf(h, "%2x", &byte) == 1; h += 2)
            p[n++] = (unsigned char)byte;
        return n;
    }
    switch (r->type) {
    case 1:
        inet_pton(AF_INET, r->data, p);
        return 4;
    case 28:
        inet_pton(AF_INET6, r->data, p);
        return 16;
    case 15: {
        unsigned long preference = strtoul(r->data, NULL, 10);
        p[0] = (unsigned char)(preference >> 8);
        p[1] = (unsigned char)preference;
        return 2 + wire_name(p + 2, strchr(r->data, ' ') + 1);
    }
    case 16:
        for (const char *s = r->data;; s++) {
            size_t piece = strcspn(s, "|");
            p[n++] = (unsigned char)piece;
            memcpy(p + n, s, piece);
            n += piece;
            s += piece;
            if (*s == 0)
                return n;
        }
    default: /* CNAME, PTR */
        return wire_name(p, r->data);
    }
}

/* `name` NULL: that of the question, by a pointer to it. */
static inline size_t put_rr(unsigned char *p, const char *name, const struct rr *r) {
    size_t n = 2;
    if (name)
        n = wire_name(p, name);
    else
        memcpy(p, "\xc0\x0c", 2);
    unsigned char fixed[10] = {0, (unsigned char)r->type, 0, 1, 0, 0, 1, 44, 0, 0}; /* TTL 300 */
    size_t len = wire_rdata(p + n + 10, r);
    fixed[8] = (unsigned char)(len >> 8);
    fixed[9] = (unsigned char)len;
    memcpy(p + n, fixed, 10);
    return n + 10 + len;
}

/* Returns the answer's length, 0: say nothing. */
static inline size_t respond(struct responder *d, const unsigned char *q, size_t qn,
                             unsigned char *a, bool is_tcp) {
    char name[256] = "";
    size_t at = 12, len = 0, count = 0;
    if (qn < 17)
        return 0;
    while (at < qn && q[at]) {
        if (len)
            name[len++] = '.';
        memcpy(name + len, q + at + 1, q[at]);
        len += q[at];
        at += q[at] + 1u;
    }
    name[len] = 0;
    int type = q[at + 1] << 8 | q[at + 2];
    size_t question_end = at + 5;
    d->questions++;
    d->tcp_questions += is_tcp;
    if (d->is_silent)
        return 0;
    memcpy(a, q, question_end);
    memset(a + 6, 0, 6);
    a[2] = 0x81;
    a[3] = d->is_sick ? 0x82 : 0x80;
    size_t n = question_end;
    if (d->is_sick)
        return n;
    const char *wanted = name;
    bool exists = len == 0; /* the root does, with nothing at it */
    for (int hop = 0; hop < 8; hop++) {
        const char *next = NULL;
        for (const struct rr *r = d->rows; r->name; r++) {
            if (strcasecmp(r->name, wanted) != 0)
                continue;
            exists = true;
            if (r->type != 0 && r->type != type && r->type != 5)
                continue;
            switch (r->what) {
            case RR_DROP:
                return 0;
            case RR_SERVFAIL:
                a[3] = 0x82;
                return n;
            case RR_REFUSED:
                a[3] = 0x85;
                return n;
            case RR_TRUNCATE:
                if (!is_tcp) {
                    a[2] |= 2;
                    return n;
                }
                break;
            case RR_LIE:
                n += put_rr(a + n, "elsewhere.example", r);
                count++;
                continue;
            case RR_ANSWER:
                break;
            }
            n += put_rr(a + n, wanted == name ? NULL : wanted, r);
            count++;
            if (r->type == 5 && type != 5)
                next = r->data;
        }
        if (!next)
            break;
        wanted = next;
        exists = false;
    }
    if (!exists)
        a[3] = 0x83;
    a[6] = (unsigned char)(count >> 8);
    a[7] = (unsigned char)count;
    return n;
}

static inline void *responder_main(void *arg) {
    struct responder *d = arg;
    static _Thread_local unsigned char q[4096], a[65536];
    struct pollfd p[3] = {{.fd = d->udp, .events = POLLIN},
                          {.fd = d->tcp, .events = POLLIN},
                          {.fd = d->stop, .events = POLLIN}};
    while (poll(p, 3, -1) > 0 && !p[2].revents) {
        if (p[0].revents) {
            struct sockaddr_in from;
            socklen_t from_len = sizeof from;
            ssize_t n = recvfrom(d->udp, q, sizeof q, 0, (struct sockaddr *)&from, &from_len);
            size_t an = n > 0 ? respond(d, q, (size_t)n, a, false) : 0;
            if (an > 0)
                (void)!sendto(d->udp, a, an, 0, (struct sockaddr *)&from, from_len);
        }
        if (p[1].revents) {
            int c = accept(d->tcp, NULL, NULL);
            ssize_t n = recv(c, q, 2, MSG_WAITALL);
            n = n == 2 ? recv(c, q, (size_t)(q[0] << 8 | q[1]), MSG_WAITALL) : 0;
            size_t an = n > 0 ? respond(d, q, (size_t)n, a + 2, true) : 0;
            a[0] = (unsigned char)(an >> 8);
            a[1] = (unsigned char)an;
            if (an > 0)
                (void)!send(c, a, an + 2, MSG_NOSIGNAL);
            close(c);
        }
    }
    return NULL;
}

static inline void responder_start(struct responder *d, const struct rr *rows) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    memset(d, 0, sizeof *d);
    d->rows = rows;
    /* one number for both; another program may have taken it for TCP */
    for (int tries = 0; tries < 20; tries++) {
        at.sin_port = 0;
        d->udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        d->tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(d->udp, (struct sockaddr *)&at, sizeof at) == 0 &&
            getsockname(d->udp, (struct sockaddr *)&at, &len) == 0 &&
            bind(d->tcp, (struct sockaddr *)&at, sizeof at) == 0 && listen(d->tcp, 16) == 0)
            break;
        close(d->udp);
        close(d->tcp);
        if (tries == 19)
            abort();
    }
    d->port = ntohs(at.sin_port);
    snprintf(d->mode, sizeof d->mode, "127.0.0.1@%d", d->port);
    d->stop = eventfd(0, EFD_CLOEXEC);
    if (pthread_create(&d->thread, NULL, responder_main, d) != 0)
        abort();
}

static inline void responder_stop(struct responder *d) {
    (void)!eventfd_write(d->stop, 1);
    pthread_join(d->thread, NULL);
    close(d->udp);
    close(d->tcp);
    close(d->stop);
}
