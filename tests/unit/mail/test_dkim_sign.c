#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/dkim_sign.h"

static struct dkim_key *rsa, *ed;

static int setup(void **state) {
    (void)state;
    return dkim_key_generate(DKIM_RSA_SHA256, &rsa, NULL) != OK ||
           dkim_key_generate(DKIM_ED25519_SHA256, &ed, NULL) != OK;
}

static int teardown(void **state) {
    (void)state;
    dkim_key_unref(&rsa);
    dkim_key_unref(&ed);
    return 0;
}

static struct message *message_of(const char *text) {
    struct id id = {{1}};
    return message_new(&id, mem_dup(text, strlen(text)), strlen(text));
}

/* The signature fields put before the message, unfolded and without white space. */
static struct str squeezed(const struct message *m, struct buf *out) {
    struct str s = message_bytes(m).piece[0];
    buf_clear(out);
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\r' && i + 2 < s.n && (s.p[i + 2] == ' ' || s.p[i + 2] == 'D'))
            buf_putc(out, s.p[i + 2] == 'D' ? '\n' : ' ');
        else if (s.p[i] != ' ' && s.p[i] != '\r' && s.p[i] != '\n')
            buf_putc(out, s.p[i]);
    }
    struct str all = buf_str(out);
    size_t n = 0;
    for (size_t i = 0; i < all.n; i++)
        if (all.p[i] != ' ')
            out->p[n++] = all.p[i];
    buf_truncate(out, n);
    return buf_str(out);
}

static struct dkim_signer both(void) {
    struct dkim_signer s = {.domain = STR("example.net"), .key_count = 2};
    s.keys[0].selector = STR("r1");
    s.keys[0].key = rsa;
    s.keys[1].selector = STR("e1");
    s.keys[1].key = ed;
    return s;
}

static bool has(struct str s, const char *what) {
    return str_find(s, str_of(what)) >= 0;
}

static void test_K5_both_keys_sign_with_all_tags(void **state) {
    (void)state;
    struct dkim_signer signer = both();
    struct message *m = message_of("From: a@example.net\r\nX: y\r\n\r\nhi\r\n"), *out = NULL;
    struct buf b = BUF_INIT(1 << 16);
    assert_int_equal(dkim_sign(m, &signer, 1700000000999, &out, NULL), OK);
    struct str s = squeezed(out, &b);
    assert_true(str_starts_with(
        s, STR("DKIM-Signature:v=1;a=rsa-sha256;c=relaxed/relaxed;d=example.net;s=r1;t=1700000000;"
               "h=From:From:To:")));
    ptrdiff_t second = str_find(s, STR("\nDKIM-Signature:v=1;a=ed25519-sha256;c=relaxed/relaxed;"
                                       "d=example.net;s=e1;t=1700000000;h=From:From:To:"));
    assert_true(second > 0);
    assert_false(has(s, ";l="));
    assert_false(has(s, ";x="));
    /* the body hash of "hi" CRLF, the same in both */
    struct str hash = STR(";bh=RHI91NDg1Go8f6isolS2HCe2tXiflhd+gsgHAECfFTU=;b=");
    ptrdiff_t first = str_find(s, hash);
    assert_true(first > 0 && str_find(str_from(s, (size_t)second), hash) > 0);
    /* the message itself is shared, unchanged */
    assert_ptr_equal(message_bytes(out).piece[1].p, message_bytes(m).piece[1].p);
    assert_true(message_is_signed(out));
    message_unref(&m);
    message_unref(&out);
    buf_release(&b);
}

