/* A private key as an operator imports it. What is taken can sign, and prints as a key that is the
 * same. First octet: whether the armour is put around the octets, so that what lies inside is
 * reached. */
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/mail/dkim_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct str pem) {
    struct dkim_key *key = NULL, *again = NULL;
    struct errinfo info = {0};
    static struct buf text = BUF_INIT(1 << 16), record = BUF_INIT(1 << 16),
                      second = BUF_INIT(1 << 16), signature = BUF_INIT(1 << 16);
    if (dkim_key_parse_pem(pem, &key, &info) != OK) {
        ASSERT(!key && info.text[0] != '\0' && strlen(info.text) < 120); /* none of the input */
        return;
    }
    buf_clear(&text);
    buf_clear(&record);
    buf_clear(&second);
    buf_clear(&signature);
    dkim_key_print_record(key, &record);
    dkim_key_print_pem(key, &text);
    ASSERT(dkim_key_parse_pem(buf_str(&text), &again, &info) == OK);
    dkim_key_print_record(again, &second);
    ASSERT(str_equal(buf_str(&record), buf_str(&second)));
    ASSERT(str_starts_with(buf_str(&record), STR("v=DKIM1; k=")));
    ASSERT(dkim_key_sign(key, STR("a"), &signature) == OK && signature.n >= 64);
    dkim_key_unref(&key);
    dkim_key_unref(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct buf pem = BUF_INIT(1 << 16);
    if (size < 1)
        return 0;
    struct str rest = str_make(data + 1, size - 1);
    if (data[0] % 3 == 0) {
        check(rest);
        return 0;
    }
    const char *label = data[0] % 3 == 1 ? "PRIVATE KEY" : "RSA PRIVATE KEY";
    struct buf coded = BUF_INIT(1 << 16);
    base64_encode(rest, &coded);
    buf_clear(&pem);
    buf_printf(&pem, "-----BEGIN %s-----\n", label);
    for (struct str line = buf_str(&coded); line.n > 0;) {
        size_t n = line.n < 64 ? line.n : 64;
        buf_put(&pem, str_slice(line, 0, n));
        buf_putc(&pem, '\n');
        line = str_from(line, n);
    }
    buf_printf(&pem, "-----END %s-----\n", label);
    buf_release(&coded);
    check(buf_str(&pem));
    return 0;
}
