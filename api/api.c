#include "api/api.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/http.h"
#include "api/json.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/net/tls.h"

enum { LISTENERS_MAX = 16, BACKLOG = 1024 };

struct api {
    struct env env;
    struct http *http;
    char *control_path; /* NULL: none */
    int port[LISTENERS_MAX];
    size_t port_count;
    int64_t drain_ms;
    bool is_drained;
    char *tls_cert, *tls_key;
};

/* ---- listening ---- */

/* "host:port", "[host]:port", ":port". */
static enum err split_address(struct str text, const char *option, struct str *host,
                              struct str *port, struct errinfo *info) {
    size_t colon = text.n;
    while (colon > 0 && text.p[colon - 1] != ':')
        colon--;
    if (colon == 0)
        return err_set(info, ERR_INVALID, option, "%.*s: expects address:port", STR_ARG(text));
    *host = str_slice(text, 0, colon - 1);
    *port = str_from(text, colon);
    if (str_starts_with(*host, STR("[")) && str_ends_with(*host, STR("]")))
        *host = str_slice(*host, 1, host->n - 1);
    uint64_t n;
    if (str_parse_u64(*port, 65535, &n) != OK)
        return err_set(info, ERR_INVALID, option, "%.*s: the port is not one", STR_ARG(text));
    return OK;
}

static int listen_on(const struct addrinfo *ai) {
    const int on = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* Numbers only: what listens must not depend on a resolver. `is_any`: no host was given, and then
 * the family is `any_family`. */
static enum err resolve(struct str text, const char *option, int any_family, bool *is_any,
                        struct addrinfo **out, struct errinfo *info) {
    struct str host = STR_NONE, port = STR_NONE;
    enum err e = split_address(text, option, &host, &port, info);
    if (e != OK)
        return e;
    char *node = host.n > 0 ? str_dupz(host) : NULL;
    char *service = str_dupz(port);
    const struct addrinfo hints = {.ai_family = node == NULL ? any_family : AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    int code = getaddrinfo(node, service, &hints, out);
    if (code != 0)
        e = err_set(info, ERR_INVALID, option,
                    "%.*s: %s; expects an address in numbers and a port, as 127.0.0.1:8025",
                    STR_ARG(text), gai_strerror(code));
    *is_any = node == NULL;
    free(service);
    free(node);
    return e;
}

static enum err listen_tcp(struct str text, const char *option, int *fd, struct errinfo *info) {
    struct addrinfo *list = NULL;
    bool is_any = false;
    /* every address: one socket that takes IPv4 as well, where the machine has IPv6 */
    enum err e = resolve(text, option, AF_INET6, &is_any, &list, info);
    if (e != OK)
        return e;
    *fd = listen_on(list);
    if (*fd < 0 && is_any && errno == EAFNOSUPPORT) {
        freeaddrinfo(list);
        e = resolve(text, option, AF_INET, &is_any, &list, info);
        if (e != OK)
            return e;
        *fd = listen_on(list);
    }
    if (*fd < 0 && errno == EADDRINUSE)
        e = err_set(info, ERR_CONFLICT, option,
                    "%.*s is in use: stop the program that has it (`ss -ltnp` shows it), or choose "
                    "another port",
                    STR_ARG(text));
    else if (*fd < 0)
        e = err_set(info, ERR_UNAVAILABLE, option, "%.*s: %s%s", STR_ARG(text), strerror(errno),
                    errno == EACCES          ? ": a port below 1024 takes CAP_NET_BIND_SERVICE"
                    : errno == EADDRNOTAVAIL ? ": this machine has no such address"
                                             : "");
    freeaddrinfo(list);
    return e;
}

static enum err check_control_path(struct str path, struct errinfo *info) {
    const size_t most = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
    if (path.n > most)
        return err_set(info, ERR_INVALID, "control_path",
                       "is too long: of %.*s the system takes %zu octets at most", STR_ARG(path),
                       most);
    return OK;
}

/* A file of an earlier life is in the way; whoever owns the folder decided that we are alone. */
static enum err listen_control(const char *path, int *fd, struct errinfo *info) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    enum err e = check_control_path(str_of(path), info);
    if (e != OK)
        return e;
    memcpy(sa.sun_path, path, strlen(path) + 1);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)unlink(path);
    /* nobody can connect before listen(), so the mode is right in time */
    if (*fd >= 0 && bind(*fd, (const struct sockaddr *)&sa, sizeof(sa)) == 0 &&
        chmod(path, S_IRUSR | S_IWUSR) == 0 && listen(*fd, 64) == 0)
        return OK;
    e = err_set(info, ERR_UNAVAILABLE, "control_path", "%s: %s", path, strerror(errno));
    if (*fd >= 0)
        close(*fd);
    return e;
}

