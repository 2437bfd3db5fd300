/* id: UUIDv7 (RFC 9562 5.7), the one kind of id that callers see. Time-ordered, made from our clock
 * and random bits; within one process ids of one millisecond still ascend. Printing and parsing by
 * libuuid. Thread: any. */
#pragma once

#include "server/base/str.h"

enum { ID_BYTES = 16, ID_TEXT = 36, ID_TEXT_SIZE = 37 };

struct id {
    uint8_t b[ID_BYTES];
};

/* `wall_ms` is 0..2^47-1. An id asked for up to 100 ms behind the newest one (two threads, a small
 * step of the clock) takes the newest one's millisecond, so that it still ascends; further back it
 * follows the clock. */
struct id id_new(int64_t wall_ms);
bool id_is_zero(const struct id *id);
bool id_equal(const struct id *a, const struct id *b);
int64_t id_wall_ms(const struct id *id);
void id_print(const struct id *id, char out[ID_TEXT_SIZE]); /* lower case */
NODISCARD enum err id_parse(struct str s, struct id *out);  /* 36 characters, any case */
