/* tool_sink: an SMTP receiver for load and crash tests: takes everything, remembers what it took.
 *
 *     tool_sink --listen 127.0.0.1:2525 [--ledger FILE] [--defer-permille N] [--drop-permille N]
 * [--delay-ms N] [--rtt-ms N] [--mute 1] [--tell N,M,...] [--by-name 1] [--tls CERTIFICATE.PEM]
 * [--chunking 0]
 *
 * For each message and recipient it appends "got <X-Ledger value or -> <Message-ID> <recipient>
 * <digest of what it says, leaves.h>" to the ledger before it answers 250, and the same with "cut"
 * when that connection ends without a further command: its sender may not have read the answer.
 * With --drop-permille it closes the connection instead of answering some of the final dots
 * ("dropped ..." in the ledger: taken, but the sender cannot know).
 * --defer-permille answers some final dots with 451 ("deferred ..."). --rtt-ms holds every flight
 * of replies back, as a network with that round trip would; --mute accepts connections and says
 * nothing, so that a sender keeps what it has; --by-name refuses recipients whose names begin with
 * "bad" (550) and defers those that begin with "later" (451). --tls offers STARTTLS; the file has
 * the certificate and its key; --chunking 0 does not offer CHUNKING (the "final dot" of a message
 * that comes by BDAT is the end of its last chunk). Prints "ready PORT" once, "reached N
 * <monotonic microseconds>" when so many recipients were taken (--tell), and counts at SIGTERM:
 * "in_doubt" are recipients that were taken last in their sessions, of which no later command shows
 * that the sender heard so.
 */
#include "tests/bench/ends.h"
#include "tests/bench/leaves.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { IN_MAX = 1 << 20, RCPT_MAX = 1000, EVENTS = 256, HEADER_MAX = 16384, OUT_MAX = 65536 };

struct peer {
    int fd;
    SSL *ssl; /* NULL in clear */
    size_t in_n, in_room;
    char *in;
    char out[OUT_MAX];
    size_t out_n;
    bool in_data, in_chunk, is_chunked, is_last_chunk, closing, has_answered, wants_tls;
    uint64_t chunk_left; /* octets, of BDAT */
    char *rcpt[RCPT_MAX];
    size_t rcpt_count;
    char header[HEADER_MAX]; /* the start of the message */
    size_t header_n, size;
    size_t in_doubt;      /* recipients taken, and no command since */
    int tail;             /* how much of CRLF . CRLF has been seen */
    int64_t answer_at_ms; /* delayed answer to the final dot */
    struct peer *next_delayed;
    /* for the ledger alone */
    char *mail, *unheard; /* the message; the lines of the one that was answered last */
    size_t mail_n, mail_room;
    LIST_ENTRY(peer) link;
};

static int ledger = -1;
static uint64_t messages, recipients, bytes, connections, deferred, dropped;
static unsigned defer_permille, drop_permille, delay_ms, rtt_ms, mute, by_name, chunking = 1;
static uint64_t in_doubt, encrypted;
static const char *tell = ""; /* what is left of --tell */
static int epoll_fd;
static SSL_CTX *tls; /* NULL: STARTTLS is not offered */
static uint64_t random_state = 88172645463325252ull;
static struct peer *delayed_first, *delayed_last;
static LIST_HEAD(, peer) peers = LIST_HEAD_INITIALIZER(peers); /* with a ledger */

/* A flight of replies on its way through the pretended network. */
struct late {
    struct late *next;
    struct peer *peer; /* NULL: it went away */
    int64_t at_ms;
    size_t n;
    char bytes[];
};
static struct late *late_first, *late_last;

static unsigned random_permille(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state % 1000);
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void say(struct peer *p, const char *text) {
    size_t n = strlen(text);
    if (p->out_n + n <= sizeof p->out) {
        memcpy(p->out + p->out_n, text, n);
        p->out_n += n;
    }
}

static void send_all(struct peer *p, const char *text, size_t size) {
    size_t at = 0;
    while (at < size) {
        ssize_t n = p->ssl ? SSL_write(p->ssl, text + at, (int)(size - at))
                           : send(p->fd, text + at, size - at, MSG_NOSIGNAL);
        if (n <= 0) {
            p->closing = true;
            break;
        }
        at += (size_t)n;
    }
}

static void send_late(struct peer *p) {
    struct late *l = malloc(sizeof *l + p->out_n);
    if (!l)
        die("malloc");
    *l = (struct late){.peer = p, .at_ms = now_ms() + rtt_ms, .n = p->out_n};
    memcpy(l->bytes, p->out, p->out_n);
    if (late_last)
        late_last->next = l;
    else
        late_first = l;
    late_last = l;
}

