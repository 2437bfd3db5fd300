/* httpc_failure: why a transfer of libcurl failed, in the language of net. For httpc and httpc_sync
 * only. Thread: any. */
#pragma once

#include "server/mail/outcome.h"

/* `easy` (a CURL *) is the transfer that ended with `code` (a CURLcode). A timeout is
 * CONNECT_TIMEOUT until a connection stood, then TIMEOUT. */
enum failure httpc_failure_of(void *easy, int code);
