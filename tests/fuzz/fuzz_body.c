/* T1: any octets as a message, cut into prefix and rest anywhere, are refused or become a stream
 * that ends once, at its end. */
#include <stdint.h>

#include "server/smtp/body.h"
#include "server/smtp/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_wire(struct str wire) {
    size_t line = 0, ends = 0;
    for (size_t i = 0; i < wire.n; i++) {
        ASSERT(wire.p[i] != '\0' && wire.p[i] != '\n');
        if (wire.p[i] != '\r')
            continue;
        ASSERT(i + 1 < wire.n && wire.p[i + 1] == '\n');
        ASSERT(i - line <= 999);
        ends += i - line == 1 && wire.p[line] == '.';
        line = i + 2;
        i++;
    }
    ASSERT(line == wire.n && ends == 1);
    ASSERT(str_ends_with(wire, STR(".\r\n")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3)
        return 0;
    size_t max = 8 + data[0];
    struct str all = str_make(data + 3, size - 3);
    size_t at = ((size_t)data[1] << 8 | data[2]) % (all.n + 1);
    struct message_pieces m = {{str_slice(all, 0, at), str_from(all, at)}};
    bool is_8bit;
    if (body_check(m, &is_8bit, NULL) != OK)
        return 0;
    static struct buf wire = BUF_INIT(4 * 1024 * 1024), got = BUF_INIT(4 * 1024 * 1024);
    buf_clear(&wire);
    buf_clear(&got);
    struct body b;
    struct str piece;
    body_init(&b, m);
    while (body_next(&b, max, &piece)) {
        ASSERT(piece.n > 0 && piece.n <= max);
        buf_put(&wire, piece);
    }
    check_wire(buf_str(&wire));
    struct data_reader reader;
    struct str in = buf_str(&wire);
    data_init(&reader);
    ASSERT(data_read(&reader, &in, &got) == OK && in.n == 0);
    ASSERT(got.n == all.n || got.n == all.n + 2);
    ASSERT(memcmp(got.p ? got.p : "", all.p, all.n) == 0);
    struct str chunk[BODY_CHUNK_PIECES];
    size_t octets = body_chunk(m, chunk);
    buf_clear(&wire);
    for (size_t i = 0; i < BODY_CHUNK_PIECES; i++)
        buf_put(&wire, chunk[i]);
    ASSERT(wire.n == octets && octets == (all.n == 0 ? 0 : got.n));
    ASSERT(octets == 0 || memcmp(wire.p, got.p, octets) == 0);
    return 0;
}
