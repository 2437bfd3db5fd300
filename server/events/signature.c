#include "server/events/signature.h"

#include "server/base/base64.h"
#include "server/base/digest.h"
#include "server/base/random.h"

enum { KEY_LEAST = 24, KEY_MOST = 64, KEY_NEW = 32 };

static const struct str PREFIX = {"whsec_", 6};

enum err signature_parse_secret(struct str secret, struct buf *key) {
    size_t before = key->n;
    if (!str_starts_with(secret, PREFIX))
        return ERR_INVALID;
    enum err e = base64_decode(str_from(secret, PREFIX.n), key);
    if (e != OK)
        return e;
    size_t n = key->n - before;
    if (n >= KEY_LEAST && n <= KEY_MOST)
        return OK;
    if (n > 0)
        explicit_bzero(key->p + before, n);
    buf_truncate(key, before);
    return ERR_INVALID;
}

void signature_new_secret(struct buf *out) {
    uint8_t bytes[KEY_NEW];
    random_bytes(bytes, sizeof bytes);
    buf_put(out, PREFIX);
    base64_encode(str_make(bytes, sizeof bytes), out);
    explicit_bzero(bytes, sizeof bytes);
}

enum err signature_print(const struct str *secrets, size_t count, struct str id,
                         int64_t timestamp_s, struct str body, struct buf *out) {
    char stamp[24];
    uint8_t mac[SHA256_BYTES];
    struct buf key = BUF_INIT(KEY_MOST * 2);
    enum err e = OK;
    int n = snprintf(stamp, sizeof stamp, "%lld", (long long)timestamp_s);
    const struct str pieces[] = {id, STR("."), str_make(stamp, (size_t)n), STR("."), body};
    for (size_t i = 0; i < count && e == OK; i++) {
        buf_clear(&key);
        e = signature_parse_secret(secrets[i], &key) == OK ? OK : ERR_INVALID;
        if (e != OK)
            break;
        digest_hmac_sha256_v(buf_str(&key), pieces, sizeof pieces / sizeof pieces[0], mac);
        buf_putz(out, i ? " v1," : "v1,");
        base64_encode(str_make(mac, sizeof mac), out);
    }
    buf_release_secret(&key);
    return e;
}
