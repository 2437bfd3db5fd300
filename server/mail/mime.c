#include "server/mail/mime.h"

#include "server/base/digest.h"

/* ---- media types ---------------------------------------------------------------------------- */

/* RFC 2045 5.1: printable us-ascii without tspecials. */
static size_t token_length(struct str s) {
    size_t n = 0;
    while (n < s.n && s.p[n] > 32 && s.p[n] < 127 && !strchr("()<>@,;:\\\"/[]?=", s.p[n]))
        n++;
    return n;
}

static size_t quoted_length(struct str s) {
    for (size_t i = 1; i < s.n; i++) {
        if (s.p[i] == '"')
            return i + 1;
        if (s.p[i] == '\\')
            i++;
    }
    return 0;
}

static struct str skip_space(struct str s) {
    while (s.n > 0 && s.p[0] == ' ')
        s = str_from(s, 1);
    return s;
}

NODISCARD static enum err parse_parameter(struct str *rest, struct mime_parameter *out,
                                          struct errinfo *info) {
    size_t n = token_length(*rest);
    if (n == 0 || n == rest->n || rest->p[n] != '=')
        return err_set(info, ERR_INVALID, "type", "a parameter is not written name=value");
    out->name = str_slice(*rest, 0, n);
    *rest = str_from(*rest, n + 1);
    n = rest->n > 0 && rest->p[0] == '"' ? quoted_length(*rest) : token_length(*rest);
    if (n == 0)
        return err_set(info, ERR_INVALID, "type",
                       "a parameter's value is neither a token nor a quoted string");
    out->written = str_slice(*rest, 0, n);
    *rest = str_from(*rest, n);
    return OK;
}

enum err mime_type_parse(struct str text, struct mime_type *out, struct errinfo *info) {
    *out = (struct mime_type){0};
    if (text.n > MIME_TYPE_MAX)
        return err_set(info, ERR_INVALID, "type", "the content type is longer than %d octets",
                       MIME_TYPE_MAX);
    if (!str_is_ascii(text) || str_has_control(text, false))
        return err_set(info, ERR_INVALID, "type",
                       "the content type has a control character or is not us-ascii");
    size_t n = token_length(text);
    if (n == 0 || n == text.n || text.p[n] != '/')
        return err_set(info, ERR_INVALID, "type", "the content type is not type/subtype");
    out->type = str_slice(text, 0, n);
    struct str rest = str_from(text, n + 1);
    n = token_length(rest);
    if (n == 0)
        return err_set(info, ERR_INVALID, "type", "the content type is not type/subtype");
    out->subtype = str_slice(rest, 0, n);
    rest = skip_space(str_from(rest, n));
    while (rest.n > 0) {
        if (rest.p[0] != ';')
            return err_set(info, ERR_INVALID, "type", "a ';' is missing before a parameter");
        rest = skip_space(str_from(rest, 1));
        if (rest.n == 0)
            break; /* "text/plain;" is common and harmless */
        if (out->parameter_count == MIME_PARAMETERS_MAX)
            return err_set(info, ERR_INVALID, "type", "more than %d parameters",
                           MIME_PARAMETERS_MAX);
        struct mime_parameter p = {0};
        enum err e = parse_parameter(&rest, &p, info);
        if (e != OK)
            return e;
        for (size_t i = 0; i < out->parameter_count; i++) {
            if (str_equal_nocase(out->parameters[i].name, p.name))
                return err_set(info, ERR_INVALID, "type", "parameter '%.*s' is given twice",
                               STR_ARG(p.name));
        }
        out->parameters[out->parameter_count++] = p;
        rest = skip_space(rest);
    }
    return OK;
}

bool mime_type_is(const struct mime_type *t, const char *type, const char *subtype) {
    return str_equal_nocase(t->type, str_of(type)) &&
           (!subtype || str_equal_nocase(t->subtype, str_of(subtype)));
}

bool mime_type_has_parameter(const struct mime_type *t, const char *name) {
    for (size_t i = 0; i < t->parameter_count; i++) {
        if (str_equal_nocase(t->parameters[i].name, str_of(name)))
            return true;
    }
    return false;
}

/* ---- structure ------------------------------------------------------------------------------ */

static void boundary_print(const uint8_t seed[16], unsigned number, char out[MIME_BOUNDARY_SIZE]) {
    static const char hex[] = "0123456789abcdef";
    uint8_t in[20], hash[SHA256_BYTES];
    memcpy(in, seed, 16);
    for (int i = 0; i < 4; i++)
        in[16 + i] = (uint8_t)(number >> (8 * i));
    digest_sha256(str_make(in, sizeof in), hash);
    out[0] = '=';
    out[1] = '_';
    for (int i = 0; i < 16; i++) {
        out[2 + 2 * i] = hex[hash[i] >> 4];
        out[3 + 2 * i] = hex[hash[i] & 15];
    }
    out[MIME_BOUNDARY_SIZE - 1] = 0;
}

static bool occurs(const struct mime_writer *w, struct str boundary) {
    for (size_t i = 0; i < w->unencoded_count; i++) {
        if (str_find(w->unencoded[i], boundary) >= 0)
            return true;
    }
    return false;
}

void mime_open(struct mime_writer *w, const char *subtype, const char *root_type) {
    ASSERT(w->depth < MIME_DEPTH_MAX);
    char *boundary = w->open[w->depth].boundary;
    /* ends: contents are finite, and each number gives another boundary */
    do
        boundary_print(w->seed, w->made++, boundary);
    while (occurs(w, str_of(boundary)));
    w->open[w->depth].has_part = false;
    w->depth++;
    buf_printf(w->out, "Content-Type: multipart/%s;", subtype);
    if (root_type)
        buf_printf(w->out, " type=\"%s\";\r\n", root_type);
    else
        buf_put(w->out, STR("\r\n"));
    buf_printf(w->out, " boundary=\"%s\"\r\n\r\n", boundary);
}

void mime_next(struct mime_writer *w) {
    ASSERT(w->depth > 0);
    /* The line end before a delimiter is part of it (RFC 2046 5.1.1); the first one stands right
     * after the blank line, so that there is no preamble. */
    bool is_first = !w->open[w->depth - 1].has_part;
    buf_printf(w->out, "%s--%s\r\n", is_first ? "" : "\r\n", w->open[w->depth - 1].boundary);
    w->open[w->depth - 1].has_part = true;
}

void mime_close(struct mime_writer *w) {
    ASSERT(w->depth > 0 && w->open[w->depth - 1].has_part);
    buf_printf(w->out, "\r\n--%s--", w->open[w->depth - 1].boundary);
    w->depth--;
}
