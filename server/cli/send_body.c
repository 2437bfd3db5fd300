#include "server/cli/send_body.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "server/base/base64.h"

enum {
    FILE_MAX = 64 * 1024 * 1024,
    EXPIRES_MOST_S = INT32_MAX, /* the server says what it takes, by settings of its own */
};

const struct option_spec send_options[] = {
    {"from", 'f', OPTION_TEXT, "ADDRESS", "the author: a@b or \"Name <a@b>\""},
    {"to", 't', OPTION_TEXT, "ADDRESS", "a recipient; may be repeated, as may --cc and --bcc"},
    {"cc", 0, OPTION_TEXT, "ADDRESS", "a recipient of a copy"},
    {"bcc", 0, OPTION_TEXT, "ADDRESS", "a recipient that the others do not see"},
    {"reply-to", 0, OPTION_TEXT, "ADDRESS", "where answers go"},
    {"subject", 's', OPTION_TEXT, "TEXT", "the subject"},
    {"text", 0, OPTION_TEXT, "TEXT", "the body as plain text"},
    {"text-file", 0, OPTION_TEXT, "FILE", "the same from a file"},
    {"html", 0, OPTION_TEXT, "HTML", "the body as HTML"},
    {"html-file", 0, OPTION_TEXT, "FILE", "the same from a file"},
    {"attach", 'a', OPTION_TEXT, "FILE[:TYPE]", "an attachment; may be repeated"},
    {"header", 'H', OPTION_TEXT, "'NAME: VALUE'", "an extra header field; may be repeated"},
    {"tag", 0, OPTION_TEXT, "TAG", "a word for searching; may be repeated"},
    {"metadata", 0, OPTION_TEXT, "KEY=VALUE", "echoed in every event; may be repeated"},
    {"external-id", 0, OPTION_TEXT, "ID", "your own id, echoed in every event"},
    {"route", 0, OPTION_TEXT, "NAME", "the declared route to take"},
    {"require-tls", 0, OPTION_FLAG, NULL, "deliver only over TLS with a verified certificate"},
    {"expires-in", 0, OPTION_TEXT, "SECONDS", "stop trying after so long"},
    {"file", 0, OPTION_TEXT, "FILE", "a JSON file with the message; options are set over it"},
    {"idempotency-key", 0, OPTION_TEXT, "KEY", "the same key never sends twice; else one is made"},
    {"wait", 'w', OPTION_OPTIONAL, "SECONDS", "until every recipient is final (default 60)"},
    {"json", 'j', OPTION_FLAG, NULL, "print the whole answer, not only the id"},
    {"url", 0, OPTION_TEXT, "URL", "the server; else POSTCHUTE_URL, else http://127.0.0.1:8025"},
    {"key-file", 0, OPTION_TEXT, "FILE", "a file with the API key; else POSTCHUTE_KEY"},
    {"ca-file", 0, OPTION_TEXT, "FILE", "certificate authorities (PEM) for an https URL"},
    {"tries", 0, OPTION_TEXT, "COUNT", "when no answer or 503 comes (default 5)"},
};
_Static_assert(sizeof send_options / sizeof send_options[0] == SEND_OPTION_COUNT, "all of them");

enum err send_read(const char *path, const char *option, struct buf *out, struct errinfo *info) {
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    enum err e = OK;
    *out = BUF_INIT(FILE_MAX);
    if (fd < 0)
        return err_set(info, ERR_INVALID, option, "%s: %s", path, strerror(errno));
    for (;;) {
        char *room = buf_reserve(out, 65536);
        ssize_t n = room ? read(fd, room, 65536) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (!room)
            e = err_set(info, ERR_INVALID, option, "%s is larger than %d MiB", path,
                        FILE_MAX >> 20);
        else if (n < 0)
            e = err_set(info, ERR_INVALID, option, "%s: %s", path, strerror(errno));
        if (!room || n <= 0)
            break;
        buf_advance(out, (size_t)n);
    }
    if (!is_stdin)
        close(fd);
    return e;
}

/* ---- text ------------------------------------------------------------------------------------ */

static json_t *text_value(struct str s) {
    return json_stringn(s.p ? s.p : "", s.n); /* NULL: not UTF-8 */
}

static enum err set_text(json_t *body, const char *name, struct str s, const char *option,
                         struct errinfo *info) {
    json_t *v = text_value(s);
    if (!v)
        return err_set(info, ERR_INVALID, option, "is not UTF-8");
    json_object_set_new(body, name, v);
    return OK;
}