static void flush(struct peer *p) {
    p->has_answered |= p->out_n > 0;
    if (rtt_ms && p->out_n && !p->closing)
        send_late(p);
    else
        send_all(p, p->out, p->out_n);
    p->out_n = 0;
}

static void answer_late(void) {
    int64_t now = now_ms();
    struct late *l;
    while ((l = late_first) && l->at_ms <= now) {
        late_first = l->next;
        if (!late_first)
            late_last = NULL;
        if (l->peer)
            send_all(l->peer, l->bytes, l->n);
        free(l);
    }
}

static void header_value(const struct peer *p, const char *name, char *out, size_t size) {
    const char *at = p->header, *end = p->header + p->header_n;
    size_t n = strlen(name);
    snprintf(out, size, "-");
    while (at < end) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        size_t len = eol ? (size_t)(eol - at) : (size_t)(end - at);
        if (len <= 1)
            return;
        if (len > n && strncasecmp(at, name, n) == 0) {
            size_t from = n, to = len;
            while (from < to && at[from] == ' ')
                from++;
            while (to > from && (at[to - 1] == '\r' || at[to - 1] == ' '))
                to--;
            snprintf(out, size, "%.*s", (int)(to - from), at + from);
            return;
        }
        at += len + 1;
    }
}

static void keep_mail(struct peer *p, const char *at, size_t n) {
    if (p->mail_room - p->mail_n < n) {
        p->mail_room = p->mail_room * 2 + n;
        p->mail = realloc(p->mail, p->mail_room);
        if (!p->mail)
            die("realloc");
    }
    memcpy(p->mail + p->mail_n, at, n);
    p->mail_n += n;
}

static void note(const char *what, const char *more) {
    char line[2048];
    int n = snprintf(line, sizeof line, "%s %s\n", what, more);
    if (n < 0 || (size_t)n >= sizeof line || write(ledger, line, (size_t)n) != n)
        die("ledger");
}

static void record(struct peer *p, const char *what) {
    char key[256], id[512], digest[LEAVES_TEXT], line[2000];
    if (ledger < 0)
        return;
    header_value(p, "X-Ledger:", key, sizeof key);
    header_value(p, "Message-ID:", id, sizeof id);
    if (!p->is_chunked)
        p->mail_n = leaves_unstuff(p->mail, p->mail_n);
    leaves_of_mail(p->mail, p->mail_n, digest);
    bool is_answered = strcmp(what, "got") == 0;
    char *unheard = is_answered ? calloc(p->rcpt_count + 1, sizeof line) : NULL;
    if (is_answered && !unheard)
        die("calloc");
    for (size_t i = 0, at = 0; i < p->rcpt_count; i++) {
        int n = snprintf(line, sizeof line, "%s %s %s %s", key, id, p->rcpt[i], digest);
        note(what, line);
        if (is_answered && n > 0) {
            memcpy(unheard + at, line, (size_t)n + 1); /* one string after the other */
            at += (size_t)n + 1;
        }
    }
    p->unheard = unheard;
}

/* The connection is over, and nothing came after the last answer to a final dot. */
static void record_cut(struct peer *p) {
    for (const char *line = p->unheard; line && *line; line += strlen(line) + 1)
        note("cut", line);
    free(p->unheard);
    p->unheard = NULL;
}

/* Was the next count of --tell reached? */
static void tell_count(void) {
    while (*tell && recipients >= strtoull(tell, NULL, 10)) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        printf("reached %llu %lld\n", strtoull(tell, NULL, 10),
               (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000);
        fflush(stdout);
        const char *comma = strchr(tell, ',');
        tell = comma ? comma + 1 : "";
    }
}

static void forget_message(struct peer *p) {
    for (size_t i = 0; i < p->rcpt_count; i++)
        free(p->rcpt[i]);
    p->rcpt_count = p->header_n = p->size = p->mail_n = 0;
    p->tail = 2; /* as after a line end */
}

static void answer_dot(struct peer *p) {
    if (drop_permille && random_permille() < drop_permille) {
        record(p, "dropped");
        dropped++;
        p->closing = true;
    } else if (defer_permille && random_permille() < defer_permille) {
        record(p, "deferred");
        deferred++;
        say(p, "451 4.3.0 a passing trouble\r\n");
    } else {
        record(p, "got");
        messages++;
        recipients += p->rcpt_count;
        bytes += p->size;
        encrypted += p->ssl != NULL;
        in_doubt += p->rcpt_count;
        p->in_doubt = p->rcpt_count;
        say(p, "250 2.0.0 taken\r\n");
        tell_count();
    }
    forget_message(p);
}