static int port_of(int fd) {
    struct sockaddr_storage ss = {0};
    socklen_t size = sizeof(ss);
    if (getsockname(fd, (struct sockaddr *)&ss, &size) != 0)
        return 0;
    if (ss.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)&ss)->sin6_port);
    return ss.ss_family == AF_INET
               ? ntohs(((const struct sockaddr_in *)(const void *)&ss)->sin_port)
               : 0;
}

struct listeners {
    struct http_listener list[LISTENERS_MAX];
    size_t count;
};

static enum err add_tcp(struct api *api, struct listeners *l, const char *option,
                        const struct str *address, size_t count, enum http_kind kind,
                        struct errinfo *info) {
    for (size_t i = 0; i < count; i++) {
        int fd = -1;
        if (l->count == LISTENERS_MAX - 1)
            return err_set(info, ERR_INVALID, option, "at most %d addresses", LISTENERS_MAX - 1);
        enum err e = listen_tcp(address[i], option, &fd, info);
        if (e != OK)
            return e;
        l->list[l->count++] = (struct http_listener){.fd = fd, .kind = kind};
        api->port[api->port_count++] = port_of(fd);
    }
    return OK;
}

static enum err open_listeners(struct api *api, const struct api_options *o, struct listeners *l,
                               struct errinfo *info) {
    enum err e = add_tcp(api, l, "listen", o->listen, o->listen_count, HTTP_API, info);
    if (e == OK)
        e = add_tcp(api, l, "listen_health", o->listen_health, o->listen_health_count, HTTP_HEALTH,
                    info);
    if (e == OK && !str_is_empty(o->control_path)) {
        int fd = -1;
        char *path = str_dupz(o->control_path);
        e = listen_control(path, &fd, info);
        if (e == OK) {
            api->control_path = path;
            l->list[l->count++] = (struct http_listener){.fd = fd, .kind = HTTP_CONTROL};
        } else {
            free(path);
        }
    }
    if (e == OK && l->count == 0)
        e = err_set(info, ERR_INVALID, "listen", "there is no address to listen on");
    return e;
}

static enum err check_addresses(const struct str *address, size_t count, const char *option,
                                struct errinfo *info) {
    enum err e = OK;
    for (size_t i = 0; i < count && e == OK; i++) {
        struct addrinfo *list = NULL;
        bool is_any = false;
        e = resolve(address[i], option, AF_UNSPEC, &is_any, &list, info);
        if (list != NULL)
            freeaddrinfo(list);
    }
    return e;
}

/* What requests look at and a reload replaces. On an error there is none of it. */
static enum err snapshots_new(const struct api_options *o, struct intake **intake,
                              struct guard **guard, struct errinfo *info) {
    enum err e = intake_new(&o->intake, intake, info);
    if (e == OK)
        e = guard_new(&o->guard, guard, info);
    if (e != OK)
        intake_unref(intake);
    return e;
}

/* ---- options ---- */

static int64_t or_else(int64_t value, int64_t otherwise) {
    return value > 0 ? value : otherwise;
}

static size_t or_else_size(size_t value, size_t otherwise) {
    return value > 0 ? value : otherwise;
}

