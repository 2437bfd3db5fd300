/* Writes signed webhooks as JSON lines, for tests/e2e/verify_webhook.mjs:
 *
 *     tool_sign_webhook COUNT
 *
 * Events with texts of every kind, secrets of every length that is allowed, every third during a
 * rotation. */
#include <jansson.h>

#include "server/base/base64.h"
#include "server/base/clock.h"
#include "server/base/random.h"
#include "server/events/signature.h"
#include "server/render/event.h"

enum { BODY_MAX = 1 << 20 };

static void make_body(int64_t now, struct id id, struct buf *body) {
    static const char *const texts[] = {"plain", "gr\xC3\xBC\xC3\x9F \xE2\x9C\x93",
                                        "\"quoted\" \\ / \t", "not \xFF utf-8", ""};
    struct event_row e = {.id = id,
                          .type = EVENT_RECIPIENT_BOUNCED,
                          .wall_ms = now,
                          .message_id = id_new(now),
                          .email = STR("ann@example.net"),
                          .state = RECIPIENT_BOUNCED,
                          .recipient_seq = 2,
                          .attempt = 1};
    e.result = (struct last_result){.class_ = CLASS_INVALID_RECIPIENT,
                                    .stage = STAGE_RCPT,
                                    .code = 550,
                                    .text = str_of(texts[random_below(5)]),
                                    .mx = STR("mx.example.net")};
    render_event(&e, body);
}

static void make_secret(size_t bytes, struct buf *out) {
    uint8_t key[64];
    random_bytes(key, sizeof key);
    buf_putz(out, "whsec_");
    base64_encode(str_make(key, bytes), out);
}

int main(int argc, char **argv) {
    uint64_t count = 0;
    if (argc != 2 || str_parse_u64(str_of(argv[1]), 100000, &count) != OK)
        return 2;
    for (uint64_t i = 0; i < count; i++) {
        int64_t now = clock_wall_ms();
        struct id id = id_new(now);
        char id_text[ID_TEXT_SIZE], stamp[24];
        struct buf body = BUF_INIT(BODY_MAX), a = BUF_INIT(256), b = BUF_INIT(256),
                   signature = BUF_INIT(1024);
        id_print(&id, id_text);
        snprintf(stamp, sizeof stamp, "%lld", (long long)now / 1000);
        make_body(now, id, &body);
        make_secret(24 + i % 41, &a);
        make_secret(24 + i % 41, &b);
        struct str secrets[] = {buf_str(&a), buf_str(&b)};
        size_t used = i % 3 == 0 ? 2 : 1;
        if (signature_print(secrets, used, str_of(id_text), now / 1000, buf_str(&body),
                            &signature) != OK)
            return 1;
        json_t *line = json_pack("{s:{s:s,s:s,s:s},s:s%,s:[s]}", "headers", "webhook-id", id_text,
                                 "webhook-timestamp", stamp, "webhook-signature", signature.p,
                                 "body", body.p, body.n, "secrets", a.p);
        if (used == 2)
            json_array_append_new(json_object_get(line, "secrets"), json_string(b.p));
        json_dumpf(line, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(line);
        buf_release(&body);
        buf_release(&a);
        buf_release(&b);
        buf_release(&signature);
    }
    return 0;
}