static void keep_header(struct peer *p, const char *at, size_t n) {
    size_t room = sizeof p->header - p->header_n;
    n = n < room ? n : room;
    memcpy(p->header + p->header_n, at, n);
    p->header_n += n;
}

/* Consumes message bytes up to and with CRLF.CRLF; returns how many. */
static size_t take_data(struct peer *p, const char *at, size_t n, bool *done) {
    size_t i = 0;
    *done = false;
    for (; i < n && !*done; i++) {
        if (p->tail == 0) { /* nothing happens before the next CR */
            const char *cr = memchr(at + i, '\r', n - i);
            size_t to = cr ? (size_t)(cr - at) : n;
            keep_header(p, at + i, to - i);
            i = to;
            if (i == n)
                break;
        }
        char c = at[i];
        switch (p->tail) { /* 0: inside a line, 1: CR, 2: at line start, 3: "." at line start, 4:
                              ".CR" */
        case 0:
            p->tail = c == '\r' ? 1 : 0;
            break;
        case 1:
            p->tail = c == '\n' ? 2 : c == '\r' ? 1 : 0;
            break;
        case 2:
            p->tail = c == '.' ? 3 : c == '\r' ? 1 : 0;
            break;
        case 3:
            p->tail = c == '\r' ? 4 : 0;
            break;
        case 4:
            *done = c == '\n';
            p->tail = *done ? 2 : 0;
            break;
        }
        keep_header(p, &c, 1);
    }
    p->size += i;
    if (ledger >= 0)
        keep_mail(p, at, i);
    return i;
}

/* Consumes octets of a chunk, as they are; returns how many. */
static size_t take_chunk(struct peer *p, const char *at, size_t n) {
    if (n > p->chunk_left)
        n = (size_t)p->chunk_left;
    keep_header(p, at, n);
    p->size += n;
    if (ledger >= 0 && n > 0)
        keep_mail(p, at, n);
    p->chunk_left -= n;
    return n;
}

/* Answered by its name; false: as usual. */
static bool is_refused(struct peer *p, const char *path) {
    if (!by_name)
        return false;
    if (strncasecmp(path, "<bad", 4) == 0)
        say(p, "550 5.1.1 nobody here\r\n");
    else if (strncasecmp(path, "<later", 6) == 0)
        say(p, "451 4.2.0 later\r\n");
    else
        return false;
    return true;
}

static void command(struct peer *p, const char *line, size_t n) {
    in_doubt -= p->in_doubt;
    p->in_doubt = 0;
    if (p->unheard) {
        free(p->unheard);
        p->unheard = NULL;
    }
    if (n >= 4 && strncasecmp(line, "EHLO", 4) == 0) {
        say(p, "250-sink.test\r\n250-PIPELINING\r\n250-SIZE "
               "52428800\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n");
        if (chunking)
            say(p, "250-CHUNKING\r\n");
        if (tls && !p->ssl)
            say(p, "250-STARTTLS\r\n");
        say(p, "250 ENHANCEDSTATUSCODES\r\n");
    } else if (n >= 4 && strncasecmp(line, "HELO", 4) == 0) {
        say(p, "250 sink.test\r\n");
    } else if (n >= 10 && strncasecmp(line, "MAIL FROM:", 10) == 0) {
        forget_message(p);
        say(p, "250 2.1.0 ok\r\n");
    } else if (n >= 8 && strncasecmp(line, "RCPT TO:", 8) == 0) {
        const char *a = memchr(line, '<', n), *b = memchr(line, '>', n);
        if (p->rcpt_count == RCPT_MAX || !a || !b || b < a) {
            say(p, "452 4.5.3 too many\r\n");
            return;
        }
        if (is_refused(p, a))
            return;
        p->rcpt[p->rcpt_count++] = strndup(a + 1, (size_t)(b - a - 1));
        say(p, "250 2.1.5 ok\r\n");
    } else if (n >= 4 && strncasecmp(line, "DATA", 4) == 0) {
        if (p->rcpt_count == 0) {
            say(p, "503 5.5.1 no recipients\r\n");
            return;
        }
        p->in_data = true;
        p->is_chunked = false;
        say(p, "354 go on\r\n");
    } else if (chunking && n > 5 && strncasecmp(line, "BDAT ", 5) == 0 && line[5] >= '0' &&
               line[5] <= '9') {
        char *after;
        p->chunk_left = strtoull(line + 5, &after, 10);
        p->in_chunk = p->is_chunked = true;
        p->is_last_chunk = strncasecmp(after, " LAST", 5) == 0;
    } else if (n >= 4 && strncasecmp(line, "RSET", 4) == 0) {
        forget_message(p);
        say(p, "250 2.0.0 ok\r\n");
    } else if (tls && !p->ssl && n >= 8 && strncasecmp(line, "STARTTLS", 8) == 0) {
        say(p, "220 2.0.0 go on\r\n");
        p->wants_tls = true;
    } else if (n >= 4 && strncasecmp(line, "QUIT", 4) == 0) {
        say(p, "221 2.0.0 bye\r\n");
        p->closing = true;
    } else {
        say(p, "250 2.0.0 ok\r\n");
    }
}