static void test_T13_fields_are_signed_once_more_than_present(void **state) {
    (void)state;
    static const struct {
        const char *header, *want;
    } rows[] = {
        {"From: a@example.net\r\n",
         "h=From:From:To:Cc:Subject:Date:Reply-To:Message-ID:MIME-Version:Content-Type:"
         "Content-Transfer-Encoding:Content-Disposition:List-Unsubscribe:List-Unsubscribe-Post;"},
        {"FROM: a@example.net\r\nTo: b\r\nto: c\r\nList-Unsubscribe: <x:y>\r\nReferences: <a@b>\r\n"
         "Received: x\r\nX-Custom: y\r\n",
         "h=From:From:To:To:To:Cc:Subject:Date:Reply-To:Message-ID:MIME-Version:Content-Type:"
         "Content-Transfer-Encoding:Content-Disposition:List-Unsubscribe:List-Unsubscribe:"
         "List-Unsubscribe-Post:References;"},
        /* K7, K8: signatures there are not signed */
        {"DKIM-Signature: v=1; a=rsa-sha256\r\nFrom: a@example.net\r\n",
         "h=From:From:To:Cc:Subject:Date:Reply-To:Message-ID:MIME-Version:Content-Type:"
         "Content-Transfer-Encoding:Content-Disposition:List-Unsubscribe:List-Unsubscribe-Post;"},
    };
    struct dkim_signer signer = both();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct message *m = message_of(rows[i].header), *out = NULL;
        struct buf b = BUF_INIT(1 << 16);
        assert_int_equal(dkim_sign(m, &signer, 1700000000000, &out, NULL), OK);
        if (!has(squeezed(out, &b), rows[i].want))
            fail_msg("row %zu: %s", i, b.p);
        message_unref(&m);
        message_unref(&out);
        buf_release(&b);
    }
}

static void test_K11_new_signatures_stand_in_front_and_lines_are_short(void **state) {
    (void)state;
    struct dkim_signer signer = both();
    struct message *m = message_of("From: a@example.net\r\n\r\nhi\r\n"), *once = NULL,
                   *twice = NULL;
    assert_int_equal(dkim_sign(m, &signer, 1700000000000, &once, NULL), OK);
    assert_int_equal(dkim_sign(once, &signer, 1800000000000, &twice, NULL), OK);
    struct str s = message_bytes(twice).piece[0];
    assert_true(str_find(s, STR("t=1800000000")) < str_find(s, STR("t=1700000000")));
    assert_true(str_ends_with(s, message_bytes(once).piece[0]));
    size_t count = 0;
    while (s.n > 0) {
        size_t n = (size_t)str_find(s, STR("\r\n"));
        assert_in_range(n, 1, 78);
        assert_true(str_is_ascii(str_slice(s, 0, n)));
        count += str_starts_with(s, STR("DKIM-Signature:"));
        s = str_from(s, n + 2);
    }
    assert_int_equal(count, 4);
    message_unref(&m);
    message_unref(&once);
    message_unref(&twice);
}

static void test_K8_a_message_without_from_is_not_signed(void **state) {
    (void)state;
    static const char *const rows[] = {"",
                                       "\r\n",
                                       "\r\nFrom: a@example.net\r\n",
                                       "To: b\r\n\r\nx",
                                       "X-From: a\r\n\r\n",
                                       "From\r\n\r\n"};
    struct dkim_signer signer = both();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct message *m = message_of(rows[i]), *out = NULL;
        struct errinfo info = {0};
        assert_int_equal(dkim_sign(m, &signer, 1700000000000, &out, &info), ERR_INVALID);
        assert_null(out);
        assert_true(strstr(info.text, "From") != NULL);
        message_unref(&m);
    }
}

static void a_header_without_end_is_refused(void **state) {
    (void)state;
    struct dkim_signer signer = both();
    struct buf b = BUF_INIT(1 << 20);
    buf_putz(&b, "From: a@example.net\r\n");
    for (int i = 0; i < 3000; i++)
        buf_putz(&b, "To: b@example.net\r\n");
    size_t n = 0;
    char *bytes = buf_take(&b, &n);
    struct id id = {{1}};
    struct message *m = message_new(&id, bytes, n), *out = NULL;
    assert_int_not_equal(dkim_sign(m, &signer, 1700000000000, &out, NULL), OK);
    assert_null(out);
    message_unref(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K5_both_keys_sign_with_all_tags),
        cmocka_unit_test(test_T13_fields_are_signed_once_more_than_present),
        cmocka_unit_test(test_K11_new_signatures_stand_in_front_and_lines_are_short),
        cmocka_unit_test(test_K8_a_message_without_from_is_not_signed),
        cmocka_unit_test(a_header_without_end_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
