/* siphash: SipHash-2-4, a hash with a key (Aumasson and Bernstein, 2012): who does not know the key
 * finds no inputs whose hashes agree. For hash tables; what is signed or stored takes digest.h.
 * Thread: any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { SIPHASH_KEY_SIZE = 16 };

/* `bytes` may be NULL when `n` is 0. */
uint64_t siphash(const unsigned char key[SIPHASH_KEY_SIZE], const void *bytes, size_t n);
