/* random: from the kernel, buffered per thread; aborts when the kernel refuses. Thread: any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void random_bytes(void *p, size_t n);
uint64_t random_u64(void);
uint64_t random_below(uint64_t bound); /* uniform in 0..bound-1, bound > 0 */
