#include "server/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/config_settings.h"

/* ---- reading --------------------------------------------------------------------------------- */

enum { PIPE_WAIT_MS = 5 * 1000 };

/* Who waits for a pipe that nobody fills could not be stopped meanwhile. */
static bool is_silent(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, PIPE_WAIT_MS) == 0;
}

static enum err read_descriptor(int fd, bool is_pipe, size_t most, struct buf *out,
                                const char *name, const char *path, struct errinfo *info) {
    for (;;) {
        if (is_pipe && is_silent(fd))
            return err_set(info, ERR_INVALID, name, "%s: is a pipe, and nothing comes from it",
                           path);
        char *room = buf_reserve(out, 4096);
        if (!room)
            return err_set(info, ERR_INVALID, name, "%s: larger than %zu bytes", path, most);
        ssize_t n = read(fd, room, 4096);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return err_set(info, ERR_INVALID, name, "%s: %s", path, strerror(errno));
        if (n == 0)
            return OK;
        buf_advance(out, (size_t)n);
    }
}

/* Where container engines put secrets: with mode 0444, in a file system that only the container
 * has, and nobody can change it there. */
static bool is_container_secret(struct str path) {
    return str_starts_with(path, STR("/run/secrets/")) && str_find(path, STR("..")) < 0;
}

enum err config_read_file(struct str path, size_t most, struct buf *out, bool *is_open,
                          const char *name, struct errinfo *info) {
    char *z = str_dupz(path);
    enum err e = OK;
    struct stat st = {0};
    int fd = path.n ? open(z, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    buf_init(out, most + 4096);
    if (path.n == 0)
        e = err_set(info, ERR_INVALID, name, "names no file");
    else if (fd < 0 || fstat(fd, &st) != 0)
        e = err_set(info, ERR_INVALID, name, "%s: %s", z, strerror(errno));
    else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        e = err_set(info, ERR_INVALID, name, "%s is not a file", z);
    else
        e = read_descriptor(fd, S_ISFIFO(st.st_mode), most, out, name, z, info);
    if (is_open)
        *is_open = (st.st_mode & (S_IROTH | S_IWOTH)) && !is_container_secret(path);
    if (fd >= 0)
        close(fd);
    free(z);
    return e;
}

enum err config_read_secret_file(struct str path, size_t most, struct buf *out, const char *name,
                                 struct errinfo *info) {
    bool is_open = false;
    enum err e = config_read_file(path, most, out, &is_open, name, info);
    if (e == OK && is_open)
        e = err_set(info, ERR_INVALID, name, "%.*s can be read by everybody: chmod o-rwx it",
                    STR_ARG(path));
    return e;
}

/* ---- secrets that are written out ------------------------------------------------------------ */

bool config_has_password(struct str text) {
    ptrdiff_t at = str_find(text, STR("://"));
    if (at < 0)
        return false;
    struct str scheme = str_trim(str_slice(text, 0, (size_t)at));
    /* a smarthost's password may contain '/' unencoded, as smarthost_parse() has it */
    bool is_smarthost =
        str_equal_nocase(scheme, STR("smtp")) || str_equal_nocase(scheme, STR("smtps"));
    struct str authority = str_from(text, (size_t)at + 3);
    for (size_t i = 0; i < authority.n; i++)
        if ((authority.p[i] == '/' && !is_smarthost) || authority.p[i] == '?') {
            authority = str_slice(authority, 0, i);
            break;
        }
    ptrdiff_t end = -1;
    for (size_t i = 0; i < authority.n; i++)
        if (authority.p[i] == '@')
            end = (ptrdiff_t)i;
    return end > 0 && str_find_char(str_slice(authority, 0, (size_t)end), ':') >= 0;
}

static bool is_secret_name(struct str name) {
    if (str_equal(name, STR("secret")))
        return true;
    for (size_t i = 0; i < config_settings_count; i++)
        if (config_settings[i].type == SETTING_SECRET &&
            str_equal(name, str_of(config_settings[i].name)))
            return true;
    return false;
}

bool config_is_secret_variable(struct str name, struct str value) {
    char lower[64];
    const struct str prefix = STR("POSTCHUTE_");
    if (value.n == 0 || !str_starts_with(name, prefix) || name.n - prefix.n >= sizeof lower)
        return false;
    struct str bare = str_from(name, prefix.n);
    for (size_t i = 0; i < bare.n; i++)
        lower[i] = ascii_lower(bare.p[i]);
    return str_equal(bare, STR("KEY")) || is_secret_name(str_make(lower, bare.n)) ||
           config_has_password(value);
}

const struct yaml_node *config_find_secret(const struct yaml_node *n, struct str *key) {
    if (n->kind == YAML_SCALAR)
        return n->scalar.n && (is_secret_name(*key) || config_has_password(n->scalar)) ? n : NULL;
    const struct yaml_node *found = NULL;
    struct str outer = *key;
    for (size_t i = 0; i < n->count && !found; i++) {
        *key = n->kind == YAML_MAP ? n->key[i] : outer;
        found = config_find_secret(n->child[i], key);
    }
    return found;
}
