/* address, domain, media type, message id: what is accepted prints to a form that parses to itself,
 * and holds nothing that a command or a header could break at (T4, T5). */
#include <stdlib.h>

#include "server/mail/address.h"
#include "server/mail/domain.h"
#include "server/mail/field.h"
#include "server/mail/header.h"
#include "server/mail/mime.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = str_make(data, size);
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct address first, second;
    struct str domain, again;
    struct mime_type type;

    if (address_parse_named(&first, text, a, NULL) == OK) {
        must(address_parse(&second, first.email, a, NULL) == OK);
        must(str_equal(first.email, second.email) && address_equal(&first, &second));
        for (size_t i = 0; i < first.email.n; i++) {
            unsigned char c = (unsigned char)first.email.p[i];
            must(c > 0x20 && c != 0x7f && c != '<' && c != '>');
        }
        must(first.is_utf8_local == !str_is_ascii(first.email));
        must(header_text_check(first.name, false) == HEADER_TEXT_OK);
        struct buf out = BUF_INIT(16 * 1024);
        struct header_writer w = HEADER_WRITER(&out);
        header_begin(&w, STR("To"));
        header_put_mailbox(&w, &first, false);
        header_end(&w);
        must(header_status(&w) == OK);
        buf_release(&out);
    }
    if (domain_parse(text, true, a, &domain, NULL) == OK) {
        must(domain_parse(domain, true, a, &again, NULL) == OK && str_equal(domain, again));
        must(domain_to_unicode(domain, a).n > 0);
        must(domain_is_within(domain, domain) && !domain_is_within(domain, STR("other.example")));
    }
    if (domain_parse_selector(text, a, &domain, NULL) == OK) {
        must(domain_parse_selector(domain, a, &again, NULL) == OK && str_equal(domain, again));
        must(str_is_ascii(domain) && !str_has_control(domain, false));
        must(str_find_char(domain, ';') < 0 && str_find_char(domain, ' ') < 0);
    }
    if (mime_type_parse(text, &type, NULL) == OK)
        must(str_is_ascii(text) && !str_has_control(text, false));
    if (field_is_message_id(text))
        must(str_is_ascii(text) && !str_has_control(text, false));
    return 0;
}
