#include "server/base/id.h"

#include <pthread.h>
#include <uuid/uuid.h>

#include "server/base/random.h"

_Static_assert(sizeof(uuid_t) == ID_BYTES, "a uuid_t is the same 16 bytes");
_Static_assert(ID_TEXT_SIZE == UUID_STR_LEN, "and prints as long");

/* RFC 9562 6.2, method 1: behind the 48 bits of time stand 26 bits of counter (the 12 of rand_a and
 * the first 14 of rand_b), then 48 random bits. The counter begins at a random number below half of
 * its range in each millisecond, so that it neither overflows nor tells how many ids are made. */
enum { COUNTER_BITS = 26, LATE_MS = 100 };

static struct {
    struct {
        pthread_mutex_t mu;
        int64_t wall_ms; /* of the newest id */
        uint32_t counter;
    } shared;
} newest = {.shared = {.mu = PTHREAD_MUTEX_INITIALIZER, .wall_ms = -1}};

/* The place of the next id in the order: *wall_ms as it will be printed, and a counter. */
static uint32_t next_place(int64_t *wall_ms, uint32_t seed) {
    pthread_mutex_lock(&newest.shared.mu);
    bool late = *wall_ms <= newest.shared.wall_ms && newest.shared.wall_ms - *wall_ms <= LATE_MS;
    if (!late) {
        newest.shared.wall_ms = *wall_ms;
        newest.shared.counter = seed;
    } else if (++newest.shared.counter >> COUNTER_BITS != 0) {
        newest.shared.wall_ms++;
        newest.shared.counter = seed;
    }
    *wall_ms = newest.shared.wall_ms;
    uint32_t counter = newest.shared.counter;
    pthread_mutex_unlock(&newest.shared.mu);
    return counter;
}

struct id id_new(int64_t wall_ms) {
    ASSERT(wall_ms >= 0 && wall_ms < INT64_C(1) << 47);
    struct id id;
    uint32_t seed;
    random_bytes(&seed, sizeof(seed));
    random_bytes(id.b + 10, 6);
    uint32_t counter = next_place(&wall_ms, seed >> (32 - COUNTER_BITS + 1));
    for (int i = 0; i < 6; i++)
        id.b[i] = (uint8_t)(wall_ms >> (40 - 8 * i));
    id.b[6] = (uint8_t)(0x70 | counter >> 22); /* version 7 */
    id.b[7] = (uint8_t)(counter >> 14);
    id.b[8] = (uint8_t)(0x80 | (counter >> 8 & 0x3F)); /* variant 10 */
    id.b[9] = (uint8_t)counter;
    return id;
}

bool id_is_zero(const struct id *id) {
    return uuid_is_null(id->b) != 0;
}

bool id_equal(const struct id *a, const struct id *b) {
    return memcmp(a->b, b->b, ID_BYTES) == 0;
}

int64_t id_wall_ms(const struct id *id) {
    int64_t wall_ms = 0;
    for (int i = 0; i < 6; i++)
        wall_ms = wall_ms << 8 | id->b[i];
    return wall_ms;
}

void id_print(const struct id *id, char out[ID_TEXT_SIZE]) {
    uuid_unparse_lower(id->b, out);
}

enum err id_parse(struct str s, struct id *out) {
    char text[ID_TEXT_SIZE];
    /* uuid_parse() takes a C string: a NUL inside would end it early. */
    if (s.n != ID_TEXT || str_find_char(s, '\0') >= 0)
        return ERR_INVALID;
    memcpy(text, s.p, ID_TEXT);
    text[ID_TEXT] = '\0';
    struct id id;
    if (uuid_parse(text, id.b) != 0)
        return ERR_INVALID;
    *out = id;
    return OK;
}
