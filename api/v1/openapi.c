#include "api/v1/openapi.h"

static const char text[] =
#include "api/v1/openapi_json.inc"
    ;

struct str openapi_json(void) {
    return str_make(text, sizeof(text) - 1);
}
