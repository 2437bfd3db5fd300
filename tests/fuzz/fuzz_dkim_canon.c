/* dkim_canon: the canonical body does not depend on how the input is cut, is its own canonical
 * form, and the field cutter loses no octet. */
#include <stdlib.h>

#include "server/mail/dkim_canon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok)
        abort();
}

static void collect(void *context, struct str octets) {
    buf_put(context, octets);
}

static void canon(struct str body, size_t step, struct buf *out) {
    struct dkim_body_canon c = {.sink = collect, .context = out};
    while (body.n > 0) {
        size_t n = step < body.n ? step : body.n;
        dkim_body_canon_put(&c, str_slice(body, 0, n));
        body = str_from(body, n);
    }
    dkim_body_canon_finish(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = str_make(data, size), rest = text, field, name;
    static struct buf whole = BUF_INIT(1 << 24), cut = BUF_INIT(1 << 24), again = BUF_INIT(1 << 24);
    buf_clear(&whole);
    buf_clear(&cut);
    buf_clear(&again);
    canon(text, SIZE_MAX, &whole);
    canon(text, 1 + size % 7, &cut);
    canon(buf_str(&whole), SIZE_MAX, &again);
    must(str_equal(buf_str(&whole), buf_str(&cut)));
    must(str_equal(buf_str(&whole), buf_str(&again)));
    must(whole.n == 0 || str_ends_with(buf_str(&whole), STR("\r\n")));

    size_t seen = 0;
    while (dkim_next_field(&rest, &field, &name)) {
        must(field.n > 0);
        seen += field.n;
        buf_clear(&cut);
        dkim_header_canon(field, &cut);
        must(!memchr(cut.p, '\n', cut.n) && !memchr(cut.p, '\t', cut.n));
    }
    must(seen + rest.n == size);
    return 0;
}
