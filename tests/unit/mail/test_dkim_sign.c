#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"
#include "server/base/digest.h"
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

/* ---- a verifier's way (RFC 6376 6.1.3), written without dkim_canon ---- */

/* A field as it is hashed: name in lower case, white space runs as one space, none at the ends. */
static void relax(struct str field, struct buf *out) {
    size_t colon = (size_t)str_find_char(field, ':'), start = out->n + colon + 1;
    for (size_t i = 0; i <= colon; i++)
        buf_putc(out, ascii_lower(field.p[i]));
    bool has_space = false;
    for (size_t i = colon + 1; i < field.n; i++) {
        char c = field.p[i];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            has_space = true;
            continue;
        }
        if (has_space && out->n > start)
            buf_putc(out, ' ');
        has_space = false;
        buf_putc(out, c);
    }
}

/* Cuts the header into fields; at most `max`. */
static size_t cut_fields(struct str header, struct str *field, size_t max) {
    size_t count = 0;
    while (header.n > 0 && !str_starts_with(header, STR("\r\n"))) {
        size_t end = 0;
        do
            end += (size_t)str_find(str_from(header, end), STR("\r\n")) + 2;
        while (end < header.n && (header.p[end] == ' ' || header.p[end] == '\t'));
        assert_true(count < max);
        field[count++] = str_slice(header, 0, end - 2);
        header = str_from(header, end);
    }
    return count;
}

/* The value of a tag without its white space. */
static struct str tag_of(struct str signature, const char *tag, struct buf *out) {
    buf_clear(out);
    struct str rest = str_from(signature, (size_t)str_find_char(signature, ':') + 1);
    while (!str_is_absent(rest)) {
        struct str one = str_trim(str_split(&rest, ';'));
        while (one.n > 0 && (one.p[0] == '\r' || one.p[0] == '\n'))
            one = str_trim(str_from(one, 1));
        if (!str_starts_with(one, str_of(tag)) || one.n <= strlen(tag) || one.p[strlen(tag)] != '=')
            continue;
        for (size_t i = strlen(tag) + 1; i < one.n; i++)
            if (one.p[i] > ' ')
                buf_putc(out, one.p[i]);
        return buf_str(out);
    }
    return STR_NONE;
}

/* What h= says, in its order, each name once for each time that it stands there, from the last
 * field up; then the signature's own field with b= empty and without its line end. */
static void signed_octets(const struct str *field, size_t count, struct str signature,
                          struct buf *out) {
    bool used[64] = {false};
    struct buf h = BUF_INIT(4096);
    struct str names = tag_of(signature, "h", &h);
    assert_true(names.n > 0);
    while (!str_is_absent(names)) {
        struct str name = str_split(&names, ':');
        assert_false(str_equal_nocase(name, STR("DKIM-Signature")));
        for (size_t i = count; i-- > 0;) {
            struct str its = str_slice(field[i], 0, (size_t)str_find_char(field[i], ':'));
            if (used[i] || !str_equal_nocase(its, name))
                continue;
            used[i] = true;
            relax(field[i], out);
            buf_putz(out, "\r\n");
            break;
        }
    }
    ptrdiff_t b = str_find(signature, STR(" b="));
    assert_true(b > 0);
    relax(str_slice(signature, 0, (size_t)b + 3), out);
    buf_release(&h);
}

/* Both schemes give the same octets for the same data: so signing what a verifier would hash gives
 * the b= that stands there, if it is right. */
static void test_K7_K9_K13_a_verifier_finds_what_was_signed(void **state) {
    (void)state;
    static const char *const rows[] = {
        "From: a@example.net\r\n\r\nhi\r\n",
        "To: first\r\nFrom: a@example.net\r\nto: second\r\nSubject: x\r\nTO:third\r\n\r\nhi\r\n",
        "From: a@example.net\r\nSubject:  folded\r\n\tand \t spaced  \r\nReferences: <a@b>\r\n"
        " <c@d>\r\nX-Not: signed\r\n\r\n",
        "DKIM-Signature: v=1; a=rsa-sha256; d=other.example; s=x; b=abc\r\nFrom: a@example.net\r\n"
        "List-Unsubscribe: <https://a.example/>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n.\r\n",
        "From: a@example.net\r\nSubject:\r\nCc: one\r\nCc: two\r\nDate: x\r\n",
    };
    struct dkim_signer signer = both();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct message *m = message_of(rows[i]), *out = NULL;
        struct str field[64], signature[4];
        assert_int_equal(dkim_sign(m, &signer, 1700000000000, &out, NULL), OK);
        size_t count = cut_fields(message_bytes(out).piece[1], field, 64);
        assert_int_equal(cut_fields(message_bytes(out).piece[0], signature, 4), 2);
        for (size_t k = 0; k < 2; k++) {
            struct buf data = BUF_INIT(1 << 16), raw = BUF_INIT(1024), text = BUF_INIT(2048),
                       b = BUF_INIT(4096);
            signed_octets(field, count, signature[k], &data);
            assert_false(str_ends_with(buf_str(&data), STR("\n")));
            assert_int_equal(dkim_key_sign(signer.keys[k].key, buf_str(&data), &raw), OK);
            base64_encode(buf_str(&raw), &text);
            if (!str_equal(tag_of(signature[k], "b", &b), buf_str(&text)))
                fail_msg("row %zu, key %zu: signed was not\n%s", i, k, data.p);
            buf_release(&data);
            buf_release(&raw);
            buf_release(&text);
            buf_release(&b);
        }
        message_unref(&m);
        message_unref(&out);
    }
}

