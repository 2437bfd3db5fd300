/* tool_limits: what this machine can do at all, for the other figures to stand beside.
 *
 *     tool_limits sign <threads> <milliseconds> rsa|ed25519     signatures a second, of all threads
 *     tool_limits sync <folder> <milliseconds>                  appends of 4 KiB, each synced
 *     tool_limits bare <folder> <milliseconds> <a second>       what an accept cannot do without,
 * and nothing else, so many a second: client, server and committer are a thread each, the second
 *         asked by a socket, the third by an event, and it syncs 88 KiB, the pages of one message
 *
 * Prints {"per_second": wall, "cpu_us": CPU time of one}, of the last two "p50_ms" and "p99_ms".
 */
#include "tests/bench/ends.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    THREADS_MOST = 256,
    BLOCK = 4096,
    APPENDS_MOST = 1 << 20,
    PAGES = 88 * 1024,
    LOG_MOST = 32 << 20,
};

static EVP_PKEY *key;
static const EVP_MD *hash;
static int64_t end_us;

static int64_t cpu_us(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

static void *sign(void *count) {
    static const unsigned char text[1024];
    unsigned char out[512];
    uint64_t n = 0;
    for (; now_us() < end_us; n++) {
        size_t size = sizeof out;
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        if (EVP_DigestSignInit(ctx, NULL, hash, NULL, key) != 1 ||
            EVP_DigestSign(ctx, out, &size, text, sizeof text) != 1)
            abort();
        EVP_MD_CTX_free(ctx);
    }
    *(uint64_t *)count = n;
    return NULL;
}

static uint64_t run_sign(size_t threads) {
    pthread_t t[THREADS_MOST];
    uint64_t count[THREADS_MOST], sum = 0;
    for (size_t i = 0; i < threads; i++)
        if (pthread_create(&t[i], NULL, sign, &count[i]) != 0)
            abort();
    for (size_t i = 0; i < threads; i++) {
        pthread_join(t[i], NULL);
        sum += count[i];
    }
    return sum;
}

static int by_size(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static uint32_t took_us[APPENDS_MOST];

static void must(bool is_so, const char *what) {
    if (!is_so) {
        perror(what);
        exit(1);
    }
}

static int make_file(const char *folder, char path[static 4096]) {
    snprintf(path, 4096, "%s/sync", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0, path);
    return fd;
}

static uint64_t run_sync(const char *folder) {
    static const char block[BLOCK];
    char path[4096];
    uint64_t n = 0;
    int fd = make_file(folder, path);
    for (int64_t start_us; n < APPENDS_MOST && (start_us = now_us()) < end_us; n++) {
        must(write(fd, block, sizeof block) == BLOCK && fdatasync(fd) == 0, path);
        took_us[n] = (uint32_t)(now_us() - start_us);
    }
    close(fd);
    unlink(path);
    return n;
}

/* ---- an accept without a program ---- */

static struct {
    int file, asked, answered; /* of the committer: a file, two events */
    int client, server;        /* a pair of sockets */
} bare;

static void *commit(void *arg) {
    static const char pages[PAGES];
    uint64_t v;
    off_t at = 0;
    while (read(bare.asked, &v, sizeof v) == sizeof v && v != UINT32_MAX) {
        must(pwrite(bare.file, pages, sizeof pages, at) == PAGES && fdatasync(bare.file) == 0,
             "file");
        at = at + PAGES < LOG_MOST ? at + PAGES : 0; /* a log begins anew */
        v = 1;
        must(write(bare.answered, &v, sizeof v) == sizeof v, "event");
    }
    return arg;
}

static void *serve(void *arg) {
    char c;
    while (read(bare.server, &c, 1) == 1) {
        uint64_t v = 1;
        must(write(bare.asked, &v, sizeof v) == sizeof v, "event");
        must(read(bare.answered, &v, sizeof v) == sizeof v, "event");
        must(write(bare.server, &c, 1) == 1, "socket");
    }
    uint64_t v = UINT32_MAX;
    must(write(bare.asked, &v, sizeof v) == sizeof v, "event");
    return arg;
}

static uint64_t run_bare(const char *folder, int64_t every_us) {
    char path[4096], c = 0;
    uint64_t n = 0;
    int pair[2];
    pthread_t t[2];
    bare.file = make_file(folder, path);
    bare.asked = eventfd(0, EFD_CLOEXEC);
    bare.answered = eventfd(0, EFD_CLOEXEC);
    must(bare.asked >= 0 && bare.answered >= 0, "event");
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socket");
    bare.client = pair[0];
    bare.server = pair[1];
    if (pthread_create(&t[0], NULL, serve, NULL) != 0 ||
        pthread_create(&t[1], NULL, commit, NULL) != 0)
        abort();
    for (int64_t next_us = now_us(); n < APPENDS_MOST; next_us += every_us, n++) {
        for (int64_t left; (left = next_us - now_us()) > 0;)
            usleep((useconds_t)left);
        int64_t start_us = now_us();
        if (start_us >= end_us)
            break;
        must(write(bare.client, &c, 1) == 1 && read(bare.client, &c, 1) == 1, "socket");
        took_us[n] = (uint32_t)(now_us() - start_us);
    }
    close(bare.client);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    close(bare.server);
    close(bare.asked);
    close(bare.answered);
    close(bare.file);
    unlink(path);
    return n;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    bool is_sign = argc == 5 && strcmp(what, "sign") == 0;
    bool is_bare = argc == 5 && strcmp(what, "bare") == 0;
    if (!is_sign && !is_bare && !(argc == 4 && strcmp(what, "sync") == 0)) {
        fprintf(stderr, "usage: tool_limits sign THREADS MS rsa|ed25519 | sync FOLDER MS | "
                        "bare FOLDER MS RATE\n");
        return 64;
    }
    if (is_sign) {
        int is_rsa = strcmp(argv[4], "rsa") == 0;
        hash = is_rsa ? EVP_sha256() : NULL;
        key = is_rsa ? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048)
                     : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    }
    size_t threads = is_sign ? strtoul(argv[2], NULL, 10) : 1;
    long rate = is_bare ? strtol(argv[4], NULL, 10) : 1;
    if (threads == 0 || threads > THREADS_MOST || rate <= 0)
        return 64;
    int64_t start_us = now_us(), cpu = cpu_us();
    end_us = start_us + strtol(argv[3], NULL, 10) * 1000;
    uint64_t n = is_sign   ? run_sign(threads)
                 : is_bare ? run_bare(argv[2], 1000000 / rate)
                           : run_sync(argv[2]);
    if (n == 0)
        return 64;
    printf("{\"per_second\": %.1f, \"cpu_us\": %.1f",
           (double)n * 1e6 / (double)(now_us() - start_us), (double)(cpu_us() - cpu) / (double)n);
    if (!is_sign) {
        qsort(took_us, n, sizeof took_us[0], by_size);
        printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f", took_us[n / 2] / 1e3,
               took_us[n * 99 / 100] / 1e3);
    }
    printf("}\n");
    EVP_PKEY_free(key);
    return 0;
}
