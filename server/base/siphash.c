#include "server/base/siphash.h"

enum { ROUNDS_A_WORD = 2, ROUNDS_AT_THE_END = 4 };

struct state {
    uint64_t v0, v1, v2, v3;
};

static uint64_t little_endian(const unsigned char *p, size_t n) {
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++)
        word |= (uint64_t)p[i] << (8 * i);
    return word;
}

static uint64_t rotated(uint64_t v, int bits) {
    return v << bits | v >> (64 - bits);
}

static void mix(struct state *s, int rounds) {
    for (int i = 0; i < rounds; i++) {
        s->v0 += s->v1;
        s->v2 += s->v3;
        s->v1 = rotated(s->v1, 13) ^ s->v0;
        s->v3 = rotated(s->v3, 16) ^ s->v2;
        s->v0 = rotated(s->v0, 32);
        s->v2 += s->v1;
        s->v0 += s->v3;
        s->v1 = rotated(s->v1, 17) ^ s->v2;
        s->v3 = rotated(s->v3, 21) ^ s->v0;
        s->v2 = rotated(s->v2, 32);
    }
}

static void take_word(struct state *s, uint64_t word) {
    s->v3 ^= word;
    mix(s, ROUNDS_A_WORD);
    s->v0 ^= word;
}

uint64_t siphash(const unsigned char key[SIPHASH_KEY_SIZE], const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint64_t k0 = little_endian(key, 8), k1 = little_endian(key + 8, 8);
    struct state s = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                      k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    size_t words = n / 8, rest = n % 8;
    for (size_t i = 0; i < words; i++)
        take_word(&s, little_endian(p + 8 * i, 8));
    uint64_t last = (uint64_t)n << 56;
    if (rest > 0)
        last |= little_endian(p + 8 * words, rest);
    take_word(&s, last);
    s.v2 ^= 0xff;
    mix(&s, ROUNDS_AT_THE_END);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
