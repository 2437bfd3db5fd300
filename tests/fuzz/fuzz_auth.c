/* C38: whatever a server sends as challenges, what goes back is one line of base64 or "*", and the
 * dialogue has an end. The first octet chooses the mechanism. */
#include "server/base/base64.h"
#include "server/smtp/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(struct str s, bool may_be_command) {
    static struct buf plain = BUF_INIT(1 << 16);
    ASSERT(str_ends_with(s, STR("\r\n")));
    s = str_slice(s, 0, s.n - 2);
    ASSERT(str_is_ascii(s) && !str_has_control(s, false));
    buf_clear(&plain);
    if (!may_be_command && !str_equal(s, STR("*")))
        ASSERT(base64_decode(s, &plain) == OK);
}

/* What was sent is known again, whatever stands before it. */
static void check_told(const struct auth *a, struct str noise, struct str sent) {
    struct buf text = BUF_INIT(1 << 20);
    (void)auth_is_told_by(a, noise);
    buf_put(&text, noise);
    buf_put(&text, sent);
    ASSERT(buf_status(&text) != OK || auth_is_told_by(a, buf_str(&text)));
    buf_release_secret(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char long_password[400];
    struct capability c = {0};
    if (size < 1)
        return 0;
    memset(long_password, 'x', sizeof long_password - 1);
    c.auth_plain = data[0] & 1;
    c.auth_login = !c.auth_plain;
    struct auth *a = auth_new(&c, "user@example.net", data[0] & 2 ? long_password : "secret");
    struct buf out = BUF_INIT(8192);
    const struct str all = str_make(data + 1, size - 1);
    struct str rest = all;
    size_t answers = 0;
    auth_begin(a, &out);
    check_line(buf_str(&out), true);
    ASSERT(out.n <= 512);
    if (c.auth_plain && !(data[0] & 2)) /* it has the response */
        check_told(a, all, buf_str(&out));
    while (!str_is_absent(rest)) {
        buf_clear(&out);
        enum err e = auth_continue(a, str_split(&rest, '\n'), &out);
        check_line(buf_str(&out), false);
        ASSERT((e == OK) == !str_equal(buf_str(&out), STR("*\r\n")));
        if (e != OK)
            break;
        ASSERT(++answers <= 2);
        if (c.auth_plain || answers == 2)
            check_told(a, all, buf_str(&out));
    }
    buf_release_secret(&out);
    auth_free(&a);
    return 0;
}
