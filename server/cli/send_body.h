/* send_body: the JSON of a submission from the options of `postchute send`. Thread: main. */
#pragma once

#include <jansson.h>

#include "server/cli/options.h"

enum { SEND_OPTION_COUNT = 26 };
extern const struct option_spec send_options[SEND_OPTION_COUNT];

/* What a JSON file (--file, or the word `-`: standard input) holds, with the options set over it.
 * *out: one reference, the caller's. ERR_INVALID: info->field is the option. */
NODISCARD enum err send_body(const struct options *o, json_t **out, struct errinfo *info);
/* A whole file; "-" is standard input. Release `out` in any case. */
NODISCARD enum err send_read(const char *path, const char *option, struct buf *out,
                             struct errinfo *info);
