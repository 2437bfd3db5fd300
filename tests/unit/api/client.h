/* A client that sends the bytes it is told to, and reads one answer at a time. */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "tests/unit/patience.h"

enum { CLIENT_TIMEOUT_MS = 20 * 1000, CLIENT_ANSWER_MAX = 64 * 1024 * 1024 };

struct answer {
    struct buf bytes;
    int status;      /* 0: none */
    struct str head; /* status line and header fields */
    struct str body;
    bool is_closed; /* the connection ended with it */
};

static int client_connect(int port) {
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void client_send(int fd, struct str bytes) {
    while (bytes.n > 0) {
        ssize_t n = send(fd, bytes.p, bytes.n, MSG_NOSIGNAL);
        if (n <= 0)
            return; /* the server has closed; the answer tells */
        bytes = str_from(bytes, (size_t)n);
    }
}

static struct str client_header(const struct answer *a, struct str name) {
    struct str rest = a->head;
    while (!str_is_absent(rest)) {
        struct str line = str_trim(str_split(&rest, '\n'));
        struct str value = line;
        if (str_equal_nocase(str_split(&value, ':'), name) && !str_is_absent(value))
            return str_trim(value);
    }
    return STR_NONE;
}

/* More bytes; false: none come any more. */
static bool client_read_more(int fd, struct answer *a, int64_t until_mono_ms) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t left = until_mono_ms - clock_mono_ms();
    assert_true(left > 0 && poll(&p, 1, (int)left) == 1); /* in time */
    char *room = buf_reserve(&a->bytes, 65536);
    assert_non_null(room);
    ssize_t n = recv(fd, room, 65536, 0);
    if (n <= 0) {
        a->is_closed = true;
        return false;
    }
    buf_advance(&a->bytes, (size_t)n);
    return true;
}

/* One answer; `out` is released with client_release(). `is_head`: no body follows. */
static void client_read(int fd, bool is_head, struct answer *out) {
    int64_t until = clock_mono_ms() + patience_ms(CLIENT_TIMEOUT_MS);
    *out = (struct answer){.bytes = BUF_INIT(CLIENT_ANSWER_MAX)};
    ptrdiff_t end;
    for (;;) {
        end = str_find(buf_str(&out->bytes), STR("\r\n\r\n"));
        /* an interim answer is passed over */
        if (end >= 0 && str_starts_with(buf_str(&out->bytes), STR("HTTP/1.1 100"))) {
            buf_consume(&out->bytes, (size_t)end + 4);
            continue;
        }
        if (end >= 0 || !client_read_more(fd, out, until))
            break;
    }
    if (end < 0)
        return;
    uint64_t length = 0;
    out->head = str_slice(buf_str(&out->bytes), 0, (size_t)end + 2);
    struct str text = client_header(out, STR("Content-Length"));
    if (!str_is_absent(text) && !is_head)
        assert_int_equal(str_parse_u64(text, CLIENT_ANSWER_MAX, &length), OK);
    while (out->bytes.n < (size_t)end + 4 + length && client_read_more(fd, out, until))
        ;
    struct str all = buf_str(&out->bytes);
    uint64_t status = 0;
    assert_true(all.n >= 12);
    assert_int_equal(str_parse_u64(str_slice(all, 9, 12), 999, &status), OK);
    out->status = (int)status;
    out->head = str_slice(all, 0, (size_t)end + 2);
    out->body = str_slice(all, (size_t)end + 4, (size_t)end + 4 + length);
    struct str connection = client_header(out, STR("Connection"));
    out->is_closed |= str_equal_nocase(connection, STR("close"));
}

static void client_release(struct answer *a) {
    buf_release(&a->bytes);
}

/* Has the server closed? Waits for it. */
static inline bool client_is_closed(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char byte;
    return poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)) == 1 && recv(fd, &byte, 1, 0) <= 0;
}

/* Bytes out, one answer in, on a connection of its own. */
static inline void client_once(int port, struct str bytes, struct answer *out) {
    int fd = client_connect(port);
    client_send(fd, bytes);
    client_read(fd, str_starts_with(bytes, STR("HEAD ")), out);
    close(fd);
}
