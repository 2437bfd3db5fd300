/* date: the Date field's text (RFC 5322 3.3), always UTC written as "+0000". Thread: any. */
#pragma once

#include <stdint.h>

enum { DATE_SIZE = 32 };
/* "Sat, 31 Jan 2026 12:00:00 +0000" plus NUL. Years 1970..9999; ASSERTs otherwise. */
void date_print(int64_t wall_ms, char out[DATE_SIZE]);
