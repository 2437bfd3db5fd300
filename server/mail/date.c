#include "server/mail/date.h"

#include "server/base/clock.h"

void date_print(int64_t wall_ms, char out[DATE_SIZE]) {
    static const char day[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char month[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct civil_time t = clock_civil(wall_ms);
    ASSERT(t.year >= 1970 && t.year <= 9999);
    ASSERT(t.month >= 1 && t.month <= 12 && t.weekday >= 0 && t.weekday <= 6);
    int n = snprintf(out, DATE_SIZE, "%s, %d %s %04d %02d:%02d:%02d +0000", day[t.weekday], t.day,
                     month[t.month - 1], t.year, t.hour, t.minute, t.second);
    ASSERT(n > 0 && n < DATE_SIZE);
}
