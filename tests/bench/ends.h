/* What the tools that load, sink and hook share: an address in their arguments, a listener, a
 * clock, and the line that tells of a load. */
#pragma once

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static inline int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* "127.0.0.1:25", the value of `option`; ends the process with 64 when it is none. */
static inline struct sockaddr_in address_of(const char *option, const char *text) {
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strrchr(text, ':');
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (colon && (size_t)(colon - text) < sizeof host) {
        memcpy(host, text, (size_t)(colon - text));
        at.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    }
    if (inet_pton(AF_INET, host, &at.sin_addr) != 1) {
        fprintf(stderr, "%s wants address:port, not %s\n", option, text);
        exit(64);
    }
    return at;
}

/* Listens at `text`, without blocking, and prints "ready PORT". */
static inline int listen_at(const char *text) {
    struct sockaddr_in at = address_of("--listen", text);
    socklen_t len = sizeof at;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, len) != 0 || listen(fd, 1024) != 0) {
        perror(text);
        exit(1);
    }
    getsockname(fd, (struct sockaddr *)&at, &len);
    printf("ready %u\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

/* What became of a load of messages, and how long each answer took (microseconds, sorted here). */
struct load {
    uint64_t answered, accepted, refused, errors;
    uint32_t *latency_us;
};

static inline int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static inline void load_note(struct load *l, uint64_t wanted, int64_t took_us) {
    if (l->answered < wanted)
        l->latency_us[l->answered] = (uint32_t)(took_us < UINT32_MAX ? took_us : UINT32_MAX);
}

static inline void load_report(const struct load *l, uint64_t wanted, double seconds) {
    size_t n = l->answered < wanted ? l->answered : wanted;
    const uint32_t *us = l->latency_us;
    qsort(l->latency_us, n, sizeof *us, compare_u32);
    printf("{\"accepted\": %llu, \"refused\": %llu, \"errors\": %llu, \"seconds\": %.3f, "
           "\"per_second\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n",
           (unsigned long long)l->accepted, (unsigned long long)l->refused,
           (unsigned long long)l->errors, seconds, (double)l->accepted / seconds,
           n ? us[n / 2] / 1e3 : 0, n ? us[n * 99 / 100] / 1e3 : 0, n ? us[n - 1] / 1e3 : 0);
}
