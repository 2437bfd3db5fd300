/* tool_load: an HTTP client that posts messages as fast as it is answered, and writes down what it
 * asked and what it was told.
 *
 *     tool_load --to 127.0.0.1:8025 --key KEY --connections 64 --count 10000 [--bytes 2048]
 * [--recipients 1] [--from a@b]
 *               [--rate N] [--ledger FILE] [--prefix P] [--seconds N] [--retry 1]
 *
 * Ledger lines: "ask <key> <digest of the text, leaves.h> <recipient>,<recipient>..." before a
 * message is sent for the first time, "ack <key> <id>" on 202 (200), "no <key> <status>" otherwise.
 * The key is the Idempotency-Key, the external_id and the X-Ledger header; with a ledger each text
 * begins with it, so that none is another's. With --retry 1 a request that got no answer, or 503,
 * is sent again under the same key until it is answered or --seconds are over. Prints one JSON
 * line: rate and latencies.
 */
#include "tests/bench/ends.h"
#include "tests/bench/leaves.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 256, ANSWER_MAX = 65536, PAUSE_MS = 50, KEY_TEXT = 128 };

struct line {
    int fd;
    bool connected, busy;
    char *out;
    size_t out_n, out_at;
    char in[ANSWER_MAX];
    size_t in_n;
    uint64_t number; /* of the message under way */
    bool has_message;
    int64_t started_us, again_at_ms;
};

static struct sockaddr_in to;
static const char *api_key = "", *from = "Load <load@acme.test>", *prefix = "m",
                  *domain = "example.net";
static size_t connection_count = 1, body_bytes = 2048, recipient_count = 1;
static uint64_t wanted = 1000, next_number;
static struct load load;
static double rate;
static bool retry;
static int64_t end_ms = INT64_MAX, begin_us;
static int ledger = -1, epoll_fd;
static char *body_text;
static char *own_text, *asked_for; /* with a ledger: a text with its key, and the recipients */

static void note(const char *what, uint64_t number, const char *more) {
    char text[256];
    if (ledger < 0)
        return;
    int n = snprintf(text, sizeof text, "%s %s-%llu %s\n", what, prefix, (unsigned long long)number,
                     more);
    if (n > 0 && write(ledger, text, (size_t)n) != n) {
        perror("ledger");
        exit(1);
    }
}

/* The text of a message; valid until the next call. */
static const char *text_of(uint64_t number) {
    if (ledger < 0)
        return body_text;
    snprintf(own_text, body_bytes + KEY_TEXT, "%s-%llu %s", prefix, (unsigned long long)number,
             body_text);
    return own_text;
}

/* One write: others may append, too. */
static void note_asked(uint64_t number) {
    char digest[LEAVES_TEXT];
    if (ledger < 0)
        return;
    const char *said = text_of(number);
    leaves_of_text(said, strlen(said), digest);
    size_t room = strlen(asked_for) + 512;
    char *text = malloc(room);
    if (!text)
        exit(1);
    size_t n = (size_t)snprintf(text, room, "ask %s-%llu %s %s\n", prefix,
                                (unsigned long long)number, digest, asked_for);
    if (write(ledger, text, n) != (ssize_t)n) {
        perror("ledger");
        exit(1);
    }
    free(text);
}

static void build(struct line *l) {
    size_t room = body_bytes + recipient_count * 64 + 2048;
    char *json = malloc(room);
    l->out = realloc(l->out, room + 1024);
    if (!json || !l->out)
        exit(1);
    size_t n = 0;
    n += (size_t)snprintf(json + n, room - n, "{\"from\":\"%s\",\"to\":[", from);
    for (size_t i = 0; i < recipient_count; i++)
        n += (size_t)snprintf(json + n, room - n, "%s\"r%zu@%s\"", i ? "," : "", i, domain);
    n += (size_t)snprintf(
        json + n, room - n,
        "],\"subject\":\"Load "
        "%s-%llu\",\"external_id\":\"%s-%llu\",\"headers\":{\"X-Ledger\":\"%s-%llu\"},"
        "\"text\":\"%s\"}",
        prefix, (unsigned long long)l->number, prefix, (unsigned long long)l->number, prefix,
        (unsigned long long)l->number, text_of(l->number));
    l->out_n =
        (size_t)snprintf(l->out, room + 1024,
                         "POST /send HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
                         "Content-Type: application/json\r\nIdempotency-Key: "
                         "%s-%llu\r\nContent-Length: %zu\r\n\r\n%s",
                         api_key, prefix, (unsigned long long)l->number, n, json);
    free(json);
}

