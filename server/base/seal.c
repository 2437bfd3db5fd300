#include "server/base/seal.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/base/buf.h"
#include "server/base/digest.h"
#include "server/base/random.h"

enum { NONCE_BYTES = 12, TAG_BYTES = 16, SECRET_MAX = 1024 * 1024 };

#define PREFIX STR("sealed:1:")

struct key {
    bool is_there;
    char id[SEAL_KEY_ID_SIZE];
    uint8_t bytes[SEAL_KEY_BYTES]; /* derived: the master key itself is used for nothing else */
};

struct seal {
    struct key current, previous;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static bool decode_key(struct str text, uint8_t out[SEAL_KEY_BYTES]) {
    struct buf b = BUF_INIT(256);
    enum err e =
        text.n == (size_t)SEAL_KEY_BYTES * 2 ? hex_decode(text, &b) : base64_decode(text, &b);
    bool ok = e == OK && b.n == SEAL_KEY_BYTES;
    if (ok)
        memcpy(out, b.p, SEAL_KEY_BYTES);
    buf_release_secret(&b);
    return ok;
}

static enum err read_key(struct str text, const char *name, struct key *k, struct errinfo *info) {
    uint8_t master[SEAL_KEY_BYTES], name_bytes[SHA256_BYTES];
    if (str_is_absent(text))
        return OK;
    if (!decode_key(str_trim(text), master))
        return err_set(info, ERR_INVALID, name,
                       "expects 32 random bytes as 64 hexadecimal digits or base64; "
                       "`postchute key generate --master` prints such a key");
    struct str m = str_make(master, sizeof master);
    digest_hmac_sha256(m, STR("postchute: seal, AES-256-GCM"), k->bytes);
    digest_hmac_sha256(m, STR("postchute: name of a master key"), name_bytes);
    snprintf(k->id, sizeof k->id, "%02x%02x%02x%02x", name_bytes[0], name_bytes[1], name_bytes[2],
             name_bytes[3]);
    k->is_there = true;
    explicit_bzero(master, sizeof master);
    return OK;
}

enum err seal_new(struct str current, struct str previous, struct seal **out,
                  struct errinfo *info) {
    *out = NULL;
    if (str_is_absent(current) && str_is_absent(previous))
        return OK;
    struct seal *s = mem_zalloc(sizeof *s);
    enum err e = read_key(current, "master_key", &s->current, info);
    if (e == OK)
        e = read_key(previous, "master_key_previous", &s->previous, info);
    if (e != OK)
        seal_free(&s);
    *out = s;
    return e;
}

void seal_free(struct seal **sp) {
    if (*sp) {
        explicit_bzero(*sp, sizeof **sp);
        free(*sp);
    }
    *sp = NULL;
}

void seal_describe(const struct seal *s, char *out, size_t size) {
    bool first = s && s->current.is_there, second = s && s->previous.is_there;
    snprintf(out, size, "%s%s%s",
             first    ? s->current.id
             : second ? ""
                      : "none",
             first && second ? " and " : "", second ? s->previous.id : "");
}

/* ---- values ---------------------------------------------------------------------------------- */

bool seal_is_sealed(struct str stored) {
    return str_starts_with(stored, PREFIX);
}

struct str seal_key_of(struct str stored) {
    if (!seal_is_sealed(stored))
        return STR_NONE;
    struct str rest = str_from(stored, PREFIX.n);
    struct str id = str_split(&rest, ':');
    return id.n == SEAL_KEY_ID_SIZE - 1 && !str_is_absent(rest) ? id : STR_NONE;
}

bool seal_is_current(const struct seal *s, struct str stored) {
    if (!s || !s->current.is_there)
        return !seal_is_sealed(stored);
    return str_equal(seal_key_of(stored), str_of(s->current.id));
}

/* AES-256-GCM over `in`, in or out. Nothing here fails but for want of memory, or, when it opens,
 * because the tag is another one. */
static bool run_cipher(const struct key *k, bool encrypt, const uint8_t *nonce, struct str place,
                       struct str in, uint8_t *out, uint8_t *tag) {
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int n = 0, last = 0;
    NEED(c != NULL);
    ASSERT(in.n <= SECRET_MAX && place.n <= SECRET_MAX);
    NEED(EVP_CipherInit_ex2(c, EVP_aes_256_gcm(), k->bytes, nonce, encrypt, NULL) == 1);
    NEED(EVP_CipherUpdate(c, NULL, &n, (const uint8_t *)place.p, (int)place.n) == 1);
    NEED(EVP_CipherUpdate(c, out, &n, (const uint8_t *)in.p, (int)in.n) == 1);
    if (!encrypt)
        NEED(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1);
    bool ok = EVP_CipherFinal_ex(c, out + n, &last) == 1;
    if (encrypt)
        NEED(ok && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) == 1);
    EVP_CIPHER_CTX_free(c); /* wipes the key */
    return ok;
}

struct str seal_close(const struct seal *s, struct str place, struct str plain, struct arena *a) {
    if (!s || !s->current.is_there || plain.n == 0)
        return plain;
    struct buf text = BUF_INIT(2 * (size_t)SECRET_MAX);
    size_t size = NONCE_BYTES + plain.n + TAG_BYTES;
    uint8_t *sealed = arena_alloc(a, size);
    random_bytes(sealed, NONCE_BYTES);
    run_cipher(&s->current, true, sealed, place, plain, sealed + NONCE_BYTES,
               sealed + NONCE_BYTES + plain.n);
    buf_put(&text, PREFIX);
    buf_putz(&text, s->current.id);
    buf_putc(&text, ':');
    base64_encode(str_make(sealed, size), &text);
    ASSERT(buf_status(&text) == OK);
    struct str out = arena_dup(a, buf_str(&text));
    buf_release(&text);
    return out;
}

enum err seal_open(const struct seal *s, struct str place, struct str stored, struct arena *a,
                   struct str *plain) {
    *plain = stored;
    if (!seal_is_sealed(stored))
        return OK;
    struct str id = seal_key_of(stored);
    const struct key *k = NULL;
    *plain = STR_NONE;
    if (str_is_absent(id))
        return ERR_INVALID;
    if (s && s->current.is_there && str_equal(id, str_of(s->current.id)))
        k = &s->current;
    else if (s && s->previous.is_there && str_equal(id, str_of(s->previous.id)))
        k = &s->previous;
    if (!k)
        return ERR_NOT_FOUND;
    struct buf raw = BUF_INIT(SECRET_MAX);
    enum err e = base64_decode(str_from(stored, PREFIX.n + id.n + 1), &raw);
    if (e != OK || raw.n < NONCE_BYTES + TAG_BYTES) {
        buf_release(&raw);
        return ERR_INVALID;
    }
    uint8_t *bytes = (uint8_t *)raw.p;
    size_t n = raw.n - NONCE_BYTES - TAG_BYTES;
    uint8_t *out = arena_alloc(a, n + 1);
    bool ok = run_cipher(k, false, bytes, place, str_make(bytes + NONCE_BYTES, n), out,
                         bytes + NONCE_BYTES + n);
    if (!ok)
        explicit_bzero(out, n);
    buf_release(&raw);
    if (!ok)
        return ERR_INVALID;
    *plain = str_make(out, n);
    return OK;
}
