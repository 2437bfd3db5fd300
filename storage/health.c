/* What store_health() shows, kept by the committer. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "server/base/log.h"
#include "server/base/metrics.h"
#include "storage/store_ops.h"

struct health {
    const char *folder; /* the options'; NULL: none */
    struct watch_list *watches;
    struct metric *writable;
    struct {
        pthread_mutex_t mu;
        struct store_health now;
        bool is_below_floor;
    } shared;
};

struct health *health_new(const char *folder, struct watch_list *w) {
    struct health *h = mem_zalloc(sizeof(*h));
    h->folder = folder;
    h->watches = w;
    h->writable = metric_gauge("postchute_store_writable", "1 while messages can be stored.");
    NEED(pthread_mutex_init(&h->shared.mu, NULL) == 0);
    h->shared.now.is_writable = true;
    snprintf(h->shared.now.text, sizeof(h->shared.now.text), "ready");
    metric_set(h->writable, 1);
    health_refresh_disk(h);
    return h;
}

void health_free(struct health **hp) {
    struct health *h = *hp;
    *hp = NULL;
    pthread_mutex_destroy(&h->shared.mu);
    free(h);
}

struct store_health health_get(struct health *h) {
    pthread_mutex_lock(&h->shared.mu);
    struct store_health now = h->shared.now;
    pthread_mutex_unlock(&h->shared.mu);
    return now;
}

void health_set(struct health *h, bool is_writable, const char *text) {
    pthread_mutex_lock(&h->shared.mu);
    bool changed = h->shared.now.is_writable != is_writable;
    h->shared.now.is_writable = is_writable;
    snprintf(h->shared.now.text, sizeof(h->shared.now.text), "%s", text);
    pthread_mutex_unlock(&h->shared.mu);
    metric_set(h->writable, is_writable);
    if (!changed)
        return;
    if (is_writable)
        log_info("storage", "the store is writable again");
    else
        log_error("storage", "the store is not writable", LOG_STRZ("reason", text));
    watch_list_tell(h->watches, NOTICE_HEALTH);
}

/* One line for each time that the floor is crossed, whichever of the two has moved. */
static void set_disk(struct health *h, const int64_t *free_bytes, const int64_t *floor_bytes) {
    pthread_mutex_lock(&h->shared.mu);
    if (free_bytes != NULL)
        h->shared.now.disk_free_bytes = *free_bytes;
    if (floor_bytes != NULL)
        h->shared.now.disk_floor_bytes = *floor_bytes;
    struct store_health now = h->shared.now;
    bool is_below = now.disk_free_bytes < now.disk_floor_bytes;
    bool crossed = h->shared.is_below_floor != is_below;
    h->shared.is_below_floor = is_below;
    pthread_mutex_unlock(&h->shared.mu);
    if (crossed && is_below)
        log_warn("storage", "the disk has less room than disk_floor: nothing new is accepted",
                 LOG_INT("free_mib", now.disk_free_bytes >> 20),
                 LOG_INT("disk_floor_mib", now.disk_floor_bytes >> 20));
    else if (crossed)
        log_info("storage", "the disk has room again, as disk_floor wants it",
                 LOG_INT("free_mib", now.disk_free_bytes >> 20),
                 LOG_INT("disk_floor_mib", now.disk_floor_bytes >> 20));
}

void health_set_floor(struct health *h, int64_t bytes) {
    set_disk(h, NULL, &bytes);
}

void health_refresh_disk(struct health *h) {
    int64_t free_bytes = INT64_MAX;
    struct statvfs v;
    if (h->folder != NULL && statvfs(h->folder, &v) == 0)
        free_bytes = (int64_t)((uint64_t)v.f_bavail * v.f_frsize);
    set_disk(h, &free_bytes, NULL);
}