/* --subject, --external-id: the option's name with '_' for '-'. */
static enum err set_texts(const struct options *o, json_t *body, struct errinfo *info) {
    static const char *const names[][2] = {{"from", "from"},   {"subject", "subject"},
                                           {"text", "text"},   {"html", "html"},
                                           {"route", "route"}, {"external-id", "external_id"}};
    enum err e = OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && e == OK; i++) {
        const char *text = options_text(o, names[i][0], NULL);
        char option[64];
        snprintf(option, sizeof option, "--%s", names[i][0]);
        if (text)
            e = set_text(body, names[i][1], str_of(text), option, info);
    }
    return e;
}

static enum err set_files(const struct options *o, json_t *body, struct errinfo *info) {
    static const char *const names[][2] = {{"text-file", "text"}, {"html-file", "html"}};
    enum err e = OK;
    for (size_t i = 0; i < 2 && e == OK; i++) {
        const char *path = options_text(o, names[i][0], NULL);
        char option[64];
        struct buf content;
        if (!path)
            continue;
        snprintf(option, sizeof option, "--%s", names[i][0]);
        if (options_has(o, names[i][1]))
            return err_set(info, ERR_INVALID, option, "cannot be together with --%s", names[i][1]);
        e = send_read(path, option, &content, info);
        if (e == OK)
            e = set_text(body, names[i][1], buf_str(&content), option, info);
        buf_release(&content);
    }
    return e;
}

