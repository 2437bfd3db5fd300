/* Replies in any cut: the parser, what EHLO offers, the verdict. The first octet says where the
 * input is cut; two cuts must give the same replies. */
#include <stdint.h>

#include "server/base/limits.h"
#include "server/mail/outcome.h"
#include "server/smtp/capability.h"
#include "server/smtp/transcript.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(const struct reply *r, struct buf *seen) {
    buf_put(seen, str_make(&r->code, sizeof r->code));
    buf_put(seen, str_make(&r->line_count, sizeof r->line_count));
    buf_put(seen, str_make(&r->enhanced, sizeof r->enhanced));
    buf_put(seen, r->text);
}

static void look_at(const struct reply *r) {
    ASSERT(r->code >= 200 && r->code <= 599);
    ASSERT(str_is_utf8(r->text));
    ASSERT(r->enhanced.class_ == 0 || r->enhanced.class_ == r->code / 100);
    size_t lines = 1;
    for (size_t i = 0; i < r->text.n; i++) {
        lines += r->text.p[i] == '\n';
        ASSERT(r->text.p[i] == '\n' || (unsigned char)r->text.p[i] >= 0x20);
    }
    ASSERT(lines == r->line_count);
}

/* What is done with each reply besides. */
typedef void (*use_fn)(void *context, const struct reply *r);

static void run(struct str in, size_t step, struct buf *seen, use_fn use, void *context) {
    struct reply_parser *p = reply_parser_new();
    enum err e = ERR_AGAIN;
    while (in.n > 0 && (e == OK || e == ERR_AGAIN)) {
        struct str piece = str_slice(in, 0, in.n < step ? in.n : step);
        size_t before = piece.n;
        struct reply r;
        e = reply_parse(p, &piece, &r, NULL);
        in = str_from(in, before - piece.n);
        if (e == OK)
            note(&r, seen);
        if (e == OK && use)
            use(context, &r);
    }
    buf_putc(seen, (char)e);
    reply_parser_free(&p);
}

/* At one stage. */
static void judge_one(const struct reply *r, enum stage stage, uint8_t flags) {
    struct outcome_input o = {.stage = stage,
                              .reply = r,
                              .is_smarthost = flags & 1,
                              .is_last_host = flags & 2,
                              .is_every_host = flags & 16,
                              .has_other_source = flags & 4,
                              .rcpt_accepted_before = flags >> 7};
    struct verdict v = outcome_judge(&o);
    ASSERT((v.action == VERDICT_DELIVERED) == (r->code / 100 == 2 && stage == STAGE_END));
    ASSERT(!v.is_hard || v.action == VERDICT_BOUNCED);
    ASSERT(!v.try_next_host || !o.is_last_host);
}

/* What ends a stage without a reply. */
static void judge_failure(size_t chosen, uint8_t flags) {
    struct outcome_input o = {.stage = (enum stage)(flags % STAGE_COUNT),
                              .failure = (enum failure)(1 + chosen % (FAILURE_COUNT - 1)),
                              .is_smarthost = flags & 1,
                              .is_last_host = flags & 2,
                              .is_every_host = flags & 16,
                              .earlier_nxdomain = flags & 8 ? 1 : 0};
    struct verdict v = outcome_judge(&o);
    char code[16];
    ASSERT(v.action != VERDICT_DELIVERED && (!v.try_next_host || !o.is_last_host));
    ASSERT(failure_name(o.failure)[0] != '\0' && failure_text(o.failure)[0] != '\0');
    failure_print_enhanced(o.failure, v.action != VERDICT_DEFERRED, code);
    ASSERT(code[0] == '\0' || code[0] == (v.action == VERDICT_DEFERRED ? '4' : '5'));
}

struct judging {
    struct transcript t;
    uint8_t flags;
    size_t filled; /* of the transcript, with nothing that is looked at */
    size_t count, refusals, refusals_max;
};

static void judge(void *context, const struct reply *r) {
    struct judging *j = context;
    look_at(r);
    (void)capability_parse(r);
    transcript_client(&j->t, STR("RCPT TO:<a@b.example>"));
    transcript_server(&j->t, r);
    if (r->code < 400 || j->refusals++ < j->refusals_max)
        judge_one(r, (enum stage)((j->flags + j->count) % STAGE_COUNT), j->flags);
    j->count++;
}

/* A verdict remembers nothing, but all the rules that a refusal is held against take longer than
 * the rest together: of most inputs the first two are judged, of each eighth all. */
static struct judging judging_new(uint8_t flags, size_t size) {
    struct judging j = {.flags = flags, .refusals_max = size % 8 == 0 ? SIZE_MAX : 2};
    transcript_init(&j.t, true);
    if (flags >= 0xfc && size % 4 == 0) { /* nearly full; not often, for it takes long */
        static char much[16 * 1024];
        if (much[0] == '\0')
            memset(much, 'x', sizeof much);
        transcript_client(&j.t, str_make(much, sizeof much));
        transcript_client(&j.t, str_make(much, sizeof much - 1500 + flags));
        j.filled = transcript_text(&j.t).n;
    }
    return j;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    struct str in = str_make(data + 1, size - 1);
    static struct buf whole = BUF_INIT(8 * 1024 * 1024), cut = BUF_INIT(8 * 1024 * 1024);
    buf_clear(&whole);
    buf_clear(&cut);
    struct judging j = judging_new(data[0], size);
    run(in, SIZE_MAX, &whole, judge, &j);
    ASSERT(transcript_text(&j.t).n <= LIMIT_TRANSCRIPT);
    ASSERT(str_is_utf8(str_from(transcript_text(&j.t), j.filled)));
    transcript_release(&j.t);
    if (1U + data[0] < in.n) { /* else there is one piece */
        run(in, 1U + data[0], &cut, NULL, NULL);
        ASSERT(str_equal(buf_str(&whole), buf_str(&cut)));
    }
    judge_failure(size, data[0]);
    return 0;
}
