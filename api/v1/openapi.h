/* openapi: the contract (openapi/postchute.yaml) as the JSON that /openapi.json serves. The text is
 * made from the YAML by openapi/embed and is part of the binary. Thread: any. */
#pragma once

#include "server/base/str.h"

struct str openapi_json(void); /* static storage */