static void drop(struct line *l) {
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->connected = l->busy = false;
    l->in_n = 0;
    l->again_at_ms = now_us() / 1000 + PAUSE_MS;
}

static void open_line(struct line *l) {
    int on = 1;
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        exit(1);
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(l->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        drop(l);
        return;
    }
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = l};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->fd, &ev);
}

static bool may_start(void) {
    if (next_number >= wanted || now_us() / 1000 >= end_ms)
        return false;
    return rate <= 0 || (double)next_number < rate * (double)(now_us() - begin_us) / 1e6 + 1;
}

static void push(struct line *l) {
    while (l->busy && l->out_at < l->out_n) {
        ssize_t n = send(l->fd, l->out + l->out_at, l->out_n - l->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            drop(l);
            load.errors++;
            return;
        }
        l->out_at += (size_t)n;
    }
}

static void start(struct line *l) {
    if (!l->connected || l->busy)
        return;
    if (!l->has_message) {
        if (!may_start())
            return;
        l->number = next_number++;
        l->has_message = true;
        note_asked(l->number);
        l->started_us = now_us();
    }
    build(l);
    l->out_at = 0;
    l->busy = true;
    push(l);
}

static void done(struct line *l, int status, const char *body) {
    int64_t took = now_us() - l->started_us;
    if (status == 503 && retry) {
        drop(l);
        return;
    }
    load_note(&load, wanted, took);
    load.answered++;
    if (status == 202 || status == 200) {
        char id[64] = "?";
        const char *at = strstr(body, "\"id\"");
        if (at && (at = strchr(at + 4, '"')))
            snprintf(id, sizeof id, "%.36s", at + 1);
        load.accepted++;
        note("ack", l->number, id);
    } else {
        char code[16];
        snprintf(code, sizeof code, "%d", status);
        load.refused++;
        note("no", l->number, code);
    }
    l->has_message = l->busy = false;
}

static void answers(struct line *l) {
    for (;;) {
        ssize_t n = recv(l->fd, l->in + l->in_n, sizeof l->in - 1 - l->in_n, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            if (l->busy)
                load.errors++;
            drop(l);
            if (!retry && l->has_message) {
                l->has_message = false;
                load.answered++;
                note("no", l->number, "lost");
            }
            return;
        }
        bool is_all = (size_t)n < sizeof l->in - 1 - l->in_n; /* epoll tells of what comes later */
        l->in_n += (size_t)n;
        l->in[l->in_n] = '\0';
        char *head = strstr(l->in, "\r\n\r\n");
        if (!head)
            continue;
        const char *cl = strcasestr(l->in, "\r\nContent-Length:");
        size_t length = cl && cl < head ? strtoul(cl + 17, NULL, 10) : 0;
        size_t whole = (size_t)(head - l->in) + 4 + length;
        if (l->in_n < whole)
            continue;
        int status = l->in_n > 12 ? (int)strtol(l->in + 9, NULL, 10) : 0;
        done(l, status, head + 4);
        if (l->fd < 0)
            return;
        memmove(l->in, l->in + whole, l->in_n - whole);
        l->in_n -= whole;
        start(l);
        if (l->fd < 0 || (is_all && l->in_n == 0))
            return;
    }
}

