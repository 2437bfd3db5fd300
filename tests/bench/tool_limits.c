/* tool_limits: what this machine can do at all, for the other figures to stand beside.
 *
 *     tool_limits sign <threads> <milliseconds> rsa|ed25519     signatures a second, of all threads
 *     tool_limits sync <folder> <milliseconds> [a second]       appends of 4 KiB, each synced, one
 *         after the other or so many a second
 *
 * Prints {"per_second": wall, "cpu_us": CPU time of one}, of appends "p50_ms" and "p99_ms", too.
 */
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MOST = 256, BLOCK = 4096, APPENDS_MOST = 1 << 20 };

static EVP_PKEY *key;
static const EVP_MD *hash;
static int64_t end_us;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

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

static uint64_t run_sync(const char *folder, int64_t every_us) {
    char path[4096];
    static const char block[BLOCK];
    uint64_t n = 0;
    int64_t next_us = now_us();
    snprintf(path, sizeof path, "%s/sync", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    for (; n < APPENDS_MOST; n++) {
        for (int64_t left; every_us != 0 && (left = next_us - now_us()) > 0;)
            usleep((useconds_t)left);
        next_us += every_us;
        int64_t start_us = now_us();
        if (start_us >= end_us)
            break;
        if (write(fd, block, sizeof block) != BLOCK || fdatasync(fd) != 0) {
            perror(path);
            exit(1);
        }
        took_us[n] = (uint32_t)(now_us() - start_us);
    }
    close(fd);
    unlink(path);
    qsort(took_us, n, sizeof took_us[0], by_size);
    return n;
}

int main(int argc, char **argv) {
    int is_sign = argc == 5 && strcmp(argv[1], "sign") == 0;
    if (!is_sign && !((argc == 4 || argc == 5) && strcmp(argv[1], "sync") == 0)) {
        fprintf(stderr, "usage: tool_limits sign THREADS MS rsa|ed25519 | sync FOLDER MS [RATE]\n");
        return 64;
    }
    if (is_sign) {
        int is_rsa = strcmp(argv[4], "rsa") == 0;
        hash = is_rsa ? EVP_sha256() : NULL;
        key = is_rsa ? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048)
                     : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    }
    size_t threads = is_sign ? strtoul(argv[2], NULL, 10) : 1;
    if (threads == 0 || threads > THREADS_MOST)
        return 64;
    int64_t start_us = now_us(), cpu = cpu_us();
    end_us = start_us + strtol(argv[3], NULL, 10) * 1000;
    long rate = !is_sign && argc == 5 ? strtol(argv[4], NULL, 10) : 0;
    uint64_t n = is_sign ? run_sign(threads) : run_sync(argv[2], rate > 0 ? 1000000 / rate : 0);
    if (n == 0)
        return 64;
    printf("{\"per_second\": %.1f, \"cpu_us\": %.1f",
           (double)n * 1e6 / (double)(now_us() - start_us), (double)(cpu_us() - cpu) / (double)n);
    if (!is_sign)
        printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f", took_us[n / 2] / 1e3,
               took_us[n * 99 / 100] / 1e3);
    printf("}\n");
    EVP_PKEY_free(key);
    return 0;
}
