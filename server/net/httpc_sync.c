#include "server/net/httpc_sync.h"

#include <curl/curl.h>

#include "server/net/httpc_failure.h"

enum { HEADERS_MAX = 64 * 1024 };

static size_t put_body(char *p, size_t size, size_t n, void *arg) {
    struct httpc_sync_result *r = arg;
    buf_put(&r->body, str_make(p, size * n));
    return buf_status(&r->body) == OK ? size * n : 0;
}

/* A status line begins a new answer (100 Continue came before): only the last one's fields count.
 */
static size_t put_header(char *p, size_t size, size_t n, void *arg) {
    struct httpc_sync_result *r = arg;
    struct str line = str_make(p, size * n);
    if (str_starts_with(line, STR("HTTP/")))
        buf_clear(&r->headers);
    buf_put(&r->headers, line);
    return buf_status(&r->headers) == OK ? size * n : 0;
}

static bool is_too_large(const struct httpc_sync_result *r) {
    return buf_status(&r->body) != OK || buf_status(&r->headers) != OK;
}

static enum failure failure_of(CURL *c, CURLcode code, const struct httpc_sync_result *r) {
    if (code == CURLE_WRITE_ERROR)
        return is_too_large(r) ? FAILURE_TOO_LARGE : FAILURE_LOCAL;
    return httpc_failure_of(c, (int)code);
}

static void set_request(CURL *c, const struct httpc_sync_request *q) {
    curl_easy_setopt(c, CURLOPT_URL, q->url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)q->timeout_ms);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS,
                     (long)(q->connect_timeout_ms ? q->connect_timeout_ms : q->timeout_ms));
    if (q->socket_path)
        curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, q->socket_path);
    if (q->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_file);
    if (q->is_own) {
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (!str_is_absent(q->body)) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body.n);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->body.p);
    }
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method);
}

static struct curl_slist *list_headers(const struct httpc_sync_request *q) {
    /* no 100-continue: it costs a second with servers that do not know it */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    for (size_t i = 0; q->headers && q->headers[i]; i++)
        list = curl_slist_append(list, q->headers[i]);
    return list;
}

void httpc_sync(const struct httpc_sync_request *q, struct httpc_sync_result *r) {
    char words[CURL_ERROR_SIZE] = "";
    *r = (struct httpc_sync_result){.body = BUF_INIT(q->response_max),
                                    .headers = BUF_INIT(HEADERS_MAX)};
    CURL *c = curl_easy_init();
    ASSERT(c);
    struct curl_slist *headers = list_headers(q);
    set_request(c, q);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, put_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, put_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, r);
    CURLcode code = curl_easy_perform(c);
    r->failure = failure_of(c, code, r);
    long status = 0;
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    if (r->failure == FAILURE_NONE)
        r->status = (int)status;
    else
        snprintf(r->failure_text, sizeof r->failure_text, "%s",
                 r->failure == FAILURE_TOO_LARGE ? "the answer is too large"
                 : words[0]                      ? words
                                                 : curl_easy_strerror(code));
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
}

void httpc_sync_release(struct httpc_sync_result *r) {
    buf_release_secret(&r->body);
    buf_release_secret(&r->headers);
}

struct str httpc_sync_header(const struct httpc_sync_result *r, struct str name) {
    struct str found = STR_NONE, rest = buf_str(&r->headers);
    while (!str_is_absent(rest)) {
        struct str value = str_split(&rest, '\n');
        struct str field = str_split(&value, ':');
        if (!str_is_absent(value) && str_equal_nocase(field, name))
            found = str_trim(value);
    }
    return found;
}
