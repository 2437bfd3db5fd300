/* How long a webhook's receiver wants to be left alone: any text gives a delay between nothing and
 * a year, or none, and a moment stays the same moment. */
#include <stdlib.h>

#include "server/net/httpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_MS INT64_C(1700000000000)
#define YEAR_MS (INT64_C(365) * 24 * 3600 * 1000)

static void check_retry_after(struct str text) {
    char *z = str_dupz(text);
    int64_t now = httpc_retry_after_ms(z, NOW_MS), later = httpc_retry_after_ms(z, NOW_MS + 5000);
    ASSERT(now >= -1 && now <= YEAR_MS && (now < 0) == (later < 0));
    ASSERT(later <= now && later >= now - 5000); /* the same, or the same moment */
    struct str value = str_trim(str_of(z));
    uint64_t seconds;
    if (str_parse_u64(value, YEAR_MS / 1000, &seconds) == OK)
        ASSERT(now == (int64_t)seconds * 1000 && later == now);
    free(z);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_retry_after(str_make(data, size));
    return 0;
}
