/* effects: the inside of `struct effects`, for those who publish it; private to storage/.
 * Thread: committer. */
#pragma once

#include "storage/store_ops.h"

struct effect {
    enum store_notice_kind kind;
    struct id message_id;
    bool is_complete;
    struct due_row row; /* DUE: owned; GONE: only the key */
};

struct effects {
    struct effect *list;
    size_t count, room;
    struct content_budget *budget;
};