/* RFC 6376 3.2, 3.5: each tag once, none that we do not mean; x= among them (K6), which is left
 * out: what waits long for a slow receiver would lose its signature. */
static void test_K6_K14_tags_stand_once_and_none_expires(void **state) {
    (void)state;
    static const char *const known[] = {"v", "a", "c", "d", "s", "t", "h", "bh", "b"};
    struct dkim_signer signer = both();
    struct message *m = message_of("From: a@example.net\r\n\r\nhi\r\n"), *out = NULL;
    assert_int_equal(dkim_sign(m, &signer, 1700000000000, &out, NULL), OK);
    struct str signature[4];
    assert_int_equal(cut_fields(message_bytes(out).piece[0], signature, 4), 2);
    for (size_t k = 0; k < 2; k++) {
        size_t seen[sizeof known / sizeof *known] = {0}, tags = 0;
        struct str rest = str_from(signature[k], strlen("DKIM-Signature:"));
        while (!str_is_absent(rest)) {
            struct str tag = str_split(&rest, ';');
            while (tag.n > 0 && tag.p[0] <= ' ')
                tag = str_from(tag, 1);
            tag = str_split(&tag, '=');
            for (size_t i = 0; i < sizeof known / sizeof *known; i++)
                seen[i] += str_equal(tag, str_of(known[i]));
            tags++;
        }
        assert_int_equal(tags, sizeof known / sizeof *known);
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            assert_int_equal(seen[i], 1);
    }
    message_unref(&m);
    message_unref(&out);
}

/* RFC 6376 3.7, 5.3: the body is hashed as it is stored: CRLF, and dots as the author wrote them.
 */
static void test_K10_the_body_is_hashed_before_dots_are_stuffed(void **state) {
    (void)state;
    static const char *const bodies[] = {".\r\n", "..\r\n.a\r\n", "a\r\n.\r\nb\r\n"};
    struct dkim_signer signer = both();
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char text[128];
        snprintf(text, sizeof text, "From: a@example.net\r\n\r\n%s", bodies[i]);
        struct message *m = message_of(text), *out = NULL;
        assert_int_equal(dkim_sign(m, &signer, 1700000000000, &out, NULL), OK);
        uint8_t hash[SHA256_BYTES];
        struct buf want = BUF_INIT(64), got = BUF_INIT(256);
        struct str signature[4];
        digest_sha256(str_of(bodies[i]), hash);
        base64_encode(str_make(hash, sizeof hash), &want);
        assert_int_equal(cut_fields(message_bytes(out).piece[0], signature, 4), 2);
        assert_true(str_equal(tag_of(signature[0], "bh", &got), buf_str(&want)));
        assert_true(str_equal(tag_of(signature[1], "bh", &got), buf_str(&want)));
        assert_true(str_ends_with(message_bytes(out).piece[1], str_of(bodies[i])));
        buf_release(&want);
        buf_release(&got);
        message_unref(&m);
        message_unref(&out);
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

/* A header of few fields too many for h=, or for the room of all signatures: refused, not cut. */
static void names_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const struct {
        size_t references, keys;
        bool ok;
    } rows[] = {{600, 2, true}, {730, 4, false}, {900, 2, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct dkim_signer signer = both();
        signer.key_count = rows[i].keys;
        for (size_t k = 2; k < rows[i].keys; k++)
            signer.keys[k] = signer.keys[0];
        struct buf b = BUF_INIT(1 << 20);
        buf_putz(&b, "From: a@example.net\r\n");
        for (size_t k = 0; k < rows[i].references; k++)
            buf_putz(&b, "References: <a@b>\r\n");
        size_t n = 0;
        char *bytes = buf_take(&b, &n);
        struct id id = {{1}};
        struct message *m = message_new(&id, bytes, n), *out = NULL;
        struct errinfo info = {0};
        enum err e = dkim_sign(m, &signer, 1700000000000, &out, &info);
        if ((e == OK) != rows[i].ok || (e == OK) != (out != NULL))
            fail_msg("row %zu: %s", i, info.text);
        assert_true(rows[i].ok || info.text[0] != '\0');
        message_unref(&out);
        message_unref(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K5_both_keys_sign_with_all_tags),
        cmocka_unit_test(test_T13_fields_are_signed_once_more_than_present),
        cmocka_unit_test(test_K7_K9_K13_a_verifier_finds_what_was_signed),
        cmocka_unit_test(test_K6_K14_tags_stand_once_and_none_expires),
        cmocka_unit_test(test_K10_the_body_is_hashed_before_dots_are_stuffed),
        cmocka_unit_test(test_K11_new_signatures_stand_in_front_and_lines_are_short),
        cmocka_unit_test(test_K8_a_message_without_from_is_not_signed),
        cmocka_unit_test(a_header_without_end_is_refused),
        cmocka_unit_test(names_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
