#include "server/base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t clock_us(clockid_t which) {
    struct timespec now;
    ASSERT(clock_gettime(which, &now) == 0);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_wall_ms(void) {
    return clock_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_mono_ms(void) {
    return clock_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_mono_us(void) {
    return clock_us(CLOCK_MONOTONIC);
}

int64_t clock_boot_ms(void) {
    return clock_us(CLOCK_BOOTTIME) / 1000;
}

struct civil_time clock_civil(int64_t wall_ms) {
    /* Downwards, also before 1970. */
    time_t seconds = (time_t)(wall_ms / 1000 - (wall_ms % 1000 < 0));
    struct tm tm;
    ASSERT(gmtime_r(&seconds, &tm) != NULL);
    return (struct civil_time){
        .year = tm.tm_year + 1900,
        .month = tm.tm_mon + 1,
        .day = tm.tm_mday,
        .hour = tm.tm_hour,
        .minute = tm.tm_min,
        .second = tm.tm_sec,
        .weekday = tm.tm_wday,
    };
}

char *clock_put_digits(char *p, int value, int digits) {
    for (int i = digits - 1; i >= 0; i--) {
        p[i] = (char)('0' + value % 10);
        value /= 10;
    }
    return p + digits;
}

void clock_print_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE]) {
    ASSERT(wall_ms >= 0 && wall_ms <= CLOCK_LAST_WALL_MS);
    struct civil_time t = clock_civil(wall_ms);
    const struct {
        int value, digits;
        char then;
    } part[] = {{t.year, 4, '-'},
                {t.month, 2, '-'},
                {t.day, 2, 'T'},
                {t.hour, 2, ':'},
                {t.minute, 2, ':'},
                {t.second, 2, '.'},
                {(int)(wall_ms % 1000), 3, 'Z'}};
    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
        out = clock_put_digits(out, part[i].value, part[i].digits);
        *out++ = part[i].then;
    }
    *out = '\0';
}

/* Takes exactly `digits` digits with a value in low..high off the front. */
static bool take_number(struct str *s, size_t digits, int low, int high, int *out) {
    uint64_t v;
    if (s->n < digits || str_parse_u64(str_slice(*s, 0, digits), (uint64_t)high, &v) != OK ||
        (int)v < low)
        return false;
    *out = (int)v;
    *s = str_from(*s, digits);
    return true;
}

static bool take_char(struct str *s, char lower) {
    if (s->n == 0 || ascii_lower(s->p[0]) != lower)
        return false;
    *s = str_from(*s, 1);
    return true;
}

/* ".123456": any number of digits, at least one; milliseconds, cut. */
static bool take_fraction(struct str *s, int *ms) {
    *ms = 0;
    if (!take_char(s, '.'))
        return true;
    int weight = 100;
    size_t digits = 0;
    for (; s->n > 0 && ascii_is_digit(s->p[0]); *s = str_from(*s, 1), digits++, weight /= 10)
        *ms += (s->p[0] - '0') * weight;
    return digits > 0;
}

/* "Z", "+02:00", "-05:30" (RFC 3339 4.3: "-00:00" is UTC too). */
static bool take_offset(struct str *s, int *minutes) {
    *minutes = 0;
    if (take_char(s, 'z'))
        return true;
    int sign = take_char(s, '+') ? 1 : take_char(s, '-') ? -1 : 0;
    int hours, rest;
    if (sign == 0 || !take_number(s, 2, 0, 23, &hours) || !take_char(s, ':') ||
        !take_number(s, 2, 0, 59, &rest))
        return false;
    *minutes = sign * (hours * 60 + rest);
    return true;
}

static int days_of_month(int year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

enum err clock_parse_rfc3339(struct str s, int64_t *wall_ms) {
    int year, month, day, hour, minute, second, ms, offset;
    if (!take_number(&s, 4, 0, 9999, &year) || !take_char(&s, '-') ||
        !take_number(&s, 2, 1, 12, &month) || !take_char(&s, '-') ||
        !take_number(&s, 2, 1, days_of_month(year, month), &day) || !take_char(&s, 't') ||
        !take_number(&s, 2, 0, 23, &hour) || !take_char(&s, ':') ||
        !take_number(&s, 2, 0, 59, &minute) || !take_char(&s, ':') ||
        !take_number(&s, 2, 0, 60, &second) || !take_fraction(&s, &ms) ||
        !take_offset(&s, &offset) || s.n > 0)
        return ERR_INVALID;
    struct tm tm = {.tm_year = year - 1900,
                    .tm_mon = month - 1,
                    .tm_mday = day,
                    .tm_hour = hour,
                    .tm_min = minute,
                    .tm_sec = second};
    int64_t at = (int64_t)timegm(&tm) - (int64_t)offset * 60;
    /* A leap second ends a day of UTC (RFC 3339 5.7); it is taken for the second after it. */
    if (second == 60 && at % 86400 != 0)
        return ERR_INVALID;
    at = at * 1000 + ms;
    if (at < 0 || at > CLOCK_LAST_WALL_MS)
        return ERR_INVALID;
    *wall_ms = at;
    return OK;
}