static struct http_limits limits_of(const struct api_options *o) {
    return (struct http_limits){
        .request = {.body_max_bytes = or_else_size(o->body_max_bytes, LIMIT_REQUEST_BODY),
                    .memory_max_bytes =
                        or_else_size(o->memory_max_bytes, (size_t)256 * 1024 * 1024)},
        .connections_max = or_else_size(o->connections_max, 10000),
        .connections_per_ip_max = or_else_size(o->connections_per_ip_max, 1000),
        .header_timeout_ms = or_else(o->header_timeout_ms, 30 * 1000),
        .body_timeout_ms = or_else(o->body_timeout_ms, 30 * 1000),
        .idle_timeout_ms = or_else(o->idle_timeout_ms, 60 * 1000),
        .body_rate_min = or_else_size(o->body_rate_min, (size_t)32 * 1024),
    };
}

static enum err check_options(const struct api_options *o, struct errinfo *info) {
    if (str_is_empty(o->tls_cert) != str_is_empty(o->tls_key))
        return err_set(info, ERR_INVALID, "tls_cert", "certificate and key belong together");
    return OK;
}

static void fill_env(struct env *env, const struct api_options *o) {
    env->store = o->store;
    env->is_sandbox = o->sandbox;
    env->is_development = o->development;
    env->has_health_listener = o->listen_health_count > 0;
    env->arena = arena_new();
    env->rates = key_rates_new();
    env->hostname = arena_dup(env->arena, o->hostname);
    env->is_ready = o->is_ready;
    env->is_ready_ctx = o->is_ready_ctx;
    env->look = o->look;
    env->look_ctx = o->look_ctx;
}

static void set_pem(char **to, struct str pem) {
    if (*to != NULL)
        explicit_bzero(*to, strlen(*to));
    free(*to);
    *to = str_is_empty(pem) ? NULL : str_dupz(pem);
}

static enum err check_certificate(const struct api_options *o, struct errinfo *info) {
    char *cert = NULL, *key = NULL;
    enum err e = check_options(o, info);
    if (e == OK && !str_is_empty(o->tls_cert)) {
        set_pem(&cert, o->tls_cert);
        set_pem(&key, o->tls_key);
        e = tls_pem_check(cert, key, info);
        set_pem(&cert, STR_NONE);
        set_pem(&key, STR_NONE);
    }
    return e;
}

enum err api_check(const struct api_options *o, struct errinfo *info) {
    struct intake *intake = NULL;
    struct guard *guard = NULL;
    enum err e = check_addresses(o->listen, o->listen_count, "listen", info);
    if (e == OK)
        e = check_addresses(o->listen_health, o->listen_health_count, "listen_health", info);
    if (e == OK)
        e = check_control_path(o->control_path, info);
    if (e == OK)
        e = snapshots_new(o, &intake, &guard, info);
    if (e == OK)
        e = check_certificate(o, info);
    intake_unref(&intake);
    guard_free(&guard);
    return e;
}

/* ---- life ---- */

static void api_free(struct api **ap) {
    struct api *api = *ap;
    keyring_unref(&api->env.shared.keyring);
    domains_unref(&api->env.shared.domains);
    intake_unref(&api->env.shared.intake);
    guard_free(&api->env.shared.guard);
    pthread_mutex_destroy(&api->env.shared.mu);
    key_rates_free(&api->env.rates);
    arena_free(&api->env.arena);
    if (api->control_path != NULL)
        (void)unlink(api->control_path);
    free(api->control_path);
    set_pem(&api->tls_cert, STR_NONE);
    set_pem(&api->tls_key, STR_NONE);
    free(api);
    *ap = NULL;
}

