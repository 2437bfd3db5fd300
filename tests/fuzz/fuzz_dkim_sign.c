/* T1, T13: any octets as a message. What is signed has a From field; the signature's field is made
 * of whole lines, h= names each field that is signed and once more each that must not be added, and
 * the message behind it is the one that was given. The signature itself is that of tests/unit: here
 * a key signs with what it was asked to sign, so that this is looked at, too. An input that begins
 * with 0xFF and an octet is what follows, so many times 16, up to 1 KiB; after a second 0xFF, when
 * the length is a multiple of 16, up to 16 KiB: headers of thousands of fields, which take long. */
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
    uint8_t octets[256];
    buf_clear(&asked);
    buf_put(&asked, data);
    memset(octets, (int)(data.n & 0xFF), sizeof octets);
    buf_put(out, str_make(octets, k->algorithm == DKIM_RSA_SHA256 ? 256 : 64));
    return buf_status(out);
}

enum {
    FIELDS_LEAST = 2000, /* so many are signed in any case */
    SOME_BYTES = 1024,
    MANY_BYTES = 16 * 1024
};

/* The names of the fields, one by one; each field has an octet at least. */
struct names {
    struct str list[2 * MANY_BYTES];
    size_t count;
};

static void find_names(struct str header, struct names *out) {
    struct str field;
    out->count = 0;
    while (dkim_next_field(&header, &field, &out->list[out->count])) {
        out->count++;
        ASSERT(out->count < sizeof out->list / sizeof out->list[0]);
    }
}

static size_t count_fields(const struct names *names, struct str name) {
    size_t n = 0;
    for (size_t i = 0; i < names->count; i++)
        n += names->list[i].n == name.n && str_equal_nocase(names->list[i], name);
    return n;
}

/* The value of a tag of a signature, white space taken out. */
static struct str tag(struct str field, const char *mark, struct buf *to) {
    ptrdiff_t at = str_find(field, str_of(mark));
    ASSERT(at >= 0);
    struct str rest = str_from(field, (size_t)at + strlen(mark));
    struct str value = str_split(&rest, ';');
    buf_clear(to);
    char *start = buf_reserve(to, value.n), *p = start;
    ASSERT(start);
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] != ' ' && value.p[i] != '\r' && value.p[i] != '\n')
            *p++ = value.p[i];
    buf_advance(to, (size_t)(p - start));
    return buf_str(to);
}

/* h= names each field that there is of a name, and some once more. */
static void check_names(struct str names, const struct names *there_are) {
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
        size_t there = count_fields(there_are, name);
        ASSERT(listed == there || listed == there + 1);
        if (str_equal(name, STR("From")) || str_equal(name, STR("List-Unsubscribe")))
            ASSERT(listed == there + 1);
    }
}

/* Of the first signature all is looked at; of the second that it names the same fields. */
static void check_signature(struct str field, const struct names *there_are, bool is_first,
                            enum dkim_algorithm algorithm) {
    static struct buf text = BUF_INIT(1 << 16), raw = BUF_INIT(1 << 16), first = BUF_INIT(1 << 16);
    ASSERT(str_starts_with(field, STR("DKIM-Signature:")) && str_ends_with(field, STR("\r\n")));
    for (struct str rest = field; rest.n > 0;) {
        ptrdiff_t end = str_find(rest, STR("\r\n"));
        ASSERT(end > 0 && end <= 998 && str_trim(str_slice(rest, 0, (size_t)end)).n > 0);
        rest = str_from(rest, (size_t)end + 2);
        ASSERT(rest.n == 0 || rest.p[0] == ' ');
    }
    ASSERT(str_is_ascii(field) && !memchr(field.p, '\0', field.n));
    if (is_first)
        check_names(tag(field, " h=", &first), there_are);
    else
        ASSERT(str_equal(tag(field, " h=", &text), buf_str(&first)));
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
    size_t most = data[1] == 0xFF && size % 16 == 0 ? MANY_BYTES : SOME_BYTES;
    buf_clear(to);
    for (int i = 0; i < 16 * data[1] && to->n < most; i++)
        buf_put(to, str_make(data + 2, size - 2));
    return buf_status(to) == OK ? buf_str(to) : STR("");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct buf many = BUF_INIT(4 << 20);
    static struct names names;
    static struct dkim_key rsa = {DKIM_RSA_SHA256}, ed25519 = {DKIM_ED25519_SHA256};
    static const struct id id;
    if (size > MANY_BYTES)
        return 0;
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
    find_names(text, &names);
    if (e == OK) {
        struct message_pieces pieces = message_bytes(done);
        struct str prefix = pieces.piece[0], field, name;
        size_t fields = 0;
        ASSERT(count_fields(&names, STR("From")) > 0 && str_equal(pieces.piece[1], text));
        while (dkim_next_field(&prefix, &field, &name)) {
            check_signature(field, &names, fields == 0,
                            fields == 0 ? DKIM_RSA_SHA256 : DKIM_ED25519_SHA256);
            fields++;
        }
        ASSERT(fields == 2 && prefix.n == 0 && message_is_signed(done));
        message_unref(&done);
    } else {
        ASSERT(!done && info.text[0] != '\0');
        ASSERT(e == ERR_LIMIT || count_fields(&names, STR("From")) == 0 ||
               names.count > FIELDS_LEAST);
    }
    message_unref(&m);
    return 0;
}
