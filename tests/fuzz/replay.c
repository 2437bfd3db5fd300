/* In the place of libFuzzer: hands each file named (or each in a folder named) to the target once.
 * For measuring what a corpus reaches, and for a finding under a debugger. */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int one(const char *path, const struct stat *st, int kind, struct FTW *where) {
    (void)where;
    if (kind != FTW_F)
        return 0;
    size_t n = (size_t)st->st_size;
    uint8_t *bytes = malloc(n + 1);
    FILE *f = fopen(path, "rb");
    if (!f || !bytes || fread(bytes, 1, n, f) != n) {
        perror(path);
        return 1;
    }
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, n);
    free(bytes);
    return 0;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], one, 16, FTW_PHYS) != 0)
            return 1;
    }
    return 0;
}
