/* tool_timing: does the time that a refused API key takes tell anything about it? A statistical
 * test in the manner of dudect: two classes of keys in random order, Welch's t of their times, with
 * the slowest tenth (interrupts) left out.
 *
 *     tool_timing [MEASUREMENTS]          1,000,000 when not given
 *
 * prefix   keys whose public part is known, and keys whose is not
 * secret   known ones whose hash differs from the stored one in its first octet, and in its last
 * control  the same comparison as `secret` by memcmp(), to see that the test sees
 *
 * |t| below 4.5: no difference was found. Nothing here passes or fails: a busy machine blurs
 * everything.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/auth.h"
#include "server/base/digest.h"
#include "server/base/random.h"

enum { KEYS = 64, NOW_MS = 1000 };

struct sample {
    double ns;
    int class_;
};

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_time(const void *a, const void *b) {
    double x = ((const struct sample *)a)->ns, y = ((const struct sample *)b)->ns;
    return x < y ? -1 : x > y;
}

static void report(const char *name, struct sample *s, size_t n) {
    double mean[2] = {0, 0}, m2[2] = {0, 0}, count[2] = {0, 0};
    qsort(s, n, sizeof *s, by_time);
    for (size_t i = 0; i < n / 10 * 9; i++) {
        int c = s[i].class_;
        double delta = s[i].ns - mean[c];
        mean[c] += delta / ++count[c];
        m2[c] += delta * (s[i].ns - mean[c]);
    }
    double t = (mean[0] - mean[1]) /
               sqrt(m2[0] / (count[0] - 1) / count[0] + m2[1] / (count[1] - 1) / count[1]);
    printf("%-8s %zu measurements, means %.1f and %.1f ns, t = %.2f\n", name, n, mean[0], mean[1],
           t);
}

struct keys {
    struct auth_key_text text[2][KEYS];
    struct keyring *ring;
};

static struct key_row describe(const struct auth_key_text *k, struct arena *a) {
    struct key_row row = {.id = id_new(NOW_MS), .project = 1, .scopes = SCOPE_SEND};
    if (auth_key_describe(auth_key_str(k), a, &row, NULL) != OK)
        abort();
    return row;
}

/* `both_known`: the second class is in the ring, too; class c has hashes with a fault at at[c]. */
static void make(struct keys *k, bool both_known, const size_t at[2]) {
    struct arena *a = arena_new();
    struct key_row row[2 * KEYS];
    size_t n = 0;
    for (int c = 0; c < 2; c++)
        for (size_t i = 0; i < KEYS; i++) {
            auth_key_generate(false, &k->text[c][i]);
            struct key_row r = describe(&k->text[c][i], a);
            r.hash[at[c]] ^= 1;
            if (c == 0 || both_known)
                row[n++] = r;
        }
    k->ring = keyring_new(row, n);
    arena_free(&a);
}

static void measure(const char *name, const struct keys *k, size_t n) {
    struct sample *s = calloc(n, sizeof *s);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = random_u64();
        struct auth_key_text key = k->text[r & 1][(r >> 8) % KEYS];
        double begun = now_ns();
        const struct identity *who = keyring_find(k->ring, auth_key_str(&key), NOW_MS);
        s[i] = (struct sample){now_ns() - begun, (int)(r & 1)};
        if (who != NULL)
            abort();
    }
    report(name, s, n);
    free(s);
}

static void control(size_t n) {
    struct sample *s = calloc(n, sizeof *s);
    static uint8_t stored[4096], given[2][4096];
    given[0][0] = given[1][sizeof given[1] - 1] = 1;
    volatile int differs = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (int)(random_u64() & 1);
        double begun = now_ns();
        differs += memcmp(stored, given[c], sizeof stored) != 0;
        s[i] = (struct sample){now_ns() - begun, c};
    }
    report("control", s, n);
    free(s);
}

int main(int argc, char **argv) {
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    struct keys k;
    make(&k, false, (const size_t[]){0, 0});
    measure("prefix", &k, n);
    keyring_unref(&k.ring);
    make(&k, true, (const size_t[]){0, SHA256_BYTES - 1});
    measure("secret", &k, n);
    keyring_unref(&k.ring);
    control(n);
    return 0;
}