static enum err set_lists(const struct options *o, json_t *body, struct errinfo *info) {
    static const char *const names[][2] = {
        {"to", "to"}, {"cc", "cc"}, {"bcc", "bcc"}, {"reply-to", "reply_to"}, {"tag", "tags"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *list = json_array();
        const char *text;
        for (size_t k = 0; (text = options_nth(o, names[i][0], k)) != NULL; k++) {
            json_t *v = text_value(str_of(text));
            if (!v) {
                char option[64];
                snprintf(option, sizeof option, "--%s", names[i][0]);
                json_decref(list);
                return err_set(info, ERR_INVALID, option, "is not UTF-8");
            }
            json_array_append_new(list, v);
        }
        if (json_array_size(list))
            json_object_set(body, names[i][1], list);
        json_decref(list);
    }
    return OK;
}

/* A field that is given again becomes a list; metadata has one value a key. */
static bool put_pair(json_t *object, const char *key, json_t *v, bool may_repeat) {
    json_t *before = json_object_get(object, key);
    if (before && !may_repeat)
        return false;
    if (json_is_array(before)) {
        json_array_append(before, v);
    } else if (before) {
        json_object_set_new(object, key, json_pack("[O,O]", before, v));
    } else {
        json_object_set(object, key, v);
    }
    return true;
}

/* "Name: value" and "key=value" into an object. */
static enum err set_pairs(const struct options *o, json_t *body, const char *name,
                          const char *option, const char *member, char between,
                          struct errinfo *info) {
    const char *text;
    json_t *object = json_object();
    enum err e = OK;
    for (size_t k = 0; e == OK && (text = options_nth(o, name, k)) != NULL; k++) {
        struct str value = str_of(text);
        struct str key = str_split(&value, between);
        json_t *v = str_is_absent(value) ? NULL : text_value(str_trim(value));
        char *z = str_dupz(str_trim(key));
        if (str_is_absent(value) || !*z)
            e = err_set(info, ERR_INVALID, option, "'%s' has no '%c'", text, between);
        else if (!v || !str_is_utf8(key))
            e = err_set(info, ERR_INVALID, option, "is not UTF-8");
        else if (!put_pair(object, z, v, between == ':'))
            e = err_set(info, ERR_INVALID, option, "'%s' is given twice", z);
        json_decref(v);
        free(z);
    }
    if (e == OK && json_object_size(object))
        json_object_set(body, member, object);
    json_decref(object);
    return e;
}

/* ---- attachments ----------------------------------------------------------------------------- */

static const char *guess_type(struct str name) {
    static const char *const types[][2] = {{".pdf", "application/pdf"},
                                           {".txt", "text/plain; charset=utf-8"},
                                           {".log", "text/plain; charset=utf-8"},
                                           {".csv", "text/csv; charset=utf-8"},
                                           {".md", "text/markdown; charset=utf-8"},
                                           {".html", "text/html; charset=utf-8"},
                                           {".xml", "application/xml"},
                                           {".json", "application/json"},
                                           {".png", "image/png"},
                                           {".jpg", "image/jpeg"},
                                           {".jpeg", "image/jpeg"},
                                           {".gif", "image/gif"},
                                           {".svg", "image/svg+xml"},
                                           {".zip", "application/zip"},
                                           {".gz", "application/gzip"},
                                           {".ics", "text/calendar; charset=utf-8"}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (str_ends_with_nocase(name, str_of(types[i][0])))
            return types[i][1];
    return NULL;
}

/* FILE, or FILE:TYPE when what follows the last ':' has a '/' and no such file exists. */
static void split_attachment(const char *text, struct str *path, struct str *type) {
    const char *colon = strrchr(text, ':');
    *path = str_of(text);
    *type = STR_NONE;
    if (colon && strchr(colon, '/') && colon > text && access(text, F_OK) != 0) {
        *path = str_make(text, (size_t)(colon - text));
        *type = str_of(colon + 1);
    }
}

static enum err set_content(json_t *attachment, struct str content, struct errinfo *info) {
    struct buf encoded = BUF_INIT(2 * (size_t)FILE_MAX);
    base64_encode(content, &encoded);
    json_t *text = buf_status(&encoded) == OK ? text_value(buf_str(&encoded)) : NULL;
    buf_release(&encoded);
    if (!text)
        return err_set(info, ERR_UNAVAILABLE, "--attach", "there is no memory for it");
    json_object_set_new(attachment, "content", text);
    return OK;
}

static enum err add_attachment(json_t *list, const char *text, struct errinfo *info) {
    struct str path, type;
    struct buf content;
    split_attachment(text, &path, &type);
    char *z = str_dupz(path);
    const char *slash = strrchr(z, '/');
    struct str name = str_of(slash ? slash + 1 : z);
    enum err e = send_read(z, "--attach", &content, info);
    if (e == OK) {
        json_t *v = json_object();
        if (str_is_absent(type))
            type = str_of(guess_type(name));
        e = set_text(v, "filename", name, "--attach", info);
        if (e == OK)
            e = set_content(v, buf_str(&content), info);
        if (e == OK && !str_is_absent(type))
            e = set_text(v, "type", type, "--attach", info);
        json_array_append_new(list, v);
    }
    buf_release(&content);
    free(z);
    return e;
}

static enum err set_attachments(const struct options *o, json_t *body, struct errinfo *info) {
    const char *text;
    json_t *list = json_array();
    enum err e = OK;
    for (size_t k = 0; e == OK && (text = options_nth(o, "attach", k)) != NULL; k++)
        e = add_attachment(list, text, info);
    if (e == OK && json_array_size(list))
        json_object_set(body, "attachments", list);
    json_decref(list);
    return e;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum err read_json(const struct options *o, json_t **out, struct errinfo *info) {
    const char *path = options_text(o, "file", o->word_count ? o->word[0] : NULL);
    const char *option = options_has(o, "file") ? "--file" : path;
    struct buf content;
    json_error_t why;
    *out = NULL;
    if (!path) {
        *out = json_object();
        return OK;
    }
    if (o->word_count && (options_has(o, "file") || strcmp(path, "-") != 0))
        return err_set(info, ERR_INVALID, o->word[0], "only `-` (standard input) may stand here");
    enum err e = send_read(path, option, &content, info);
    if (e == OK) {
        *out = json_loadb(buf_str(&content).p, content.n, JSON_REJECT_DUPLICATES, &why);
        if (!*out)
            e = err_set(info, ERR_INVALID, option, "line %d: %s", why.line, why.text);
        else if (!json_is_object(*out))
            e = err_set(info, ERR_INVALID, option, "must hold a JSON object");
    }
    buf_release(&content);
    return e;
}

enum err send_body(const struct options *o, json_t **out, struct errinfo *info) {
    int64_t expires_s = 0;
    enum err e = read_json(o, out, info);
    if (e == OK)
        e = set_texts(o, *out, info);
    if (e == OK)
        e = set_files(o, *out, info);
    if (e == OK)
        e = set_lists(o, *out, info);
    if (e == OK)
        e = set_pairs(o, *out, "header", "--header", "headers", ':', info);
    if (e == OK)
        e = set_pairs(o, *out, "metadata", "--metadata", "metadata", '=', info);
    if (e == OK)
        e = set_attachments(o, *out, info);
    if (e == OK)
        e = options_number(o, "expires-in", 1, EXPIRES_MOST_S, 0, &expires_s, info);
    if (e == OK && expires_s)
        json_object_set_new(*out, "expires_in", json_integer(expires_s));
    if (e == OK && options_has(o, "require-tls"))
        json_object_set_new(*out, "require_tls", json_true());
    if (e == OK && json_object_size(*out) == 0)
        e = err_set(info, ERR_INVALID, "",
                    "there is no message: give --from, --to and so on, "
                    "--file FILE, or - for standard input");
    if (e != OK) {
        json_decref(*out);
        *out = NULL;
    }
    return e;
}
