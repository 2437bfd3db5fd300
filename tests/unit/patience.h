/* patience: how long a test waits before it calls something lost. Under memcheck everything takes
 * many times as long (tests/valgrind says so by UNDER_VALGRIND), and a test that gives up then
 * shows what it still held as lost memory. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { PATIENCE_TIMES = 20 };

static inline bool is_under_memcheck(void) {
    return getenv("UNDER_VALGRIND") != NULL;
}

static inline int64_t patience_ms(int64_t usual_ms) {
    return is_under_memcheck() ? usual_ms * PATIENCE_TIMES : usual_ms;
}