static void delay(struct peer *p) {
    p->answer_at_ms = now_ms() + delay_ms;
    p->next_delayed = NULL;
    if (delayed_last)
        delayed_last->next_delayed = p;
    else
        delayed_first = p;
    delayed_last = p;
}

/* The 220 has left in clear. What came with the command belongs to nobody (RFC 3207 4.2). */
static void begin_tls(struct peer *p) {
    p->wants_tls = false;
    p->in_n = 0;
    p->ssl = SSL_new(tls);
    if (!p->ssl || SSL_set_fd(p->ssl, p->fd) != 1)
        die("tls");
    SSL_set_accept_state(p->ssl);
}

static void end_message(struct peer *p) {
    if (delay_ms)
        delay(p);
    else
        answer_dot(p);
}

static void end_chunk(struct peer *p) {
    p->in_chunk = false;
    if (p->rcpt_count == 0) /* RFC 3030 2: the octets were taken all the same */
        say(p, "503 5.5.1 no recipients\r\n");
    else if (p->is_last_chunk)
        end_message(p);
    else
        say(p, "250 2.0.0 go on\r\n");
}

static void work(struct peer *p) {
    size_t at = 0;
    while ((at < p->in_n || (p->in_chunk && p->chunk_left == 0)) && !p->closing && !p->wants_tls &&
           p->answer_at_ms == 0) {
        if (p->in_chunk) {
            at += take_chunk(p, p->in + at, p->in_n - at);
            if (p->chunk_left == 0)
                end_chunk(p);
            continue;
        }
        if (p->in_data) {
            bool done;
            at += take_data(p, p->in + at, p->in_n - at, &done);
            if (done) {
                p->in_data = false;
                end_message(p);
            }
            continue;
        }
        char *eol = memchr(p->in + at, '\n', p->in_n - at);
        if (!eol)
            break;
        command(p, p->in + at, (size_t)(eol - (p->in + at)));
        at = (size_t)(eol - p->in) + 1;
    }
    memmove(p->in, p->in + at, p->in_n - at);
    p->in_n -= at;
    flush(p);
    if (p->wants_tls && !p->closing)
        begin_tls(p);
}

/* What was taken without an answer is acknowledged at once: a sender that writes a little at a time
 * and waits for the acknowledgement (Nagle) would else be measured by the kernel's delay of 40 ms.
 */
static void acknowledge(struct peer *p) {
    int on = 1;
    if (!p->has_answered && !p->closing)
        setsockopt(p->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static void end(struct peer *p) {
    for (struct peer **q = &delayed_first; *q; q = &(*q)->next_delayed)
        if (*q == p) {
            *q = p->next_delayed;
            break;
        }
    delayed_last = NULL;
    for (struct peer *q = delayed_first; q; q = q->next_delayed)
        delayed_last = q;
    for (struct late *l = late_first; l; l = l->next)
        if (l->peer == p)
            l->peer = NULL;
    if (ledger >= 0) {
        record_cut(p);
        LIST_REMOVE(p, link);
    }
    SSL_free(p->ssl);
    close(p->fd);
    forget_message(p);
    free(p->mail);
    free(p->in);
    free(p);
}

static void make_room(struct peer *p) {
    if (p->in_room - p->in_n < 65536) {
        p->in_room = p->in_room ? p->in_room * 2 : 131072;
        if (p->in_room > IN_MAX)
            p->in_room = IN_MAX;
        p->in = realloc(p->in, p->in_room);
        if (!p->in)
            die("realloc");
    }
}

/* How many octets came; 0: none now, -1: the end. */
static ssize_t take_in(struct peer *p) {
    make_room(p);
    if (p->in_room == p->in_n)
        return -1;
    if (p->ssl) {
        int n = SSL_read(p->ssl, p->in + p->in_n, (int)(p->in_room - p->in_n));
        return n > 0 ? n : SSL_get_error(p->ssl, n) == SSL_ERROR_WANT_READ ? 0 : -1;
    }
    ssize_t n = recv(p->fd, p->in + p->in_n, p->in_room - p->in_n, 0);
    return n > 0 ? n : n < 0 && errno == EAGAIN ? 0 : -1;
}

static void readable(struct peer *p) {
    bool is_first = true;
    do { /* what OpenSSL has read already epoll does not tell of */
        ssize_t n = take_in(p);
        if (n < 0) {
            end(p);
            return;
        }
        if (n == 0 && !is_first)
            break;
        p->in_n += (size_t)n;
        p->has_answered = false;
        work(p);
        is_first = false;
    } while (p->ssl && !p->closing && SSL_pending(p->ssl) > 0);
    acknowledge(p);
    if (p->closing)
        end(p);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), on = 1;
        if (fd < 0)
            return;
        struct peer *p = calloc(1, sizeof *p);
        if (!p)
            die("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        p->fd = fd;
        p->tail = 2;
        connections++;
        if (ledger >= 0)
            LIST_INSERT_HEAD(&peers, p, link);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = p};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0)
            die("epoll_ctl");
        if (mute)
            continue;
        say(p, "220 sink.test ESMTP\r\n");
        flush(p);
    }
}