static void parse(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--to") == 0)
            to = address_of(name, value);
        else if (strcmp(name, "--key") == 0)
            api_key = value;
        else if (strcmp(name, "--connections") == 0)
            connection_count = strtoul(value, NULL, 10);
        else if (strcmp(name, "--count") == 0)
            wanted = strtoull(value, NULL, 10);
        else if (strcmp(name, "--bytes") == 0)
            body_bytes = strtoul(value, NULL, 10);
        else if (strcmp(name, "--recipients") == 0)
            recipient_count = strtoul(value, NULL, 10);
        else if (strcmp(name, "--from") == 0)
            from = value;
        else if (strcmp(name, "--domain") == 0)
            domain = value;
        else if (strcmp(name, "--rate") == 0)
            rate = strtod(value, NULL);
        else if (strcmp(name, "--prefix") == 0)
            prefix = value;
        else if (strcmp(name, "--ledger") == 0)
            ledger = open(value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (strcmp(name, "--seconds") == 0)
            end_ms = now_us() / 1000 + (int64_t)(strtod(value, NULL) * 1000);
        else if (strcmp(name, "--retry") == 0)
            retry = strcmp(value, "1") == 0;
        else {
            fprintf(stderr, "tool_load: unknown %s\n", name);
            exit(64);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc % 2 == 0) {
        fprintf(stderr, "tool_load: options come in pairs, --to and --key are needed; the source "
                        "says which there are\n");
        return 64;
    }
    parse(argc, argv);
    struct line *lines = calloc(connection_count, sizeof *lines);
    load.latency_us = calloc(wanted, sizeof *load.latency_us);
    body_text = malloc(body_bytes + 1);
    if (!lines || !load.latency_us || !body_text)
        return 1;
    for (size_t i = 0; i < body_bytes; i++)
        body_text[i] = i % 64 == 63 ? ' ' : (char)('a' + i % 26);
    body_text[body_bytes] = '\0';
    if (ledger >= 0) {
        size_t room = recipient_count * 96 + 1, n = 0;
        asked_for = malloc(room);
        for (size_t i = 0; asked_for && i < recipient_count; i++)
            n += (size_t)snprintf(asked_for + n, room - n, "%sr%zu@%s", i ? "," : "", i, domain);
        own_text = malloc(body_bytes + KEY_TEXT);
        if (!asked_for || !own_text || n >= room)
            return 1;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    begin_us = now_us();
    for (size_t i = 0; i < connection_count; i++) {
        lines[i].fd = -1;
        open_line(&lines[i]);
    }
    while (load.answered < wanted &&
           (now_us() / 1000 < end_ms ||
            (next_number > load.answered && now_us() / 1000 < end_ms + 2000))) {
        struct epoll_event got[EVENTS];
        int n = epoll_wait(epoll_fd, got, EVENTS, rate > 0 ? 1 : 20);
        for (int i = 0; i < n; i++) {
            struct line *l = got[i].data.ptr;
            if (l->fd < 0)
                continue;
            if (got[i].events & (EPOLLERR | EPOLLHUP)) {
                answers(l);
                if (l->fd >= 0)
                    drop(l);
                continue;
            }
            if (got[i].events & EPOLLOUT) {
                l->connected = true;
                if (l->busy)
                    push(l);
                else
                    start(l);
            }
            if (l->fd >= 0 && (got[i].events & EPOLLIN))
                answers(l);
        }
        for (size_t i = 0; i < connection_count; i++) {
            if (lines[i].fd < 0 && now_us() / 1000 >= lines[i].again_at_ms &&
                now_us() / 1000 < end_ms)
                open_line(&lines[i]);
            else if (lines[i].fd >= 0 && lines[i].connected && !lines[i].busy)
                start(&lines[i]);
        }
        if (now_us() / 1000 >= end_ms && next_number == load.answered)
            break;
    }
    load_report(&load, wanted, (double)(now_us() - begin_us) / 1e6);
    return 0;
}
