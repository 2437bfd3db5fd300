#include "server/base/doubt.h"

void doubt_look(struct doubt *d, int64_t wall_ms, int64_t boot_ms, struct doubt_view *out) {
    int64_t offset_ms = wall_ms - boot_ms;
    int64_t jumped_ms = d->is_begun ? offset_ms - d->offset_ms : 0;
    if (jumped_ms <= DOUBT_JUMP_MS && jumped_ms >= -DOUBT_JUMP_MS)
        jumped_ms = 0;
    if (!d->is_begun || jumped_ms != 0 || boot_ms - d->boot_ms >= DOUBT_OVER_MS) {
        d->offset_ms = offset_ms;
        d->boot_ms = boot_ms;
    }
    if (!d->is_begun || jumped_ms != 0)
        d->until_boot_ms = boot_ms + DOUBT_MS;
    d->is_begun = true;
    d->ahead_ms += jumped_ms;
    /* Set back further than it had jumped ahead: that is the time now. */
    if (d->ahead_ms < 0 || boot_ms >= d->until_boot_ms)
        d->ahead_ms = 0;
    *out = (struct doubt_view){.wall_ms = wall_ms - d->ahead_ms,
                               .jumped_ms = jumped_ms,
                               .is_settled = boot_ms >= d->until_boot_ms};
}
