#include "server/smtp/auth.h"

#include <string.h>

#include "server/base/base64.h"
#include "server/base/limits.h"

enum { AUTH_COMMAND_MAX = 512, AUTH_SECRET_MAX = 8192 };

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

bool auth_is_told_by(const struct auth *a, struct str text) {
    struct buf sent = BUF_INIT(3 * AUTH_SECRET_MAX);
    bool is_told = a->password.n > 0 && str_find(text, buf_str(&a->password)) >= 0;
    put_plain(a, &sent);
    is_told |= str_find(text, str_trim(buf_str(&sent))) >= 0;
    buf_clear(&sent);
    put_base64(&sent, buf_str(&a->password));
    is_told |= a->password.n > 0 && str_find(text, str_trim(buf_str(&sent))) >= 0;
    buf_release_secret(&sent);
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
