#include "server/cli/doctor.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/lifecycle_options.h"

enum { LIVE_MS = 3000, ANSWER_MS = 10000, WHAT_COLUMN = 12 };

static const struct option_spec options[] = {
    {"live", 0, OPTION_FLAG, NULL, "only: does the server answer at GET /livez? One line, quickly"},
    {"offline", 0, OPTION_FLAG, NULL, "ask nothing outside of this machine"},
    {"mx-domain", 0, OPTION_TEXT, "DOMAIN",
     "try outbound port 25 with this domain's MX (default gmail.com)"},
    {"timeout", 0, OPTION_TEXT, "SECONDS", "patience for one connection (default 5)"},
    ADMIN_OPTIONS};

/* ---- saying it ------------------------------------------------------------------------------- */

PRINTF(4, 0)
static void say(const char *sign, const char *what, const char *mend, const char *fmt,
                va_list args) {
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    cli_say(stdout, "%-4s  %-*s  %s\n", sign, WHAT_COLUMN, what, text);
    if (mend)
        cli_say(stdout, "%*s-> %s\n", WHAT_COLUMN + 8, "", mend);
}

void doctor_ok(struct doctor *d, const char *what, const char *fmt, ...) {
    va_list args;
    (void)d;
    va_start(args, fmt);
    say("ok", what, NULL, fmt, args);
    va_end(args);
}

void doctor_look(struct doctor *d, const char *what, const char *mend, const char *fmt, ...) {
    va_list args;
    d->look++;
    va_start(args, fmt);
    say("look", what, mend, fmt, args);
    va_end(args);
}

void doctor_bad(struct doctor *d, const char *what, const char *mend, const char *fmt, ...) {
    va_list args;
    d->bad++;
    va_start(args, fmt);
    say("BAD", what, mend, fmt, args);
    va_end(args);
}

/* ---- the store and the server ---------------------------------------------------------------- */

static void examine_room(struct doctor *d, const char *path) {
    struct statvfs fs;
    int64_t floor_mib = d->config->disk_floor_bytes >> 20;
    if (statvfs(path, &fs) != 0) {
        doctor_bad(d, "disk", "mend the file system, or correct POSTCHUTE_DATA", "%s: %s", path,
                   strerror(errno));
        return;
    }
    int64_t free_bytes = (int64_t)fs.f_bavail * (int64_t)fs.f_frsize;
    int64_t free_mib = free_bytes >> 20;
    if (free_bytes < d->config->disk_floor_bytes)
        doctor_bad(d, "disk", "make room: below POSTCHUTE_DISK_FLOOR nothing is accepted",
                   "%lld MiB are free at %s, the floor is %lld MiB", (long long)free_mib, path,
                   (long long)floor_mib);
    else if (free_bytes / 2 < d->config->disk_floor_bytes)
        doctor_look(d, "disk", "make room soon", "%lld MiB are free at %s, the floor is %lld MiB",
                    (long long)free_mib, path, (long long)floor_mib);
    else
        doctor_ok(d, "disk", "%lld MiB are free at %s", (long long)free_mib, path);
}

/* 0: a folder in which we may make files; else why not. */
static int try_folder(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0)
        return errno;
    if (!S_ISDIR(st.st_mode))
        return ENOTDIR;
    return access(path, W_OK | X_OK) == 0 ? 0 : errno;
}

/* The folder that `path` is in, whatever slashes it ends with. */
static char *parent_of(const char *path) {
    struct str s = str_of(path);
    while (s.n > 1 && s.p[s.n - 1] == '/')
        s.n--;
    while (s.n > 0 && s.p[s.n - 1] != '/')
        s.n--;
    while (s.n > 1 && s.p[s.n - 1] == '/')
        s.n--;
    return str_dupz(s.n > 0 ? s : STR("."));
}

