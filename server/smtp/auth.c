#include "server/smtp/auth.h"

#include <string.h>

#include "server/base/base64.h"
#include "server/base/limits.h"

enum {
    AUTH_COMMAND_MAX = 512,
    AUTH_SECRET_MAX = 8192,
    TOLD_LEAST = 4, /* octets of a password that is looked for in what the server says */
    TOLD_PART = 3,  /* one such part of it is, or ... */
    TOLD_MOST = 8,  /* ... so many octets */
    TOLD_CODED = 6, /* characters of base64: four octets and a half */
};

struct auth {
    bool is_plain;
    struct buf user, password;
    /* what the next challenges are answered with: PLAIN one, LOGIN user then password */
    size_t answers, answered;
};

static void put_base64(struct buf *out, struct str secret) {
    base64_encode(secret, out);
    buf_putz(out, "\r\n");
}

struct auth *auth_new(const struct capability *c, const char *user, const char *password) {
    if (!c->auth_plain && !c->auth_login)
        return NULL;
    struct auth *a = mem_zalloc(sizeof(*a));
    a->is_plain = c->auth_plain;
    buf_init(&a->user, AUTH_SECRET_MAX);
    buf_init(&a->password, AUTH_SECRET_MAX);
    buf_putz(&a->user, user);
    buf_putz(&a->password, password);
    a->answers = a->is_plain ? 1 : 2;
    return a;
}

void auth_free(struct auth **ap) {
    struct auth *a = *ap;
    if (a) {
        buf_release_secret(&a->user);
        buf_release_secret(&a->password);
        free(a);
    }
    *ap = NULL;
}

const char *auth_mechanism(const struct auth *a) {
    return a->is_plain ? "PLAIN" : "LOGIN";
}

/* message = [authzid] NUL authcid NUL passwd */
static void put_plain(const struct auth *a, struct buf *out) {
    struct buf message = BUF_INIT(2 * AUTH_SECRET_MAX + 2);
    /* all room at once, so that no reallocation leaves a copy of the secret behind */
    (void)buf_reserve(&message, a->user.n + a->password.n + 2);
    buf_putc(&message, '\0');
    buf_put(&message, buf_str(&a->user));
    buf_putc(&message, '\0');
    buf_put(&message, buf_str(&a->password));
    put_base64(out, buf_str(&message));
    buf_release_secret(&message);
}

void auth_begin(struct auth *a, struct buf *out) {
    buf_printf(out, "AUTH %s", auth_mechanism(a));
    size_t with_response = 11 + base64_encoded_size(a->user.n + a->password.n + 2) + 2;
    if (a->is_plain && with_response <= AUTH_COMMAND_MAX) {
        buf_putc(out, ' ');
        put_plain(a, out);
        a->answered = a->answers;
        return;
    }
    buf_putz(out, "\r\n");
}

static bool is_of_base64(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
}

/* What stays the same when a text is broken into lines and cleaned. */
static bool is_shown(char c) {
    return c > ' ' && c <= '~' && c != '?';
}

static struct buf only(struct str text, bool (*is_kept)(char c)) {
    struct buf out = BUF_INIT(text.n + 1);
    (void)buf_reserve(&out, text.n);
    for (size_t i = 0; i < text.n; i++)
        if (is_kept(text.p[i]))
            buf_putc(&out, text.p[i]);
    return out;
}

/* Any piece of so many octets: servers cut what they repeat. */
static bool has_piece(struct str text, struct str secret, size_t n) {
    if (secret.n < n)
        return str_find(text, secret) >= 0;
    for (size_t at = 0; at + n <= secret.n; at++)
        if (str_find(text, str_slice(secret, at, at + n)) >= 0)
            return true;
    return false;
}

static size_t piece_of(size_t password) {
    size_t n = password / TOLD_PART;
    return n < TOLD_LEAST ? TOLD_LEAST : n > TOLD_MOST ? TOLD_MOST : n;
}

bool auth_is_told_by(const struct auth *a, struct str text) {
    if (a->password.n < TOLD_LEAST)
        return false;
    struct buf in_clear = only(text, is_shown), password = only(buf_str(&a->password), is_shown);
    bool is_told = password.n >= TOLD_LEAST &&
                   has_piece(buf_str(&in_clear), buf_str(&password), piece_of(password.n));
    struct buf coded = only(text, is_of_base64), line = BUF_INIT(3 * AUTH_SECRET_MAX);
    put_plain(a, &line);
    struct buf sent = only(buf_str(&line), is_of_base64);
    is_told |= has_piece(buf_str(&coded),
                         str_slice(buf_str(&sent), (a->user.n + 2) * 4 / 3, sent.n), TOLD_CODED);
    buf_release_secret(&sent);
    buf_clear(&line);
    put_base64(&line, buf_str(&a->password));
    sent = only(buf_str(&line), is_of_base64);
    is_told |= has_piece(buf_str(&coded), buf_str(&sent), TOLD_CODED);
    buf_release_secret(&sent);
    buf_release_secret(&line);
    buf_release_secret(&password);
    buf_release(&coded);
    buf_release(&in_clear);
    return is_told;
}

static bool is_base64(struct str challenge) {
    struct buf decoded = BUF_INIT(LIMIT_REPLY_LINE);
    bool ok = base64_decode(challenge, &decoded) == OK;
    buf_release(&decoded);
    return ok;
}

enum err auth_continue(struct auth *a, struct str challenge, struct buf *out) {
    /* an empty challenge is right for PLAIN, and servers are loose about words for it */
    bool is_fine = a->is_plain || is_base64(str_trim(challenge));
    if (a->answered >= a->answers || !is_fine) {
        buf_putz(out, "*\r\n");
        return ERR_INVALID;
    }
    if (a->is_plain)
        put_plain(a, out);
    else
        put_base64(out, buf_str(a->answered == 0 ? &a->user : &a->password));
    a->answered++;
    return buf_status(out);
}
