/* Smarthost URLs: no crash, and what is taken keeps its promises. */
#include "server/delivery/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct smarthost h;
    struct errinfo info = {0};
    if (smarthost_parse(str_make((const char *)data, size), &h, &info) != OK) {
        ASSERT(info.text[0] != '\0' && info.field[0] != '\0');
        return 0;
    }
    ASSERT(h.port != 0 && h.host[0] != '\0' && h.weight >= 1);
    ASSERT((h.user[0] == '\0') == (h.password[0] == '\0'));
    ASSERT(!str_has_control(str_of(h.user), false) && !str_has_control(str_of(h.password), false));
    if (h.user[0] != '\0' && h.tls != SESSION_TLS_VERIFY && h.tls != SESSION_TLS_IMPLICIT)
        ASSERT(h.insecure_auth);
    smarthost_wipe(&h);
    return 0;
}