/* The start makes the folder itself, in one that is there. */
static void examine_disk(struct doctor *d) {
    char *parent = parent_of(d->folder);
    int why = try_folder(d->folder), why_not_made = why == ENOENT ? try_folder(parent) : 0;
    if (why_not_made)
        doctor_bad(d, "disk",
                   why_not_made == ENOENT
                       ? "make that folder, or correct POSTCHUTE_DATA"
                       : "let the server's user write there, or correct POSTCHUTE_DATA",
                   "%s cannot be made in %s: %s", d->folder, parent, strerror(why_not_made));
    else if (why && why != ENOENT)
        doctor_bad(d, "disk", "let it be a folder of the server's user, or correct POSTCHUTE_DATA",
                   "%s: %s", d->folder, strerror(why));
    else
        examine_room(d, why ? parent : d->folder);
    free(parent);
}

/* Is it us who listen there? */
static bool is_ours(const struct config *c, struct str listen, bool is_https) {
    struct config at = *c;
    struct config_list one = {&listen, 1};
    char url[256];
    struct httpc_sync_result r;
    at.listen = one;
    if (!is_https)
        at.tls_cert = STR_NONE;
    lifecycle_local_url(&at, "/livez", url, sizeof url);
    struct httpc_sync_request q = {
        .method = "GET", .url = url, .timeout_ms = LIVE_MS, .response_max = 65536, .is_own = true};
    httpc_sync(&q, &r);
    bool ours = r.failure == FAILURE_NONE;
    httpc_sync_release(&r);
    return ours;
}

enum { NOT_TRIED = -1 };

