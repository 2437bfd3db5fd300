/* The words of `postchute send`, one a line: they are options and values or are refused, and what
 * is made of them is a message in JSON that the API's own reader takes apart. Options that name a
 * file are left out. */
#include <stdlib.h>

#include "api/v1/submission.h"
#include "server/cli/send_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS_MAX = 24 };

static bool reads_files(const struct options *o) {
    static const char *const names[] = {"file", "text-file", "html-file", "attach"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (options_has(o, names[i]))
            return true;
    return o->word_count > 0;
}

static void check_options(const struct options *o, int argc) {
    ASSERT(o->value_count + o->word_count <= (size_t)argc);
    for (size_t i = 0; i < o->value_count; i++) {
        const struct option_spec *s = o->value[i].spec;
        ASSERT(s->kind != OPTION_FLAG || !o->value[i].text);
        ASSERT(s->kind != OPTION_TEXT || o->value[i].text);
    }
}

static void check_body(const json_t *sent) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct faults faults;
    struct submission s = {0};
    struct errinfo info = {0};
    struct json_node *root = NULL;
    char *text = json_dumps(sent, JSON_COMPACT);
    ASSERT(text);
    struct buf body = {.p = text, .n = strlen(text)};
    faults_init(&faults, a);
    if (json_body_parse(&body, a, &root, &info) == OK)
        v1_submission_read(root, &faults, &s);
    else
        ASSERT(info.text[0] != '\0');
    for (size_t i = 0; i < faults.count && i < LIMIT_FAULTS; i++)
        ASSERT(str_starts_with(faults.list[i].pointer, STR("#")));
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    char *argv[WORDS_MAX + 1] = {NULL};
    int argc = 0;
    for (struct str rest = str_make(data, size); !str_is_absent(rest) && argc < WORDS_MAX;) {
        struct str word = str_split(&rest, '\n');
        argv[argc++] = arena_dupz(a, str_find_char(word, '\0') < 0 ? word : STR(""));
    }
    struct options o;
    struct errinfo info = {0};
    int64_t tries;
    if (options_parse(send_options, SEND_OPTION_COUNT, argc, argv, &o, &info) == OK) {
        check_options(&o, argc);
        json_t *body = NULL;
        if (options_number(&o, "tries", 1, 100, 5, &tries, &info) == OK)
            ASSERT(tries >= 1 && tries <= 100);
        if (!reads_files(&o)) {
            if (send_body(&o, &body, &info) == OK) {
                ASSERT(json_is_object(body));
                check_body(body);
                json_decref(body);
            } else {
                ASSERT(!body && info.text[0] != '\0');
            }
        }
    } else {
        ASSERT(info.text[0] != '\0');
    }
    options_release(&o);
    return 0;
}
