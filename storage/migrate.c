#include "storage/store_ops.h"

const struct migration migrations[] = {
    {1, "outbox",
#include "storage/schema/001_outbox.inc"
     , "PRAGMA user_version = 1"},
    {2, "test messages",
#include "storage/schema/002_test.inc"
     , "PRAGMA user_version = 2"},
    {3, "rates of keys",
#include "storage/schema/003_key_rate.inc"
     , "PRAGMA user_version = 3"},
    {4, "smaller buckets of search terms",
#include "storage/schema/004_term_bucket.inc"
     , "PRAGMA user_version = 4"},
};
const size_t migration_count = sizeof(migrations) / sizeof(migrations[0]);

enum err migrate_plan(int version, size_t *first, struct errinfo *info) {
    int newest = migrations[migration_count - 1].version;
    if (version < 0 || version > newest)
        return err_set(info, ERR_INVALID, "store",
                       "the store has schema %d, this program knows up to %d: it was written by a "
                       "newer version; start that one, or restore a backup",
                       version, newest);
    for (*first = 0; *first < migration_count; ++*first)
        if (migrations[*first].version > version)
            break;
    return OK;
}