static void answer_delayed(void) {
    int64_t now = now_ms();
    while (delayed_first && delayed_first->answer_at_ms <= now) {
        struct peer *p = delayed_first;
        delayed_first = p->next_delayed;
        if (!delayed_first)
            delayed_last = NULL;
        p->answer_at_ms = 0;
        answer_dot(p);
        flush(p);
        if (!p->closing)
            work(p);
        if (p->closing)
            end(p);
    }
}

static void load_certificate(const char *path) {
    tls = SSL_CTX_new(TLS_server_method());
    if (!tls || SSL_CTX_use_certificate_chain_file(tls, path) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, path, SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "tool_sink: %s is no certificate with its key\n", path);
        exit(64);
    }
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
}

int main(int argc, char **argv) {
    const char *at = "127.0.0.1:0";
    if (argc % 2 == 0) {
        fprintf(stderr, "tool_sink: options come in pairs; the source says which there are\n");
        return 64;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0)
            at = argv[i + 1];
        else if (strcmp(argv[i], "--ledger") == 0)
            ledger = open(argv[i + 1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (strcmp(argv[i], "--defer-permille") == 0)
            defer_permille = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--drop-permille") == 0)
            drop_permille = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--delay-ms") == 0)
            delay_ms = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rtt-ms") == 0)
            rtt_ms = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--mute") == 0)
            mute = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--tell") == 0)
            tell = argv[i + 1];
        else if (strcmp(argv[i], "--by-name") == 0)
            by_name = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--chunking") == 0)
            chunking = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--tls") == 0)
            load_certificate(argv[i + 1]);
        else {
            fprintf(stderr, "tool_sink: unknown %s\n", argv[i]);
            return 64;
        }
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    int listener = listen_at(at);
    static int listener_tag, signal_tag;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &listener_tag}, got[EVENTS];
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev);
    ev.data.ptr = &signal_tag;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, signals, &ev);
    for (;;) {
        int64_t next = delayed_first ? delayed_first->answer_at_ms : INT64_MAX;
        if (late_first && late_first->at_ms < next)
            next = late_first->at_ms;
        int64_t wait = next - now_ms();
        int n = epoll_wait(epoll_fd, got, EVENTS,
                           next == INT64_MAX ? -1
                           : wait > 0        ? (int)wait
                                             : 0);
        for (int i = 0; i < n; i++) {
            if (got[i].data.ptr == &listener_tag) {
                accept_all(listener);
            } else if (got[i].data.ptr == &signal_tag) {
                struct peer *p;
                LIST_FOREACH (p, &peers, link)
                    record_cut(p);
                printf("{\"messages\": %llu, \"recipients\": %llu, \"bytes\": %llu, "
                       "\"connections\": %llu, \"deferred\": %llu, "
                       "\"dropped\": %llu, \"in_doubt\": %llu, \"encrypted\": %llu}\n",
                       (unsigned long long)messages, (unsigned long long)recipients,
                       (unsigned long long)bytes, (unsigned long long)connections,
                       (unsigned long long)deferred, (unsigned long long)dropped,
                       (unsigned long long)in_doubt, (unsigned long long)encrypted);
                return 0;
            } else {
                readable(got[i].data.ptr);
            }
        }
        answer_delayed();
        answer_late();
    }
}
