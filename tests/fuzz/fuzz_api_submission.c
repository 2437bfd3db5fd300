/* A body as it comes from the network: parsed, read and checked. Whatever is accepted is composed.
 */
#include "api/v1/submission.h"
#include "server/mail/compose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct submission_limits limits = {8, 1200};
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct errinfo info = {0};
    struct faults faults;
    struct submission s = {0};
    struct composed c = {0};
    struct json_node *root = NULL;
    struct buf body = BUF_INIT(1 << 20); /* of its own, so that ASan sees its end */
    buf_put(&body, str_make(data, size));
    faults_init(&faults, a);
    if (json_body_parse(&body, a, &root, &info) == OK) {
        v1_submission_read(root, &faults, &s);
        submission_check(&s, &limits, &faults);
        uint8_t print[32], again[32];
        submission_fingerprint(&s, print);
        if (size % 16 == 0) { /* another one would come of memory that nobody wrote */
            submission_fingerprint(&s, again);
            ASSERT(memcmp(print, again, sizeof print) == 0);
        }
        const struct compose_input in = {.submission = &s,
                                         .id = {{1, 2, 3}}, /* chance would hide what is new */
                                         .date_wall_ms = 1,
                                         .message_bytes_max = 4 << 20};
        if (faults.count == 0 && compose(&in, &c, &info) == OK)
            message_unref(&c.message);
    }
    for (size_t i = 0; i < faults.count && i < LIMIT_FAULTS; i++)
        ASSERT(faults.list[i].pointer.n > 0 && str_is_utf8(faults.list[i].pointer));
    buf_release(&body);
    return 0;
}
