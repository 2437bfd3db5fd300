/* v1: the handlers of the native API, one file per resource; the table of api/routes.c says which
 * path leads to which. Each has a request that is complete and admitted (api/request.h) and ends in
 * request_finish(). Thread: the request's loop. */
#pragma once

#include "api/request.h"

/* send.c */
void v1_send(struct request *r);
