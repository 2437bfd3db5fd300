/* banned: functions that cannot be used safely, as compile errors. Included on the command line of
 * every unit, so before anything else.
 *
 * Each name becomes a macro that expands to an identifier which nobody declares and which says what
 * to use instead. (Not `#pragma GCC poison`: clang refuses to poison what the C library's own
 * headers define as a macro, as fortified headers do with sprintf.) */
#pragma once

/* Their real declarations must be read before the names are taken away. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#undef strcpy
#undef strcat
#undef strncat
#undef stpcpy
#undef sprintf
#undef vsprintf
#undef strtok
#undef atoi
#undef atol
#undef atoll
#undef gmtime
#undef localtime
#undef ctime
#undef asctime

#define strcpy(...) banned_strcpy__use_buf_put_or_arena_dup
#define strcat(...) banned_strcat__use_buf_put
#define strncat(...) banned_strncat__use_buf_put
#define stpcpy(...) banned_stpcpy__use_buf_put
#define sprintf(...) banned_sprintf__use_buf_printf_or_snprintf
#define vsprintf(...) banned_vsprintf__use_buf_printf_or_vsnprintf
#define strtok(...) banned_strtok__use_str_split
#define atoi(...) banned_atoi__use_str_parse_u64
#define atol(...) banned_atol__use_str_parse_u64
#define atoll(...) banned_atoll__use_str_parse_u64
#define gmtime(...) banned_gmtime__use_clock_civil
#define localtime(...) banned_localtime__use_clock_civil
#define ctime(...) banned_ctime__use_clock_print_rfc3339
#define asctime(...) banned_asctime__use_clock_print_rfc3339
