#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "tests/unit/cli/run_cli.h"
#include "tests/unit/http_peer.h"

enum { KEPT_MAX = 16 };

static struct outcome run(int port, const char *line) {
    char words[1024], url[64], key[] = "POSTCHUTE_KEY=pc_live_key";
    char *env[] = {url, key, NULL};
    snprintf(url, sizeof url, "POSTCHUTE_URL=http://127.0.0.1:%d/", port);
    snprintf(words, sizeof words, "send|%s", line);
    return run_cli(words, env);
}

static void write_file(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"out", "err", "a.pdf", "body.txt", "m.json", "key"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

/* ---- a server that follows a script ---------------------------------------------------------- */

struct script {
    const char *answer[KEPT_MAX];
    size_t count;
};

static const char *follow_script(void *ctx, const struct http_peer_request *r) {
    const struct script *s = ctx;
    return s->answer[r->index < s->count ? r->index : s->count - 1];
}

#define ANSWER(status, body) "HTTP/1.1 " status "\r\nConnection: close\r\n\r\n" body
#define MESSAGE(state)                                                                             \
    "{\"id\":\"0193\",\"recipients\":[{\"email\":\"a@b.test\",\"state\":\"" state "\"}]}"
static const char UNAVAILABLE[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"
                                  "Retry-After: 0\r\n\r\n{\"title\":\"Not now\"}";
static const char QUEUED[] = ANSWER("202 Accepted", MESSAGE("queued"));
static const char DELIVERED[] = ANSWER("200 OK", MESSAGE("delivered"));
static const char BOUNCED[] = ANSWER(
    "200 OK", "{\"id\":\"0193\",\"recipients\":[{\"email\":\"a@b.test\",\"state\":\"delivered\"},"
              "{\"email\":\"c@b.test\",\"state\":\"bounced\",\"refusal\":{\"code\":550,"
              "\"text\":\"5.1.1 no such \\u001b[31muser\"}}]}");
static const char MIXED[] =
    ANSWER("202 Accepted", "{\"id\":\"0193\",\"recipients\":[{\"email\":\"a@b.test\",\"state\":"
                           "\"bounced\"},{\"email\":\"c@b.test\",\"state\":\"deferred\"}]}");
static const char REFUSED[] = ANSWER(
    "422 Unprocessable", "{\"title\":\"Invalid\",\"detail\":\"#/to/0: is no address\","
                         "\"errors\":[{\"pointer\":\"#/to/0\",\"detail\":\"is no address\"}]}");
static const char CONFLICT[] =
    ANSWER("409 Conflict", "{\"title\":\"Conflict\",\"detail\":\"not now\",\"errors\":[]}");

static void exit_codes_say_what_happened(void **state) {
    (void)state;
    static const struct {
        const char *name, *options;
        const char *answer[4];
        int code;
        size_t requests;
        const char *out, *err;
    } rows[] = {
        {"accepted", "", {QUEUED}, CLI_OK, 1, "0193\n", ""},
        {"accepted, one is suppressed already", "", {BOUNCED}, CLI_OK, 1, "0193\n", ""},
        {"delivered", "--wait|", {DELIVERED}, CLI_OK, 1, "0193\n", ""},
        {"delivered later", "--wait|", {QUEUED, QUEUED, DELIVERED}, CLI_OK, 3, "0193\n", ""},
        {"bounced",
         "--wait|",
         {BOUNCED},
         CLI_UNDELIVERED,
         1,
         "0193\n",
         "c@b.test: bounced: 550 5.1.1 no such ?[31muser\n"},
        {"bounced later", "--wait|", {QUEUED, BOUNCED}, CLI_UNDELIVERED, 2, "0193\n", "c@b.test"},
        {"not final", "--wait=1|", {MIXED}, CLI_NOT_FINAL, 0, "0193\n", "c@b.test: deferred"},
        {"refused", "", {REFUSED}, CLI_FAILED, 1, "", "#/to/0: is no address"},
        {"forbidden", "--wait|", {ANSWER("403 Forbidden", "{}")}, CLI_FAILED, 1, "", "HTTP 403"},
        {"not now, then yes", "", {UNAVAILABLE, QUEUED}, CLI_OK, 2, "0193\n", ""},
        {"hung up, then yes", "", {HTTP_PEER_CLOSE, QUEUED}, CLI_OK, 2, "0193\n", ""},
        {"not now for ever", "--tries=2|", {UNAVAILABLE}, CLI_UNREACHABLE, 2, "", "Not now"},
        {"lost while waiting",
         "--wait|",
         {QUEUED, HTTP_PEER_CLOSE, DELIVERED},
         CLI_OK,
         3,
         "0193\n",
         ""},
        {"erased while waiting",
         "--wait|",
         {QUEUED, ANSWER("404 Not Found", "{}")},
         CLI_FAILED,
         2,
         "0193\n",
         "HTTP 404"},
        {"somebody else",
         "",
         {ANSWER("200 OK", "<html>")},
         CLI_UNREACHABLE,
         1,
         "",
         "does not answer like postchute"},
        {"an inner fault, then yes",
         "",
         {ANSWER("500 Oops", "x"), QUEUED},
         CLI_OK,
         2,
         "0193\n",
         ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct script script = {.count = 0};
        struct http_peer peer;
        char line[256];
        while (script.count < 4 && rows[i].answer[script.count]) {
            script.answer[script.count] = rows[i].answer[script.count];
            script.count++;
        }
        http_peer_start(&peer, follow_script, &script);
        snprintf(line, sizeof line, "%s--from|x@b.test|--to|a@b.test|--text|hi", rows[i].options);
        struct outcome o = run(peer.port, line);
        if (o.code != rows[i].code)
            print_error("%s: %s", rows[i].name, o.err);
        assert_int_equal(o.code, rows[i].code);
        assert_string_equal(o.out, rows[i].out);
        if (*rows[i].err)
            assert_non_null(strstr(o.err, rows[i].err));
        else
            assert_string_equal(o.err, "");
        if (rows[i].requests)
            assert_int_equal(http_peer_count(&peer), rows[i].requests);
        http_peer_stop(&peer);
    }
}

static void a_refusal_is_told_once(void **state) {
    (void)state;
    static const struct {
        const char *answer, *err;
    } rows[] = {
        {REFUSED, "postchute send: HTTP 422: Invalid\npostchute send:   #/to/0: is no address\n"},
        {CONFLICT, "postchute send: HTTP 409: Conflict: not now\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct script script = {{rows[i].answer}, 1};
        struct http_peer peer;
        http_peer_start(&peer, follow_script, &script);
        struct outcome o = run(peer.port, "--from|x@b.test|--to|a@b.test|--text|hi");
        assert_int_equal(o.code, CLI_FAILED);
        assert_string_equal(o.err, rows[i].err);
        http_peer_stop(&peer);
    }
}

static void nobody_listening_is_unreachable(void **state) {
    (void)state;
    struct http_peer peer;
    struct script script = {{QUEUED}, 1};
    http_peer_start(&peer, follow_script, &script);
    int port = peer.port;
    http_peer_stop(&peer);
    struct outcome o = run(port, "--tries=2|--from|x@b.test|--to|a@b.test|--text|hi");
    assert_int_equal(o.code, CLI_UNREACHABLE);
    assert_string_equal(o.out, "");
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d (--url, POSTCHUTE_URL)", port);
    assert_non_null(strstr(o.err, "no answer"));
    assert_non_null(strstr(o.err, url));
}

static void a_repetition_has_the_same_idempotency_key(void **state) {
    (void)state;
    struct http_peer peer;
    struct script script = {{UNAVAILABLE, HTTP_PEER_CLOSE, QUEUED}, 3};
    http_peer_start(&peer, follow_script, &script);
    struct outcome o = run(peer.port, "--from|x@b.test|--to|a@b.test|--text|hi");
    assert_int_equal(o.code, CLI_OK);
    assert_int_equal(http_peer_count(&peer), 3);
    struct str first = http_peer_field(&peer.shared.request[0], STR("Idempotency-Key"));
    assert_int_equal(first.n, 36);
    for (size_t i = 0; i < 3; i++) {
        const struct http_peer_request *r = &peer.shared.request[i];
        assert_true(str_equal(http_peer_field(r, STR("Idempotency-Key")), first));
        assert_string_equal(r->body, peer.shared.request[0].body);
        assert_true(str_equal(http_peer_field(r, STR("Authorization")), STR("Bearer pc_live_key")));
    }
    http_peer_stop(&peer);
    /* one that the user gives is taken */
    struct script one = {{DELIVERED}, 1};
    http_peer_start(&peer, follow_script, &one);
    o = run(peer.port, "--idempotency-key|deploy-17|--wait=7|--from|x@b.test|--tries|1|--text|x");
    struct http_peer_request *r = &peer.shared.request[0];
    assert_true(str_equal(http_peer_field(r, STR("Idempotency-Key")), STR("deploy-17")));
    assert_true(str_equal(http_peer_field(r, STR("Prefer")), STR("wait=7")));
    http_peer_stop(&peer);
}

static void a_value_that_looks_like_help_is_sent(void **state) {
    (void)state;
    static const char *const rows[] = {"--text|-h", "--text|--help", "--text=-h", "-s|-h"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_peer peer;
        struct script script = {{QUEUED}, 1};
        char line[128];
        http_peer_start(&peer, follow_script, &script);
        snprintf(line, sizeof line, "--from|x@b.test|--to|a@b.test|%s", rows[i]);
        struct outcome o = run(peer.port, line);
        assert_int_equal(o.code, CLI_OK);
        assert_string_equal(o.out, "0193\n");
        assert_int_equal(http_peer_count(&peer), 1);
        assert_non_null(strstr(peer.shared.request[0].body, i == 1 ? "\"--help\"" : "\"-h\""));
        http_peer_stop(&peer);
    }
}

static void help_is_an_option_anywhere_before_the_end_of_options(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int code;
    } rows[] = {{"-h", CLI_OK},
                {"--text|x|--help", CLI_OK},
                {"--no-such|--help", CLI_OK}, /* it says which there are */
                {"--help|--no-such", CLI_OK},
                {"word|-h", CLI_OK},
                {"--|-h", CLI_USAGE},
                {"--help=x", CLI_USAGE},
                {"--no-such", CLI_USAGE}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct outcome o = run(1, rows[i].line);
        assert_int_equal(o.code, rows[i].code);
        assert_int_equal(strstr(o.out, "--require-tls") != NULL, rows[i].code == CLI_OK);
    }
}

static void options_become_the_submission(void **state) {
    (void)state;
    char line[1024];
    struct http_peer peer;
    struct script script = {{QUEUED}, 1};
    json_error_t why;
    write_file("a.pdf", "%PDF");
    write_file("body.txt", "from a \xC3\xBC file\n");
    write_file("m.json", "{\"subject\":\"old\",\"sender\":\"s@b.test\"}");
    snprintf(line, sizeof line,
             "--file|%s/m.json|-f|x@b.test|-t|a@b.test|-t|c@b.test|--cc|d@b.test|--bcc|e@b.test|"
             "--reply-to|r@b.test|-s|new|--text-file|%s/body.txt|--html|<b>x</b>|-a|%s/a.pdf|"
             "-a|%s/a.pdf:text/x-odd|-H|X-A: 1|-H|X-B: 2|-H|X-A: 3|--tag|t1|--tag|t2|"
             "--metadata|k=v=w|--external-id|e1|--route|relay|--require-tls|--expires-in|40000000",
             folder, folder, folder, folder);
    http_peer_start(&peer, follow_script, &script);
    struct outcome o = run(peer.port, line);
    assert_string_equal(o.err, "");
    assert_int_equal(o.code, CLI_OK);
    json_t *got = json_loads(peer.shared.request[0].body, 0, &why);
    json_t *want = json_loads(
        "{\"subject\":\"new\",\"sender\":\"s@b.test\",\"from\":\"x@b.test\","
        "\"to\":[\"a@b.test\",\"c@b.test\"],\"cc\":[\"d@b.test\"],\"bcc\":[\"e@b.test\"],"
        "\"reply_to\":[\"r@b.test\"],\"text\":\"from a \xC3\xBC file\\n\",\"html\":\"<b>x</b>\","
        "\"attachments\":[{\"filename\":\"a.pdf\",\"content\":\"JVBERg==\",\"type\":"
        "\"application/pdf\"},{\"filename\":\"a.pdf\",\"content\":\"JVBERg==\",\"type\":"
        "\"text/x-odd\"}],\"headers\":{\"X-A\":[\"1\",\"3\"],\"X-B\":\"2\"},"
        "\"tags\":[\"t1\",\"t2\"],\"metadata\":{\"k\":\"v=w\"},\"external_id\":\"e1\","
        "\"route\":\"relay\",\"require_tls\":true,\"expires_in\":40000000}",
        0, &why);
    assert_non_null(got);
    assert_non_null(want);
    assert_true(json_equal(got, want));
    json_decref(got);
    json_decref(want);
    http_peer_stop(&peer);
}

static bool no_memory;

void __real_base64_encode(struct str in, struct buf *out);
void __wrap_base64_encode(struct str in, struct buf *out);
void __wrap_base64_encode(struct str in, struct buf *out) {
    if (no_memory)
        out->failed = out->is_short = true;
    else
        __real_base64_encode(in, out);
}

static void an_attachment_that_finds_no_memory_is_not_sent_empty(void **state) {
    (void)state;
    struct http_peer peer;
    struct script script = {{QUEUED}, 1};
    char line[128];
    write_file("a.pdf", "%PDF");
    snprintf(line, sizeof line, "--to|a@b.test|--text|x|--attach|%s/a.pdf", folder);
    http_peer_start(&peer, follow_script, &script);
    no_memory = true;
    struct outcome o = run(peer.port, line);
    no_memory = false;
    assert_int_not_equal(o.code, CLI_OK);
    assert_non_null(strstr(o.err, "--attach: "));
    assert_int_equal(http_peer_count(&peer), 0);
    http_peer_stop(&peer);
}

static void wrong_usage_reaches_no_server(void **state) {
    (void)state;
    static const struct {
        const char *line, *err;
    } rows[] = {
        {"--bad", "--bad: there is no such option"},
        {"", "there is no message"},
        {"--wait", "there is no message"},
        {"--to|a@b.test|--wait=0", "--wait: expects a number from 1 to 86400"},
        {"--to|a@b.test|--wait=soon", "--wait"},
        {"--to|a@b.test|--tries|0", "--tries"},
        {"--to|a@b.test|--text|x|--text-file|y", "--text-file: cannot be together with --text"},
        {"--to|a@b.test|--text-file|/nonexistent/x", "No such file"},
        {"--to|a@b.test|--attach|/nonexistent/x", "No such file"},
        {"--to|a@b.test|--header|X-A", "has no ':'"},
        {"--to|a@b.test|--metadata|k", "has no '='"},
        {"--to|a@b.test|--metadata|k=1|--metadata|k=2", "given twice"},
        {"--to|\xFF@b.test", "is not UTF-8"},
        {"--text|\xFF", "is not UTF-8"},
        {"--to|a@b.test|--key-file|/dev/null", "holds no API key"},
        {"--to|a@b.test|--idempotency-key|a\rb", "--idempotency-key"},
        {"--to|a@b.test|--idempotency-key|a b", "--idempotency-key: expects 1 to 256 visible"},
        {"--to|a@b.test|--idempotency-key=", "--idempotency-key: expects 1 to 256 visible"},
        {"--file|/dev/null", "--file"},
        {"word", "only `-`"},
        {"a|b", "one word too many"},
    };
    struct http_peer peer;
    struct script script = {{QUEUED}, 1};
    http_peer_start(&peer, follow_script, &script);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct outcome o = run(peer.port, rows[i].line);
        if (o.code != CLI_USAGE || !strstr(o.err, rows[i].err))
            print_error("'%s': %d %s\n", rows[i].line, o.code, o.err);
        assert_int_equal(o.code, CLI_USAGE);
        assert_non_null(strstr(o.err, rows[i].err));
        assert_string_equal(o.out, "");
    }
    assert_int_equal(http_peer_count(&peer), 0);
    http_peer_stop(&peer);
}

static void json_prints_the_whole_answer(void **state) {
    (void)state;
    struct http_peer peer;
    struct script script = {{QUEUED, DELIVERED}, 2};
    json_error_t why;
    http_peer_start(&peer, follow_script, &script);
    struct outcome o = run(peer.port, "--json|--wait|--from|x@b.test|--to|a@b.test|--text|hi");
    assert_int_equal(o.code, CLI_OK);
    json_t *v = json_loads(o.out, 0, &why);
    assert_non_null(v);
    assert_string_equal(json_string_value(json_object_get(v, "id")), "0193");
    json_decref(v);
    http_peer_stop(&peer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_codes_say_what_happened),
        cmocka_unit_test(a_refusal_is_told_once),
        cmocka_unit_test(nobody_listening_is_unreachable),
        cmocka_unit_test(a_repetition_has_the_same_idempotency_key),
        cmocka_unit_test(a_value_that_looks_like_help_is_sent),
        cmocka_unit_test(help_is_an_option_anywhere_before_the_end_of_options),
        cmocka_unit_test(options_become_the_submission),
        cmocka_unit_test(an_attachment_that_finds_no_memory_is_not_sent_empty),
        cmocka_unit_test(wrong_usage_reaches_no_server),
        cmocka_unit_test(json_prints_the_whole_answer),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
