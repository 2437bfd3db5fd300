/* Golden messages: each tests/golden/<name>.json, composed with a fixed id, date and seed, must
 * give exactly the bytes of <name>.eml. POSTCHUTE_GOLDEN_WRITE=1 writes the .eml files instead, to
 * be read with care before they are committed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/base/clock.h"
#include "server/mail/compose.h"

#define FOLDER "tests/golden/"

static struct arena *arena;

static struct str text_of(const json_t *j) {
    return j && json_is_string(j)
               ? arena_dup(arena, str_make(json_string_value(j), json_string_length(j)))
               : STR_NONE;
}

static struct str member(const json_t *j, const char *name) {
    return text_of(json_object_get(j, name));
}

static struct address address_of(const json_t *j) {
    struct address a = {0};
    struct errinfo info = {0};
    if (!j)
        return a;
    enum err e = json_is_string(j) ? address_parse_named(&a, text_of(j), arena, &info)
                                   : address_parse(&a, member(j, "email"), arena, &info);
    if (e == OK && json_is_object(j))
        e = address_set_name(&a, member(j, "name"), arena, &info);
    if (e != OK)
        fail_msg("address: %s", info.text);
    return a;
}

static struct address_list addresses_of(const json_t *j) {
    struct address_list list = {.count = json_array_size(j)};
    list.list = ARENA_ARRAY(arena, struct address, list.count + 1);
    for (size_t i = 0; i < list.count; i++)
        list.list[i] = address_of(json_array_get(j, i));
    return list;
}

static struct attachment attachment_of(const json_t *j) {
    struct str disposition = member(j, "disposition");
    bool is_inline = str_is_absent(disposition) ? !str_is_absent(member(j, "cid"))
                                                : str_equal(disposition, STR("inline"));
    struct attachment a = {.filename = member(j, "filename"),
                           .content_type = member(j, "type"),
                           .content = member(j, "text"),
                           .cid = member(j, "cid"),
                           .is_inline = is_inline};
    struct str base64 = member(j, "content");
    if (!str_is_absent(base64)) {
        struct buf b = BUF_INIT(1 << 20);
        assert_int_equal(base64_decode(base64, &b), OK);
        a.content = arena_dup(arena, buf_str(&b));
        buf_release(&b);
    }
    return a;
}

static struct str *strings_of(const json_t *j, size_t *count) {
    *count = json_array_size(j);
    struct str *list = ARENA_ARRAY(arena, struct str, *count + 1);
    for (size_t i = 0; i < *count; i++)
        list[i] = text_of(json_array_get(j, i));
    return list;
}

static struct submission submission_of(json_t *j) {
    struct submission s = {.from = address_of(json_object_get(j, "from")),
                           .sender = address_of(json_object_get(j, "sender")),
                           .to = addresses_of(json_object_get(j, "to")),
                           .cc = addresses_of(json_object_get(j, "cc")),
                           .bcc = addresses_of(json_object_get(j, "bcc")),
                           .reply_to = addresses_of(json_object_get(j, "reply_to")),
                           .subject = member(j, "subject"),
                           .text = member(j, "text"),
                           .html = member(j, "html"),
                           .in_reply_to = member(j, "in_reply_to")};
    s.references = strings_of(json_object_get(j, "references"), &s.reference_count);
    json_t *list = json_object_get(j, "attachments"), *value;
    const char *key;
    s.attachment_count = json_array_size(list);
    s.attachments = ARENA_ARRAY(arena, struct attachment, s.attachment_count + 1);
    for (size_t i = 0; i < s.attachment_count; i++)
        s.attachments[i] = attachment_of(json_array_get(list, i));
    list = json_object_get(j, "headers");
    s.headers = ARENA_ARRAY(arena, struct header_field, json_object_size(list) + 1);
    json_object_foreach(list, key, value) {
        s.headers[s.header_count].name = arena_dup(arena, str_of(key));
        s.headers[s.header_count++].value = text_of(value);
    }
    return s;
}

static void read_file(const char *path, struct buf *out) {
    char block[4096];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is missing", path);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        buf_put(out, str_make(block, n));
    fclose(f);
}

static void compare(const char *name, struct str got) {
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s.eml", name);
    if (getenv("POSTCHUTE_GOLDEN_WRITE")) {
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(got.p, 1, got.n, f), got.n);
        assert_int_equal(fclose(f), 0);
        return;
    }
    struct buf want = BUF_INIT(4 << 20);
    read_file(path, &want);
    if (!str_equal(got, buf_str(&want))) {
        size_t at = 0, line = 1;
        for (; at < got.n && at < want.n && got.p[at] == want.p[at]; at++)
            line += got.p[at] == '\n';
        fail_msg("%s: other bytes from line %zu (octet %zu): '%.60s', not '%.60s'", path, line, at,
                 got.p + at, want.p + at);
    }
    buf_release(&want);
}

static void compose_one(const char *name) {
    char path[512];
    json_error_t error;
    struct errinfo info = {0};
    struct faults faults;
    struct composed c;
    struct submission_limits limits = {.recipients_max = 50, .message_bytes_max = LIMIT_MESSAGE};
    snprintf(path, sizeof path, FOLDER "%s.json", name);
    json_t *j = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!j)
        fail_msg("%s: line %d: %s", path, error.line, error.text);
    struct submission s = submission_of(j);
    faults_init(&faults, arena);
    submission_check(&s, &limits, &faults);
    if (faults.count > 0)
        fail_msg("%s: %.*s: %.*s", path, STR_ARG(faults.list[0].pointer),
                 STR_ARG(faults.list[0].detail));
    struct compose_input in = {
        .submission = &s, .seed = "golden messages", .message_bytes_max = LIMIT_MESSAGE};
    assert_int_equal(id_parse(STR("0193f3a2-7c4e-7aaa-8bbb-0123456789ab"), &in.id), OK);
    assert_int_equal(clock_parse_rfc3339(STR("2026-01-31T12:00:00Z"), &in.date_wall_ms), OK);
    if (compose(&in, &c, &info) != OK)
        fail_msg("%s: %s", path, info.text);
    assert_int_equal(c.needs_smtputf8, json_is_true(json_object_get(j, "needs_smtputf8")));
    compare(name, message_bytes(c.message).piece[1]);
    message_unref(&c.message);
    json_decref(j);
}

static int is_json(const struct dirent *d) {
    return str_ends_with(str_of(d->d_name), STR(".json"));
}

static void composed_bytes_are_the_golden_ones(void **state) {
    (void)state;
    struct dirent **list = NULL;
    int count = scandir(FOLDER, &list, is_json, alphasort);
    if (count < 10)
        fail_msg("%d golden messages in " FOLDER ": run from the root of the tree", count);
    for (int i = 0; i < count; i++) {
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)strlen(list[i]->d_name) - 5, list[i]->d_name);
        arena = arena_new();
        compose_one(name);
        arena_free(&arena);
        free(list[i]);
    }
    free(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(composed_bytes_are_the_golden_ones)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
