#include "server/mail/date.h"

#include "server/base/clock.h"

static char *put_name(char *p, const char *name) {
    while (*name)
        *p++ = *name++;
    return p;
}

void date_print(int64_t wall_ms, char out[DATE_SIZE]) {
    static const char day[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char month[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct civil_time t = clock_civil(wall_ms);
    ASSERT(t.year >= 1970 && t.year <= 9999);
    ASSERT(t.month >= 1 && t.month <= 12 && t.weekday >= 0 && t.weekday <= 6);
    char *p = out; /* each message has one: printf takes a microsecond */
    p = put_name(p, day[t.weekday]);
    *p++ = ',';
    *p++ = ' ';
    p = clock_put_digits(p, t.day, t.day < 10 ? 1 : 2);
    *p++ = ' ';
    p = put_name(p, month[t.month - 1]);
    *p++ = ' ';
    p = clock_put_digits(p, t.year, 4);
    *p++ = ' ';
    p = clock_put_digits(p, t.hour, 2);
    *p++ = ':';
    p = clock_put_digits(p, t.minute, 2);
    *p++ = ':';
    p = clock_put_digits(p, t.second, 2);
    memcpy(p, " +0000", 7);
}
