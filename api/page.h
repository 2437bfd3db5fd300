/* page: how listings are walked: `limit` and the opaque cursor `after`.
 *
 * A cursor says which listing it belongs to and where it stopped; one of another listing, or one
 * that was made up, is refused. What it names needs no secret: the caller's rights are checked with
 * every page.
 *
 *     struct page page;
 *     page_read(r, PAGE_MESSAGES, &page);           // faults are added to the request's
 *     ...
 *     page_json(list, more ? page_print(PAGE_MESSAGES, &mark, r->arena) : STR_NONE)
 *
 * Thread: the request's loop.
 */
#pragma once

#include "api/request.h"

enum page_kind {
    PAGE_MESSAGES = 'm',
    PAGE_EVENTS = 'e',
    PAGE_DELIVERIES = 'd',
    PAGE_CAPTURES = 'c',
    PAGE_ATTEMPTS = 'a',
    PAGE_KEYS = 'k',
    PAGE_DOMAINS = 'o'
};

/* Where a page ended. */
struct page_mark {
    int64_t seq; /* or, of captures, keys and domains: */
    struct id id;
};
struct page {
    size_t limit;
    bool has_after;
    struct page_mark after;
};

enum { PAGE_DEFAULT = 25 };

/* Sets memory aside for a page of rows, before they are read: each may have so many recipients.
 * false: there is none; the problem is set. */
bool page_set_aside(struct request *r, const struct page *page, size_t recipients);
/* Reads `limit` and `after` of the query; what is wrong becomes a fault. */
void page_read(struct request *r, enum page_kind kind, struct page *out);
struct str page_print(enum page_kind kind, const struct page_mark *mark, struct arena *a);
NODISCARD enum err page_parse(struct str text, enum page_kind kind, struct page_mark *out);
/* {"data": [...], "after": "..." or null}; takes `list`. */
json_t *page_json(json_t *list, struct str after);
