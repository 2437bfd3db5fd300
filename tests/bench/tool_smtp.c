/* tool_smtp: tool_load for programs that take messages by SMTP: the same connections, the same
 * messages, composed as postchute would compose them.
 *
 *     tool_smtp --to 127.0.0.1:2525 --connections 64 --count 10000 [--bytes 2048] [--recipients 1]
 *               [--rate N] [--seconds N] [--prefix P] [--domain example.net]
 *
 * A session is kept for all of its messages; MAIL, RCPT and DATA go in one flight to a server that
 * offers PIPELINING. A message counts
 * as accepted at the 250 after its final dot. Prints the JSON line of tool_load.
 */
#include "tests/bench/ends.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 256, IN_MAX = 65536, PAUSE_MS = 50 };
enum step { CONNECTING, GREETING, EHLO, IDLE, ENVELOPE, CONTENT };

struct line {
    int fd;
    enum step step;
    char *out;
    size_t out_n, out_at;
    char in[IN_MAX];
    size_t in_n;
    size_t replies_due;
    bool is_refused, can_pipeline, has_sent;
    size_t command; /* without pipelining: how many of the envelope are said */
    bool has_message;
    uint64_t number;
    int64_t started_us, again_at_ms;
};

static struct sockaddr_in to;
static const char *prefix = "m", *domain = "example.net";
static size_t connection_count = 1, body_bytes = 2048, recipient_count = 1, room;
static uint64_t wanted = 1000, next_number;
static struct load load;
static double rate;
static int64_t end_ms = INT64_MAX, begin_us;
static int epoll_fd;
static char *body_text;

static void drop(struct line *l) {
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->in_n = l->out_n = 0;
    l->again_at_ms = now_us() / 1000 + PAUSE_MS;
    if (l->has_message) {
        l->has_message = false;
        load.errors++;
        load.answered++;
    }
}

static void push(struct line *l) {
    l->has_sent = true;
    while (l->out_at < l->out_n) {
        ssize_t n = send(l->fd, l->out + l->out_at, l->out_n - l->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(l);
            return;
        }
        l->out_at += (size_t)n;
    }
}

static void put(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct line *l, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(l->out + l->out_n, room - l->out_n, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room - l->out_n)
        abort();
    l->out_n += (size_t)n;
}

static void send_text(struct line *l, enum step next, size_t replies) {
    l->out_at = 0;
    l->step = next;
    l->replies_due = replies;
    l->is_refused = false;
    push(l);
}

static void put_command(struct line *l, size_t i) {
    if (i == 0)
        put(l, "MAIL FROM:<load@acme.test>\r\n");
    else if (i <= recipient_count)
        put(l, "RCPT TO:<r%zu@%s>\r\n", i - 1, domain);
    else
        put(l, "DATA\r\n");
}

static void envelope(struct line *l) {
    l->out_n = 0;
    if (!l->can_pipeline) {
        put_command(l, l->command++);
        send_text(l, ENVELOPE, 1);
        return;
    }
    for (size_t i = 0; i < recipient_count + 2; i++)
        put_command(l, i);
    l->command = recipient_count + 2;
    send_text(l, ENVELOPE, recipient_count + 2);
}

static void content(struct line *l) {
    char date[64];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S +0000", &tm);
    unsigned long long n = l->number;
    l->out_n = 0;
    put(l, "From: Load <load@acme.test>\r\nTo: ");
    for (size_t i = 0; i < recipient_count; i++)
        put(l, "%sr%zu@%s", i ? ",\r\n " : "", i, domain);
    put(l,
        "\r\nSubject: Load %s-%llu\r\nDate: %s\r\nMessage-ID: <%s-%llu@acme.test>\r\nX-Ledger: "
        "%s-%llu\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n%s\r\n.\r\n",
        prefix, n, date, prefix, n, prefix, n, body_text);
    send_text(l, CONTENT, 1);
}

static bool may_start(void) {
    if (next_number >= wanted || now_us() / 1000 >= end_ms)
        return false;
    return rate <= 0 || (double)next_number < rate * (double)(now_us() - begin_us) / 1e6 + 1;
}

static void start(struct line *l) {
    if (l->step != IDLE || l->fd < 0 || !may_start())
        return;
    l->number = next_number++;
    l->has_message = true;
    l->started_us = now_us();
    l->command = 0;
    envelope(l);
}

static void done(struct line *l, bool ok) {
    int64_t took = now_us() - l->started_us;
    load_note(&load, wanted, took);
    load.answered++;
    load.accepted += ok;
    load.refused += !ok;
    l->has_message = false;
    l->step = IDLE;
    start(l);
}

/* The last reply of what was asked. */
static void answered_by(struct line *l, int code) {
    switch (l->step) {
    case GREETING:
        l->out_n = 0;
        put(l, "EHLO load.test\r\n");
        send_text(l, EHLO, 1);
        break;
    case EHLO:
        l->step = IDLE;
        start(l);
        break;
    case ENVELOPE:
        if (l->command < recipient_count + 2 && !l->is_refused)
            envelope(l);
        else if (code == 354 && !l->is_refused)
            content(l);
        else
            drop(l);
        break;
    case CONTENT:
        done(l, code == 250);
        break;
    case CONNECTING:
    case IDLE: /* 421 */
        drop(l);
        break;
    }
}

