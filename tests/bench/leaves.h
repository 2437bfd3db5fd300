/* leaves: what a message says, as a digest that does not hang on how it was encoded, for ledgers.
 *
 * Not the program's own reading of mail: what is compared must not be read by what wrote it.
 * SHA-256 of each leaf of the MIME tree in order, decoded, a zero octet after each; of a text
 * without CR and without the line ends that it ends with, since a part always ends with one. The
 * first 16 hex digits. tests/crash/ledger.py has the same in Python.
 *
 *     char text[LEAVES_TEXT];
 *     leaves_of_text(body, n, text);     what is asked for: one text
 *     n = leaves_unstuff(data, n);       what came by DATA, dots and all
 *     leaves_of_mail(data, n, text);     what came: header and body; changes it
 */
#pragma once
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAVES_TEXT = 17, LEAVES_DEPTH = 8 };

static inline void leaves_print(EVP_MD_CTX *sum, char *text) {
    unsigned char md[EVP_MAX_MD_SIZE];
    if (EVP_DigestFinal_ex(sum, md, NULL) != 1)
        exit(1);
    for (size_t i = 0; i < 8; i++)
        snprintf(text + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(sum);
}

static inline EVP_MD_CTX *leaves_begin(void) {
    EVP_MD_CTX *sum = EVP_MD_CTX_new();
    if (sum == NULL || EVP_DigestInit_ex(sum, EVP_sha256(), NULL) != 1)
        exit(1);
    return sum;
}

/* Changes `at` in place. */
static inline void leaves_add(EVP_MD_CTX *sum, char *at, size_t n, bool is_text) {
    if (is_text) {
        size_t to = 0;
        for (size_t i = 0; i < n; i++)
            if (at[i] != '\r')
                at[to++] = at[i];
        while (to > 0 && at[to - 1] == '\n')
            to--;
        n = to;
    }
    if (EVP_DigestUpdate(sum, at, n) != 1 || EVP_DigestUpdate(sum, "", 1) != 1)
        exit(1);
}

static inline void leaves_of_text(const char *body, size_t n, char *text) {
    EVP_MD_CTX *sum = leaves_begin();
    char *copy = malloc(n + 1);
    if (copy == NULL)
        exit(1);
    memcpy(copy, body, n);
    leaves_add(sum, copy, n, true);
    free(copy);
    leaves_print(sum, text);
}

/* A header field's value, unfolded; "" when it is absent. */
static inline void leaves_field(const char *at, const char *end, const char *name, char *out,
                                size_t room) {
    size_t n = strlen(name), to = 0;
    bool is_it = false;
    while (at < end) {
        const char *eol = memchr(at, '\n', (size_t)(end - at));
        const char *stop = eol != NULL ? eol : end, *from = at;
        if (*at != ' ' && *at != '\t') {
            if (is_it)
                break;
            is_it = (size_t)(stop - at) > n && strncasecmp(at, name, n) == 0;
            from += is_it ? n : 0;
        }
        for (; is_it && from < stop && to + 1 < room; from++)
            if (*from != '\r' && (to > 0 || *from != ' '))
                out[to++] = *from;
        at = stop + 1;
    }
    out[to] = '\0';
}

static inline int leaves_hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static inline size_t leaves_unquote(char *at, size_t n) {
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        if (at[i] == '=' && i + 2 < n && at[i + 1] == '\r' && at[i + 2] == '\n') {
            i += 2;
        } else if (at[i] == '=' && i + 2 < n && leaves_hex(at[i + 1]) >= 0 &&
                   leaves_hex(at[i + 2]) >= 0) {
            at[to++] = (char)(leaves_hex(at[i + 1]) * 16 + leaves_hex(at[i + 2]));
            i += 2;
        } else {
            at[to++] = at[i];
        }
    }
    return to;
}

static inline size_t leaves_unbase64(char *at, size_t n) {
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0, held = 0;
    size_t to = 0;
    for (size_t i = 0; i < n && at[i] != '='; i++) {
        const char *c = at[i] != '\0' ? strchr(alphabet, at[i]) : NULL;
        if (c == NULL)
            continue;
        held = held << 6 | (unsigned)(c - alphabet);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            at[to++] = (char)(held >> bits & 0xff);
        }
    }
    return to;
}

/* The next line that begins with "--boundary", or the end. */
static inline char *leaves_delimiter(char *at, char *end, const char *mark, size_t n) {
    while (at < end) {
        if ((size_t)(end - at) >= n && memcmp(at, mark, n) == 0)
            return at;
        char *eol = memchr(at, '\n', (size_t)(end - at));
        at = eol != NULL ? eol + 1 : end;
    }
    return end;
}

static inline void leaves_of_part(EVP_MD_CTX *sum, char *at, char *end, int depth) {
    char type[1024], how[64], mark[256] = "--";
    char *body = at;
    while (body < end && *body != '\r') { /* to the empty line */
        char *eol = memchr(body, '\n', (size_t)(end - body));
        body = eol != NULL ? eol + 1 : end;
    }
    leaves_field(at, body, "Content-Type:", type, sizeof type);
    leaves_field(at, body, "Content-Transfer-Encoding:", how, sizeof how);
    body = end - body >= 2 ? body + 2 : end;
    const char *boundary = strcasestr(type, "boundary=");
    if (strncasecmp(type, "multipart/", 10) != 0 || boundary == NULL || depth == LEAVES_DEPTH) {
        size_t n = (size_t)(end - body);
        n = strncasecmp(how, "base64", 6) == 0              ? leaves_unbase64(body, n)
            : strncasecmp(how, "quoted-printable", 16) == 0 ? leaves_unquote(body, n)
                                                            : n;
        leaves_add(sum, body, n, type[0] == '\0' || strncasecmp(type, "text/", 5) == 0);
        return;
    }
    boundary += strlen("boundary=");
    boundary += *boundary == '"';
    snprintf(mark + 2, sizeof mark - 2, "%.*s", (int)strcspn(boundary, "\"; \t"), boundary);
    size_t n = strlen(mark);
    for (char *next = leaves_delimiter(body, end, mark, n); next < end;) {
        char *eol = memchr(next, '\n', (size_t)(end - next)), *from = eol != NULL ? eol + 1 : end;
        if ((size_t)(end - next) >= n + 2 && memcmp(next + n, "--", 2) == 0)
            break;
        next = leaves_delimiter(from, end, mark, n);
        /* the line end before a delimiter belongs to it */
        leaves_of_part(sum, from, next - from >= 2 ? next - 2 : from, depth + 1);
    }
}

/* RFC 5321 4.5.2, in place: returns how many octets are left. */
static inline size_t leaves_unstuff(char *mail, size_t n) {
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        if (mail[i] == '.' && (i == 0 || mail[i - 1] == '\n')) {
            if (i + 2 < n && mail[i + 1] == '\r' && mail[i + 2] == '\n')
                break;
            i++;
        }
        mail[to++] = mail[i];
    }
    return to;
}

static inline void leaves_of_mail(char *mail, size_t n, char *text) {
    EVP_MD_CTX *sum = leaves_begin();
    leaves_of_part(sum, mail, mail + n, 0);
    leaves_print(sum, text);
}
