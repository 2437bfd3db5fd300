/* T1, T13: any octets as a message. What is signed has a From field; the signature's field is made
 * of whole lines, h= names each field that is signed and once more each that must not be added, and
 * the message behind it is the one that was given. The signature itself is that of tests/unit: here
 * a key signs with what it was asked to sign, so that this is looked at, too. An input that begins
 * with 0xFF and an octet is what follows, so many times 16, or up to 16 KiB: headers of thousands
 * of fields. */
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/base/digest.h"
#include "server/mail/dkim_canon.h"
#include "server/mail/dkim_sign.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* in the place of server/mail/dkim_key.c */
struct dkim_key {
    enum dkim_algorithm algorithm;
};

static struct buf asked = BUF_INIT(1 << 20);

enum dkim_algorithm dkim_key_algorithm(const struct dkim_key *k) {
    return k->algorithm;
}

const char *dkim_algorithm_name(enum dkim_algorithm a) {
    return a == DKIM_RSA_SHA256 ? "rsa-sha256" : "ed25519-sha256";
}

enum err dkim_key_sign(const struct dkim_key *k, struct str data, struct buf *out) {
    uint8_t hash[SHA256_BYTES];
    buf_clear(&asked);
    buf_put(&asked, data);
    digest_sha256(data, hash);
    for (int i = 0; i < (k->algorithm == DKIM_RSA_SHA256 ? 8 : 2); i++)
        buf_put(out, str_make(hash, sizeof hash));
    return buf_status(out);
}

static size_t count_fields(struct str header, struct str name) {
    struct str field, found;
    size_t n = 0;
    while (dkim_next_field(&header, &field, &found))
        n += str_equal_nocase(found, name);
    return n;
}

enum {
    FIELDS_LEAST = 2000, /* so many are signed in any case */
    MANY_BYTES = 16 * 1024
};

static size_t count_all(struct str header) {
    struct str field, found;
    size_t n = 0;
    while (dkim_next_field(&header, &field, &found))
        n++;
    return n;
}

/* The value of a tag of a signature, white space taken out. */
static struct str tag(struct str field, const char *mark, struct buf *to) {
    ptrdiff_t at = str_find(field, str_of(mark));
    ASSERT(at >= 0);
    struct str rest = str_from(field, (size_t)at + strlen(mark));
    struct str value = str_split(&rest, ';');
    buf_clear(to);
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] != ' ' && value.p[i] != '\r' && value.p[i] != '\n')
            buf_putc(to, value.p[i]);
    return buf_str(to);
}

static void check_signature(struct str field, struct str header, enum dkim_algorithm algorithm) {
    static struct buf text = BUF_INIT(1 << 16), raw = BUF_INIT(1 << 16);
    ASSERT(str_starts_with(field, STR("DKIM-Signature:")) && str_ends_with(field, STR("\r\n")));
    for (struct str rest = field; rest.n > 0;) {
        ptrdiff_t end = str_find(rest, STR("\r\n"));
        ASSERT(end > 0 && end <= 998 && str_trim(str_slice(rest, 0, (size_t)end)).n > 0);
        rest = str_from(rest, (size_t)end + 2);
        ASSERT(rest.n == 0 || rest.p[0] == ' ');
    }
    ASSERT(str_is_ascii(field) && !memchr(field.p, '\0', field.n));
    struct str names = tag(field, " h=", &text);
    struct str before = STR_NONE;
    for (struct str rest = names; !str_is_absent(rest);) {
        struct str name = str_split(&rest, ':');
        ASSERT(name.n > 0);
        if (str_equal(name, before)) /* it was counted */
            continue;
        before = name;
        size_t listed = 0;
        for (struct str again = names; !str_is_absent(again);)
            listed += str_equal(str_split(&again, ':'), name);
        size_t there = count_fields(header, name);
        ASSERT(listed == there || listed == there + 1);
        if (str_equal(name, STR("From")) || str_equal(name, STR("List-Unsubscribe")))
            ASSERT(listed == there + 1);
    }
    buf_clear(&raw);
    ASSERT(base64_decode(tag(field, "bh=", &text), &raw) == OK && raw.n == SHA256_BYTES);
    buf_clear(&raw);
    ASSERT(base64_decode(tag(field, " b=", &text), &raw) == OK &&
           raw.n == (algorithm == DKIM_RSA_SHA256 ? 256U : 64U));
    ASSERT(str_find_char(buf_str(&asked), '\t') < 0);
}

/* What the input stands for. */
static struct str message_text(const uint8_t *data, size_t size, struct buf *to) {
    if (size < 2 || data[0] != 0xFF)
        return str_make(data, size);
    buf_clear(to);
    for (int i = 0; i < 16 * data[1] && to->n < MANY_BYTES; i++)
        buf_put(to, str_make(data + 2, size - 2));
    return buf_status(to) == OK ? buf_str(to) : STR("");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct buf many = BUF_INIT(4 << 20);
    static struct dkim_key rsa = {DKIM_RSA_SHA256}, ed25519 = {DKIM_ED25519_SHA256};
    static const struct id id;
    struct str text = message_text(data, size, &many);
    struct message *m = message_new(&id, text.n > 0 ? mem_dup(text.p, text.n) : mem_zalloc(1),
                                    text.n),
                   *done = NULL;
    struct dkim_signer signer = {.domain = STR("example.org"), .key_count = 2};
    signer.keys[0].selector = STR("r2026");
    signer.keys[0].key = &rsa;
    signer.keys[1].selector = STR("e2026");
    signer.keys[1].key = &ed25519;
    struct errinfo info = {0};
    enum err e = dkim_sign(m, &signer, 1700000000000, &done, &info);
    if (e == OK) {
        struct message_pieces pieces = message_bytes(done);
        struct str prefix = pieces.piece[0], field, name;
        size_t fields = 0;
        ASSERT(count_fields(text, STR("From")) > 0 && str_equal(pieces.piece[1], text));
        while (dkim_next_field(&prefix, &field, &name)) {
            check_signature(field, text, fields == 0 ? DKIM_RSA_SHA256 : DKIM_ED25519_SHA256);
            fields++;
        }
        ASSERT(fields == 2 && prefix.n == 0 && message_is_signed(done));
        message_unref(&done);
    } else {
        ASSERT(!done && info.text[0] != '\0');
        ASSERT(e == ERR_LIMIT || count_fields(text, STR("From")) == 0 ||
               count_all(text) > FIELDS_LEAST);
    }
    message_unref(&m);
    return 0;
}