static void take_line(struct line *l, const char *text, size_t n) {
    if (l->step == EHLO && n >= 14 && strncasecmp(text + 4, "PIPELINING", 10) == 0)
        l->can_pipeline = true;
    if (n < 4 || text[3] == '-')
        return;
    int code = (int)strtol(text, NULL, 10);
    if (code >= 400)
        l->is_refused = true;
    if (l->replies_due == 0 || --l->replies_due == 0)
        answered_by(l, code);
}

static void readable(struct line *l) {
    for (;;) {
        ssize_t n = recv(l->fd, l->in + l->in_n, sizeof l->in - l->in_n, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(l);
            return;
        }
        l->in_n += (size_t)n;
        size_t at = 0;
        const char *eol;
        while (l->fd >= 0 && (eol = memchr(l->in + at, '\n', l->in_n - at))) {
            size_t size = (size_t)(eol - (l->in + at)) + 1;
            take_line(l, l->in + at, size);
            at += size;
        }
        if (l->fd < 0)
            return;
        memmove(l->in, l->in + at, l->in_n - at);
        l->in_n -= at;
    }
}

/* What came without a reason to send anything is acknowledged at once: a server that answers a
 * flight in several writes waits for it (Nagle), and would be measured by the kernel's 40 ms. */
static void read_all(struct line *l) {
    int on = 1;
    l->has_sent = false;
    readable(l);
    if (l->fd >= 0 && !l->has_sent)
        setsockopt(l->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static void open_line(struct line *l) {
    int on = 1;
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        exit(1);
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    l->step = GREETING;
    l->replies_due = 1;
    if (connect(l->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        drop(l);
        return;
    }
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = l};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->fd, &ev);
}

static void parse(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--to") == 0)
            to = address_of(name, value);
        else if (strcmp(name, "--connections") == 0)
            connection_count = strtoul(value, NULL, 10);
        else if (strcmp(name, "--count") == 0)
            wanted = strtoull(value, NULL, 10);
        else if (strcmp(name, "--bytes") == 0)
            body_bytes = strtoul(value, NULL, 10);
        else if (strcmp(name, "--recipients") == 0)
            recipient_count = strtoul(value, NULL, 10);
        else if (strcmp(name, "--domain") == 0)
            domain = value;
        else if (strcmp(name, "--rate") == 0)
            rate = strtod(value, NULL);
        else if (strcmp(name, "--prefix") == 0)
            prefix = value;
        else if (strcmp(name, "--seconds") == 0)
            end_ms = now_us() / 1000 + (int64_t)(strtod(value, NULL) * 1000);
        else {
            fprintf(stderr, "tool_smtp: unknown %s\n", name);
            exit(64);
        }
    }
}

/* Lines of 76, as quoted-printable has them. */
static void make_body(void) {
    size_t n = 0, column = 0;
    body_text = malloc(body_bytes + body_bytes / 75 * 3 + 1);
    if (!body_text)
        exit(1);
    for (size_t i = 0; i < body_bytes; i++) {
        if (column == 75) {
            memcpy(body_text + n, "=\r\n", 3);
            n += 3;
            column = 0;
        }
        body_text[n++] = i % 64 == 63 ? ' ' : (char)('a' + i % 26);
        column++;
    }
    body_text[n] = '\0';
    room = n + recipient_count * 300 + 4096;
}

static void turn(struct line *lines) {
    struct epoll_event got[EVENTS];
    int n = epoll_wait(epoll_fd, got, EVENTS, rate > 0 ? 1 : 20);
    for (int i = 0; i < n; i++) {
        struct line *l = got[i].data.ptr;
        if (l->fd >= 0 && (got[i].events & EPOLLOUT))
            push(l);
        if (l->fd >= 0 && (got[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
            read_all(l);
    }
    for (size_t i = 0; i < connection_count; i++) {
        if (lines[i].fd < 0 && now_us() / 1000 >= lines[i].again_at_ms && now_us() / 1000 < end_ms)
            open_line(&lines[i]);
        else
            start(&lines[i]);
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "tool_smtp: options come in pairs, --to is needed; the source says which "
                        "there are\n");
        return 64;
    }
    parse(argc, argv);
    make_body();
    struct line *lines = calloc(connection_count, sizeof *lines);
    load.latency_us = calloc(wanted, sizeof *load.latency_us);
    if (!lines || !load.latency_us)
        return 1;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    begin_us = now_us();
    for (size_t i = 0; i < connection_count; i++) {
        lines[i].out = malloc(room);
        if (!lines[i].out)
            return 1;
        open_line(&lines[i]);
    }
    while (load.answered < wanted &&
           (now_us() / 1000 < end_ms ||
            (next_number > load.answered && now_us() / 1000 < end_ms + 2000)))
        turn(lines);
    load_report(&load, wanted, (double)(now_us() - begin_us) / 1e6);
    return 0;
}
