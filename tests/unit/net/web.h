/* web: a small HTTP or HTTPS server for the tests of the HTTP clients, on a thread of its own; each
 * path is one way to answer. */
#pragma once

#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/net/certs.h"

struct web {
    int fd, stop;
    uint16_t port;
    SSL_CTX *ctx; /* NULL: plain */
    pthread_t thread;
    atomic_int connections, requests;
    char last[4096]; /* the last request, read after its answer came */
};

struct web_io {
    int fd;
    SSL *ssl;
};

static inline ssize_t web_read(struct web_io *c, char *p, size_t n) {
    return c->ssl ? SSL_read(c->ssl, p, (int)n) : recv(c->fd, p, n, 0);
}

static inline void web_write(struct web_io *c, const char *p, size_t n) {
    while (n > 0) {
        ssize_t w = c->ssl ? SSL_write(c->ssl, p, (int)n) : send(c->fd, p, n, MSG_NOSIGNAL);
        if (w <= 0)
            return;
        p += w;
        n -= (size_t)w;
    }
}

static const struct {
    const char *path, *answer; /* NULL: special */
} web_pages[] = {
    {"/ok", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
    {"/gone", "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"},
    {"/moved", "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n"},
    {"/moved7", "HTTP/1.1 307 T\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n"},
    {"/moved8", "HTTP/1.1 308 P\r\nLocation: http://127.0.0.9/\r\nContent-Length: 0\r\n\r\n"},
    {"/later", "HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"},
    {"/date", "HTTP/1.1 429 Slow\r\nRetry-After: Fri, 01 Jan 2100 00:00:00 GMT\r\n"
              "Content-Length: 0\r\n\r\n"},
    {"/past", "HTTP/1.1 429 Slow\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n"
              "Content-Length: 0\r\n\r\n"},
    {"/never",
     "HTTP/1.1 429 Slow\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n"},
    {"/soon", "HTTP/1.1 429 Slow\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n"},
    {"/noise", "SSH-2.0-OpenSSH_9.2\r\n\r\n"},
    {"/short", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello"},
    {"/nothing", ""},
    {"/half", "HTTP/1.1 200 OK\r\nX-Half: ye"},
    {"/endless", "HTTP/1.1 200 OK\r\nX-Whole: yes\r\n"},
    {"/interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"},
    {"/beyond", "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n"},
};

static inline bool web_serve(struct web *w, struct web_io *c) {
    static char in[4096]; /* one thread at a time reads it: requests come one by one in the tests */
    size_t n = 0;
    char *end = NULL;
    while (!end && n < sizeof in - 1) {
        ssize_t r = web_read(c, in + n, sizeof in - 1 - n);
        if (r <= 0)
            return false;
        n += (size_t)r;
        in[n] = 0;
        end = strstr(in, "\r\n\r\n");
    }
    const char *length = strcasestr(in, "\r\nContent-Length: ");
    size_t want = (size_t)(end + 4 - in) + (length ? strtoul(length + 18, NULL, 10) : 0);
    while (n < want && n < sizeof in - 1) {
        ssize_t r = web_read(c, in + n, sizeof in - 1 - n);
        if (r <= 0)
            return false;
        n += (size_t)r;
        in[n] = 0;
    }
    memcpy(w->last, in, n + 1);
    w->requests++;
    const char *path = strchr(in, ' ') + 1;
    size_t path_n = strcspn(path, " ?");
    for (size_t i = 0; i < sizeof web_pages / sizeof *web_pages; i++)
        if (strlen(web_pages[i].path) == path_n && memcmp(path, web_pages[i].path, path_n) == 0) {
            web_write(c, web_pages[i].answer, strlen(web_pages[i].answer));
            return strstr(web_pages[i].answer, "Content-Length: 0") || i == 0;
        }
    if (memcmp(path, "/big", 4) == 0) {
        static char x[1024];
        memset(x, 'x', sizeof x);
        static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n";
        web_write(c, head, sizeof head - 1);
        for (int i = 0; i < 10240; i++)
            web_write(c, x, sizeof x);
    } else if (memcmp(path, "/headers", 8) == 0) {
        web_write(c, "HTTP/1.1 200 OK\r\n", 17);
        for (int i = 0; i < 20000; i++)
            web_write(c, "X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 65);
    } else if (memcmp(path, "/hang", 5) == 0) {
        struct pollfd p[2] = {{.fd = c->fd, .events = POLLIN}, {.fd = w->stop, .events = POLLIN}};
        poll(p, 2, 10000);
    }
    return false;
}

static inline void *web_main(void *arg) {
    struct web *w = arg;
    struct pollfd p[2] = {{.fd = w->fd, .events = POLLIN}, {.fd = w->stop, .events = POLLIN}};
    while (poll(p, 2, -1) > 0 && !p[1].revents) {
        struct web_io c = {.fd = accept(w->fd, NULL, NULL)};
        w->connections++;
        bool ok = true;
        if (w->ctx) {
            c.ssl = SSL_new(w->ctx);
            SSL_set_fd(c.ssl, c.fd);
            ok = SSL_accept(c.ssl) == 1;
        }
        while (ok) {
            ok = web_serve(w, &c);
            /* kept open until the next request or the next connection */
            struct pollfd q[3] = {{.fd = c.fd, .events = POLLIN}, p[0], p[1]};
            if (ok && (poll(q, 3, -1) < 0 || q[1].revents || q[2].revents))
                ok = false;
        }
        SSL_free(c.ssl);
        close(c.fd);
    }
    return NULL;
}

static inline void web_start(struct web *w, SSL_CTX *ctx) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    w->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(w->fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(w->fd, 64), 0);
    getsockname(w->fd, (struct sockaddr *)&at, &len);
    w->port = ntohs(at.sin_port);
    w->stop = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(pthread_create(&w->thread, NULL, web_main, w), 0);
}

static inline void web_stop(struct web *w) {
    (void)!eventfd_write(w->stop, 1);
    pthread_join(w->thread, NULL);
    close(w->fd);
    close(w->stop);
    SSL_CTX_free(w->ctx);
}

/* A context with a fresh certificate; it belongs to web_start(). */
static inline SSL_CTX *web_ctx(struct certs *certs, const char *san, long from, long until,
                               bool self) {
    struct cert_files f = certs_issue(certs, "hook", san, from, until, self);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, f.cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, f.key, SSL_FILETYPE_PEM), 1);
    return ctx;
}