/* 0: free; NOT_TRIED: no address in numbers and a port; else why not. */
static int try_bind(struct str listen) {
    struct str host = listen, port = STR_NONE;
    struct sockaddr_any at;
    uint64_t number = 0;
    int one = 1;
    for (size_t i = listen.n; i > 0 && str_is_absent(port); i--)
        if (listen.p[i - 1] == ':') {
            host = str_slice(listen, 0, i - 1);
            port = str_from(listen, i);
        }
    if (host.n >= 2 && host.p[0] == '[')
        host = str_slice(host, 1, host.n - 1);
    if (host.n == 0)
        host = STR("0.0.0.0");
    if (str_parse_u64(port, 65535, &number) != OK ||
        sockaddr_parse(host, (uint16_t)number, &at) != OK)
        return NOT_TRIED;
    int fd = socket(at.ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int why = bind(fd, (struct sockaddr *)&at.ss, at.len) == 0 ? 0 : errno;
    close(fd);
    return why;
}

static void examine_listener(struct doctor *d, struct str listen, bool is_https, bool is_running) {
    int why = is_running ? EADDRINUSE : try_bind(listen);
    if (is_running && is_ours(d->config, listen, is_https))
        doctor_ok(d, "listen", "%.*s answers", STR_ARG(listen));
    else if (is_running)
        doctor_bad(d, "listen", "was the setting changed? Restart the server",
                   "%.*s: the server runs but does not answer there", STR_ARG(listen));
    else if (why == NOT_TRIED)
        doctor_look(d, "listen", "`postchute check-config` says whether it will do",
                    "%.*s: not tried", STR_ARG(listen));
    else if (why)
        doctor_bad(d, "listen",
                   "another program has it, or may not be given it: change "
                   "POSTCHUTE_LISTEN",
                   "%.*s: %s", STR_ARG(listen), strerror(why));
    else
        doctor_ok(d, "listen", "%.*s is free", STR_ARG(listen));
}

static void examine_ready(struct doctor *d, const struct admin *a) {
    struct client_answer answer;
    admin_call(a, "GET", "/readyz", NULL, &answer);
    if (client_is_success(&answer))
        doctor_ok(d, "server", "runs and accepts messages");
    else if (answer.http.failure == FAILURE_NONE)
        doctor_bad(
            d, "server", "see its log", "runs but is not ready: %s",
            client_text(answer.json, "detail", client_text(answer.json, "why", "no reason")));
    else
        doctor_bad(d, "server", "see its log, restart it", "does not answer: %s",
                   answer.http.failure_text);
    client_answer_release(&answer);
}

static void examine_store(struct doctor *d, const struct admin *a, enum err e,
                          const struct errinfo *info) {
    if (e == ERR_NOT_FOUND) {
        doctor_look(d, "store", "nothing to do when this is a new installation", "%s: %s",
                    info->field, info->text);
        return;
    }
    bool is_told = d->has_bad_settings && e == ERR_INVALID;
    if (is_told && !a->store) {
        doctor_look(d, "store", "mend the settings first", "not opened");
        return;
    }
    if (e != OK && !is_told) {
        doctor_bad(d, "store", "run this as the server's user, with its settings", "%s: %s",
                   info->field, info->text);
        return;
    }
    if (a->store) {
        struct store_health h = store_health(a->store);
        if (h.is_writable)
            doctor_ok(d, "store", "%s opens; no server is running", d->folder);
        else
            doctor_bad(d, "store", "see the disk and its permissions", "cannot be written: %s",
                       h.text);
    } else {
        doctor_ok(d, "store", "%s is held by a server that answers", d->folder);
        examine_ready(d, a);
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void examine_domains(struct doctor *d, const struct admin *a) {
    struct client_answer answer;
    if (str_equal(d->config->route, STR("sandbox")) && d->config->route_count == 0) {
        doctor_ok(d, "domains", "mail stays in the sandbox: no DNS records are wanted");
        return;
    }
    admin_call(a, "GET", "/v1/domains", NULL, &answer);
    if (client_is_success(&answer))
        doctor_domains(d, json_object_get(answer.json, "data"));
    else
        doctor_bad(d, "domains", "see the server's log", "not listed: HTTP %d %s",
                   answer.http.status, answer.http.failure_text);
    client_answer_release(&answer);
}

static void examine_outside(struct doctor *d, const struct admin *a) {
    struct lifecycle_net net;
    struct errinfo info = {0};
    lifecycle_net_options(d->config, &net);
    d->box = mailbox_new();
    if (dns_start(&net.dns, &d->dns, &info) == OK) {
        doctor_dns(d);
        doctor_hostname(d);
        doctor_way_out(d);
        if (a)
            examine_domains(d, a);
        dns_stop(&d->dns);
    } else {
        doctor_bad(d, "dns", "correct POSTCHUTE_DNS", "%s: %s", info.field, info.text);
    }
    mailbox_free(&d->box);
    lifecycle_net_release(&net);
}

/* A route that cannot be read is not shown: nobody knows where a password would be in it. */
static bool is_route_known(const struct config *c) {
    struct smarthost h;
    bool is_known = str_equal(c->route, STR("mx")) || str_equal(c->route, STR("sandbox")) ||
                    smarthost_parse(c->route, &h, NULL) == OK;
    smarthost_wipe(&h);
    return is_known;
}

/* What check-config says. */
static void examine_settings(struct doctor *d, const struct admin *a) {
    struct errinfo info = a->unread;
    bool is_read = !info.text[0];
    if (is_read && settings_check(d->config, &info) == OK) {
        doctor_ok(d, "settings", "mail goes to %.*s", STR_ARG(lifecycle_shown_route(d->config)));
        return;
    }
    d->has_bad_settings = true;
    doctor_bad(d, "settings", "`postchute help settings` lists them", "%s: %s", info.field,
               info.text);
    if (is_read && is_route_known(d->config))
        doctor_look(d, "route", "mend the settings; what follows takes the others as they are",
                    "mail would go to %.*s", STR_ARG(lifecycle_shown_route(d->config)));
    else
        doctor_look(d, "route", "mend the settings first", "not known%s",
                    is_read ? "" : ", nor where the server listens: the settings cannot be read");
}

static void examine_listeners(struct doctor *d, bool is_running) {
    for (size_t i = 0; i < d->config->listen.count; i++)
        examine_listener(d, d->config->listen.list[i], true, is_running);
    for (size_t i = 0; i < d->config->listen_health.count; i++)
        examine_listener(d, d->config->listen_health.list[i], false, is_running);
}

static int examine(struct doctor *d, const struct options *o, char *const *env) {
    struct admin a;
    struct errinfo info = {0};
    enum err e = admin_open(o, env, false, &a, &info);
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT); /* what matters is said here */
    char *folder = NULL;
    d->config = a.settings.config;
    examine_settings(d, &a);
    if (d->config) { /* without the server's, those of --data */
        bool is_read = !a.unread.text[0];
        const char *data = options_text(o, "data", NULL);
        folder = str_dupz(data ? str_of(data) : d->config->data);
        d->folder = folder;
        examine_store(d, &a, e, &info);
        examine_disk(d);
        if (is_read)
            examine_listeners(d, e == OK && !a.store);
        if (is_read && d->is_online)
            examine_outside(d, e == OK ? &a : NULL);
    }
    admin_close(&a);
    free(folder);
    cli_say(stdout, "\n%zu to mend, %zu to look at\n", d->bad, d->look);
    return cli_printed(d->bad == 0);
}

/* For a container's health check: nothing but the listener is asked. */
static int live(const struct options *o, char *const *env) {
    struct settings s;
    struct errinfo info = {0};
    struct httpc_sync_result r = {0};
    char url[256];
    if (settings_load_lenient(o, env, &s, &info) != OK) {
        settings_release(&s);
        return cli_fail(CLI_FAILED, "doctor", &info);
    }
    struct config at = *s.config;
    if (at.listen_health.count) { /* it speaks plain HTTP */
        at.listen = at.listen_health;
        at.tls_cert = STR_NONE;
    }
    lifecycle_local_url(&at, "/livez", url, sizeof url);
    struct httpc_sync_request q = {
        .method = "GET", .url = url, .timeout_ms = LIVE_MS, .response_max = 65536, .is_own = true};
    httpc_sync(&q, &r);
    bool ok = r.failure == FAILURE_NONE && r.status == 200;
    if (r.failure != FAILURE_NONE)
        cli_say(stdout, "%s: %s\n", url, r.failure_text);
    else
        cli_say(stdout, "%s: HTTP %d\n", url, r.status);
    httpc_sync_release(&r);
    settings_release(&s);
    return cli_printed(ok);
}

static int doctor(const struct options *o, char *const *env) {
    struct errinfo info = {0};
    int64_t patience_s = 5;
    if (options_has(o, "live"))
        return live(o, env);
    if (options_number(o, "timeout", 1, 60, 5, &patience_s, &info) != OK)
        return cli_fail(CLI_USAGE, "doctor", &info);
    struct doctor d = {.is_online = !options_has(o, "offline"),
                       .patience_ms = patience_s * 1000,
                       .mx_domain = options_text(o, "mx-domain", "gmail.com")};
    return examine(&d, o, env);
}

const struct command cli_doctor = {
    .name = "doctor",
    .arguments = "",
    .summary = "examines the installation and says what to mend",
    .text =
        "Settings, store, disk, listeners, resolver and DNSSEC, our name forwards and backwards,\n"
        "the way out (port 25 of a real MX; of smarthosts TLS, certificate or pin, and one "
        "login),\n"
        "and the DNS records of every sending domain. `BAD` must be mended, `look` should be seen\n"
        "to.\n"
        "\n"
        "  postchute doctor\n"
        "  HEALTHCHECK CMD [\"postchute\", \"doctor\", \"--live\"]\n"
        "\n"
        "Exit code: 0 nothing is bad, 1 something is.",
    COMMAND_OPTIONS(options),
    .run = doctor,
};
