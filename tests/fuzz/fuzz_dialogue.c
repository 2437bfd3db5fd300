/* T2: any octets as a client's side. The first one says how they are cut. Replies are whole lines
 * with codes of 2xx to 5xx; a message holds CR and LF only together, and no NUL. */
#include <stdint.h>

#include "server/base/limits.h"
#include "server/smtp/dialogue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_message(const struct received *m) {
    ASSERT(m->rcpt_count > 0 && m->rcpt_count <= LIMIT_SMTP_RCPT);
    ASSERT(m->data.n <= 4096 && !str_is_absent(m->mail_from));
    for (size_t i = 0; i < m->rcpt_count; i++)
        ASSERT(m->rcpt[i].n > 0 && !str_has_control(m->rcpt[i], false));
    for (size_t i = 0; i < m->data.n; i++) {
        ASSERT(m->data.p[i] != '\0' && m->data.p[i] != '\n');
        if (m->data.p[i] == '\r') {
            ASSERT(i + 1 < m->data.n && m->data.p[i + 1] == '\n');
            i++;
        }
    }
}

static void check_replies(struct str out) {
    while (out.n > 0) {
        ptrdiff_t lf = str_find_char(out, '\n');
        ASSERT(lf >= 5 && out.p[lf - 1] == '\r');
        ASSERT(out.p[0] >= '2' && out.p[0] <= '5');
        out = str_from(out, (size_t)lf + 1);
    }
}

static struct receive_answer on_address(void *ctx, struct str address) {
    (void)ctx;
    ASSERT(!str_has_control(address, false));
    return address.n % 2 ? (struct receive_answer){250, "2.1.0", "good"}
                         : (struct receive_answer){550, "5.7.1", "not here"};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct receive_policy policy = {.on_mail = on_address, .on_rcpt = on_address};
    if (size < 1)
        return 0;
    /* the largest steps stand for other servers */
    bool is_strict = data[0] >= 0xf8, is_small = data[0] >= 0xf0 && !is_strict;
    struct dialogue_options o = {.host_name = "mx.test",
                                 .offers_tls = !is_strict,
                                 .message_bytes_max = is_small ? 100 : 4096,
                                 .rcpt_max = is_small ? 0 : 5,
                                 .policy = is_strict ? &policy : NULL};
    struct dialogue *d = dialogue_new(&o);
    struct str in = str_make(data + 1, size - 1);
    size_t step = data[0] > 0 ? data[0] : SIZE_MAX;
    enum dialogue_wants wants = DIALOGUE_MORE;
    while (in.n > 0 && wants != DIALOGUE_CLOSE) {
        static struct buf out = BUF_INIT(256 * 1024);
        buf_clear(&out);
        struct str piece = str_slice(in, 0, in.n < step ? in.n : step);
        size_t before = piece.n;
        wants = dialogue_feed(d, &piece, &out);
        in = str_from(in, before - piece.n);
        if (wants == DIALOGUE_ANSWER) {
            check_message(dialogue_message(d));
            wants =
                dialogue_answer(d,
                                data[0] == 0xff ? (struct receive_answer){421, "4.3.2", "later"}
                                                : (struct receive_answer){250, "2.0.0", "queued"},
                                &out);
        } else if (wants == DIALOGUE_TLS) {
            dialogue_secured(d);
        }
        ASSERT(buf_status(&out) == OK);
        check_replies(buf_str(&out));
    }
    dialogue_free(&d);
    return 0;
}
