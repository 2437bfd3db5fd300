/* What parses prints, and what is printed parses to the same. */
#include "server/net/sockaddr.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n) {
    struct sockaddr_any a, b;
    char ip[SOCKADDR_TEXT_SIZE], full[SOCKADDR_TEXT_SIZE];
    char *text = mem_dup(data, n + (n == 0));
    if (sockaddr_parse(str_make(text, n), 25, &a) == OK) {
        sockaddr_print_ip(&a, ip);
        sockaddr_print(&a, full);
        ASSERT(ip[0] != 0 && strlen(full) > strlen(ip));
        ASSERT(sockaddr_parse(str_of(ip), 25, &b) == OK);
        ASSERT(sockaddr_equal(&a, &b));
        const struct sockaddr_any none = {0}, other = {.len = 1};
        ASSERT(!sockaddr_equal(&a, &none) && !sockaddr_equal(&none, &b) &&
               !sockaddr_equal(&a, &other));
        ASSERT(sockaddr_port(&a) == 25 && sockaddr_port(&none) == 0);
        sockaddr_set_port(&b, 26);
        ASSERT(!sockaddr_equal(&a, &b));
    } else {
        ASSERT(a.len == 0);
    }
    free(text);
    return 0;
}
