/* tool_timing: does the time that a refused API key takes tell anything about it? A statistical
 * test in the manner of dudect: two classes of keys in random order, Welch's t of their times, with
 * the slowest tenth (interrupts) left out.
 *
 *     tool_timing [MEASUREMENTS]          1,000,000 when not given
 *
 * Both classes are the same keys, looked up in different rings:
 *
 * prefix   that know their public part, and that do not
 * secret   that store a hash which differs in its first octet, and in its last
 * same     that differ in nothing but their place in memory
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

enum { KEYS = 64, RINGS = 4, ROUNDS = 200, NOW_MS = 1000 };

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

/* The same keys are looked up in the rings of both classes: what they are, and what they cost to
 * hash, is no part of the difference. Each class has several rings, made in random order and
 * anew in each round: two alone differ by where they lie in memory (|t| of 30 between equal ones).
 */
struct keys {
    struct auth_key_text text[KEYS];
    struct keyring *ring[2][RINGS];
};

static struct key_row describe(const struct auth_key_text *k, struct arena *a) {
    struct key_row row = {.id = id_new(NOW_MS), .project = 1, .scopes = SCOPE_SEND};
    if (auth_key_describe(auth_key_str(k), a, &row, NULL) != OK)
        abort();
    return row;
}

/* A ring of these keys, with hashes that have a fault in octet `at`. */
static struct keyring *ring_of(const struct auth_key_text text[KEYS], size_t at) {
    struct arena *a = arena_new();
    struct key_row row[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        row[i] = describe(&text[i], a);
        row[i].hash[at] ^= 1;
    }
    struct keyring *ring = keyring_new(row, KEYS);
    arena_free(&a);
    return ring;
}

static void generate(struct auth_key_text text[KEYS]) {
    for (size_t i = 0; i < KEYS; i++)
        auth_key_generate(false, &text[i]);
}

/* What a class's rings are made of. */
struct kind {
    const struct auth_key_text *text;
    size_t fault_at;
};

static void make_rings(struct keys *k, const struct kind kind[2]) {
    size_t made[2] = {0, 0};
    while (made[0] + made[1] < 2 * (size_t)RINGS) {
        size_t c = made[0] == RINGS ? 1 : made[1] == RINGS ? 0 : random_below(2);
        k->ring[c][made[c]++] = ring_of(kind[c].text, kind[c].fault_at);
    }
}

static void free_rings(struct keys *k) {
    for (size_t i = 0; i < 2 * (size_t)RINGS; i++)
        keyring_unref(&k->ring[i % 2][i / 2]);
}

static struct sample measure_one(const struct keys *k) {
    uint64_t r = random_u64();
    struct auth_key_text key = k->text[(r >> 8) % KEYS];
    const struct keyring *ring = k->ring[r & 1][(r >> 32) % RINGS];
    double begun = now_ns();
    const struct identity *who = keyring_find(ring, auth_key_str(&key), NOW_MS);
    struct sample s = {now_ns() - begun, (int)(r & 1)};
    if (who != NULL)
        abort();
    return s;
}

static void measure(const char *name, struct keys *k, const struct kind kind[2], size_t n) {
    struct sample *s = calloc(n, sizeof *s);
    size_t each = n / ROUNDS + 1;
    for (size_t i = 0; i < n; i++) {
        if (i % each == 0)
            make_rings(k, kind);
        s[i] = measure_one(k);
        if (i % each == each - 1 || i == n - 1)
            free_rings(k);
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
    struct auth_key_text others[KEYS];
    generate(k.text);
    generate(others);
    const struct kind first = {k.text, 0}, last = {k.text, SHA256_BYTES - 1}, other = {others, 0};
    measure("prefix", &k, (const struct kind[]){first, other}, n);
    measure("secret", &k, (const struct kind[]){first, last}, n);
    measure("same", &k, (const struct kind[]){first, first}, n);
    control(n);
    return 0;
}