static enum err start_parts(struct api *api, const struct api_options *o, struct listeners *l,
                            struct errinfo *info) {
    const struct http_options http = {
        .env = &api->env,
        .listener = l->list,
        .listener_count = l->count,
        .loops = or_else_size(o->loops, 2),
        .limits = limits_of(o),
        .tls_cert = api->tls_cert,
        .tls_key = api->tls_key,
    };
    enum err e = keeper_start(&api->env, info);
    if (e != OK)
        return e;
    api->env.workers = workers_start();
    e = http_start(&http, &api->http, info);
    l->count = 0; /* they are its own now, whatever it said */
    if (e != OK) {
        workers_stop(&api->env.workers);
        keeper_stop(&api->env);
    }
    return e;
}

enum err api_start(const struct api_options *o, struct api **out, struct errinfo *info) {
    struct intake *intake = NULL;
    struct guard *guard = NULL;
    struct listeners listeners = {0};
    enum err e = check_options(o, info);
    if (e == OK)
        e = snapshots_new(o, &intake, &guard, info);
    if (e != OK)
        return e;
    struct api *api = mem_zalloc(sizeof(*api));
    NEED(pthread_mutex_init(&api->env.shared.mu, NULL) == 0);
    fill_env(&api->env, o);
    env_set_intake(&api->env, intake);
    env_set_guard(&api->env, guard);
    api->drain_ms = or_else(o->drain_ms, 10 * 1000);
    set_pem(&api->tls_cert, o->tls_cert);
    set_pem(&api->tls_key, o->tls_key);
    json_setup();
    e = open_listeners(api, o, &listeners, info);
    if (e == OK)
        e = start_parts(api, o, &listeners, info);
    if (e != OK) {
        for (size_t i = 0; i < listeners.count; i++)
            close(listeners.list[i].fd);
        api_free(&api);
        return e;
    }
    *out = api;
    return OK;
}

static bool same_pem(const char *has, struct str wanted) {
    return has == NULL ? str_is_empty(wanted) : str_equal(str_of(has), wanted);
}

/* In clear stays in clear, TLS stays TLS: clients of the same address could not tell. */
static enum err reload_tls(struct api *api, const struct api_options *o, struct errinfo *info) {
    if (same_pem(api->tls_cert, o->tls_cert) && same_pem(api->tls_key, o->tls_key))
        return OK;
    if ((api->tls_cert == NULL) != str_is_empty(o->tls_cert))
        return err_set(info, ERR_INVALID, "tls_cert", "turning TLS on or off takes a restart");
    char *cert = NULL, *key = NULL;
    set_pem(&cert, o->tls_cert);
    set_pem(&key, o->tls_key);
    enum err e = http_set_tls(api->http, cert, key, info);
    if (e == OK) {
        set_pem(&api->tls_cert, o->tls_cert);
        set_pem(&api->tls_key, o->tls_key);
    }
    set_pem(&cert, STR_NONE);
    set_pem(&key, STR_NONE);
    return e;
}

enum err api_reload(struct api *api, const struct api_options *o, struct errinfo *info) {
    struct intake *intake = NULL;
    struct guard *guard = NULL;
    enum err e = check_options(o, info);
    if (e == OK)
        e = snapshots_new(o, &intake, &guard, info);
    if (e == OK)
        e = reload_tls(api, o, info);
    if (e != OK) {
        intake_unref(&intake);
        guard_free(&guard);
        return e;
    }
    const struct http_limits limits = limits_of(o);
    env_set_intake(&api->env, intake);
    env_set_guard(&api->env, guard);
    http_set_limits(api->http, &limits);
    api->drain_ms = or_else(o->drain_ms, 10 * 1000);
    return OK;
}

void api_drain(struct api *api) {
    if (api->is_drained)
        return;
    api->is_drained = true;
    atomic_store(&api->env.is_draining, true);
    http_drain(api->http, api->drain_ms);
}

void api_stop(struct api **ap) {
    struct api *api = *ap;
    if (api == NULL)
        return;
    api_drain(api);
    http_stop(&api->http);
    workers_stop(&api->env.workers);
    keeper_stop(&api->env);
    api_free(ap);
}

int api_port(const struct api *api, size_t index) {
    return index < api->port_count ? api->port[index] : 0;
}
