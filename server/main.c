/* main: which command was asked for. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 2 && (strcmp(argv[1], "version") == 0 || strcmp(argv[1], "--version") == 0)) {
        puts("postchute " POSTCHUTE_VERSION);
        return 0;
    }
    fputs("usage: postchute version\n", stderr);
    return 2;
}
