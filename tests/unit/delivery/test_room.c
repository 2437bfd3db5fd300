#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/delivery/letter.h"
#include "server/delivery/room.h"
#include "server/delivery/site.h"

enum { KIB = 1024, MOST = 1024 * KIB, SMALL = 4 * KIB, LARGE_MOST = MOST / 2, NOW = 1000000 };

/* A message for one site. */
struct asker {
    struct outgoing outgoing;
    struct letter letter;
    struct bundle bundle;
};

static struct asker *ask(const struct room *r, struct site *s, int64_t project, size_t size) {
    struct asker *a = mem_zalloc(sizeof(*a));
    a->outgoing = (struct outgoing){.project = project, .size_bytes = (int64_t)size};
    a->letter = (struct letter){.outgoing = &a->outgoing, .room = room_kind_of(r, size)};
    a->bundle = (struct bundle){.letter = &a->letter, .site = s};
    TAILQ_INIT(&a->letter.bundles);
    TAILQ_INSERT_TAIL(&a->letter.bundles, &a->bundle, of_letter);
    return a;
}

static bool has(struct room *r, struct asker *a, int64_t after_ms) {
    return room_has(r, &a->bundle, NOW + after_ms);
}

static void take(struct room *r, struct asker *a) {
    site_pick_slot(a->bundle.site, &a->bundle);
    room_taken(r, &a->bundle, NOW);
    a->letter.held_bytes = (size_t)a->outgoing.size_bytes;
    a->letter.state = LETTER_LOADING;
    room_add(r, a->letter.room, a->outgoing.project, a->letter.held_bytes);
}

static void give(struct room *r, struct asker *a) {
    site_give_slot(a->bundle.site, &a->bundle);
    room_given(r, &a->bundle);
    room_remove(r, a->letter.room, a->outgoing.project, a->letter.held_bytes);
    a->letter.held_bytes = 0;
    a->letter.state = LETTER_BARE;
}

static void end(struct room *r, struct asker *a) {
    if (a->bundle.has_slot)
        give(r, a);
    room_left(r, &a->bundle);
    free(a);
}

/* Takes as many as may be taken. */
static size_t fill(struct room *r, struct site *s, int64_t project, size_t size, struct asker **out,
                   size_t most) {
    size_t n = 0;
    while (n < most) {
        out[n] = ask(r, s, project, size);
        if (!has(r, out[n], 0)) {
            end(r, out[n]);
            return n;
        }
        take(r, out[n++]);
    }
    return n;
}

static void end_all(struct room *r, struct asker **a, size_t n) {
    while (n > 0)
        end(r, a[--n]);
}

static void each_size_has_its_kind(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    assert_int_equal(room_kind_of(r, 0), ROOM_SMALL);
    assert_int_equal(room_kind_of(r, SMALL), ROOM_SMALL);
    assert_int_equal(room_kind_of(r, SMALL + 1), ROOM_LARGE);
    assert_int_equal(room_kind_of(r, LARGE_MOST), ROOM_LARGE);
    assert_int_equal(room_kind_of(r, LARGE_MOST + 1), ROOM_APART);
    room_free(&r);
}

static void large_ones_take_nothing_from_small_ones_nor_small_ones_from_them(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[3] = {0};
    struct asker *large = ask(r, &site[0], 1, LARGE_MOST), *small[1000];
    assert_true(has(r, large, 0));
    take(r, large);
    struct asker *waits = ask(r, &site[1], 2, LARGE_MOST);
    assert_false(has(r, waits, 0));
    size_t n = fill(r, &site[2], 3, SMALL, small, 1000);
    assert_in_range(n, 10, 1000);
    end(r, large);
    assert_true(has(r, waits, 0));
    take(r, waits);
    assert_int_equal(room_bytes(r, ROOM_LARGE), LARGE_MOST);
    assert_int_equal(room_bytes(r, ROOM_SMALL), n * SMALL);
    end(r, waits);
    end_all(r, small, n);
    assert_int_equal(room_bytes(r, ROOM_SMALL), 0);
    room_free(&r);
}

/* What came with a notice, or is gone, needs none. */
static void who_needs_none_has_it(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site = {0};
    struct asker *full = ask(r, &site, 1, LARGE_MOST), *erased = ask(r, &site, 1, LARGE_MOST);
    take(r, full);
    assert_false(has(r, erased, 0));
    erased->letter.state = LETTER_ERASED;
    assert_true(has(r, erased, 0));
    end(r, erased);
    end(r, full);
    room_free(&r);
}

/* However many sites of a project hang, each next one finds some, until the rest is for projects
 * that hold nothing. */
static void a_site_and_a_project_leave_some_to_the_next(void **state) {
    (void)state;
    enum { SITES = 8, EACH = 300 };
    static const size_t sizes[] = {256, SMALL, 64 * KIB};
    for (size_t at = 0; at < sizeof(sizes) / sizeof(sizes[0]); at++) {
        size_t size = sizes[at];
        struct room *r = room_new(MOST);
        size_t most = room_kind_of(r, size) == ROOM_SMALL ? MOST / 2 : MOST;
        struct site site[SITES + 1] = {0};
        struct asker *held[SITES][EACH];
        size_t n[SITES], all = 0;
        for (int i = 0; i < SITES; i++) {
            n[i] = fill(r, &site[i], 1, size, held[i], EACH);
            all += n[i];
            assert_true(i == 0 || n[i] <= n[i - 1]);
        }
        assert_true(n[0] > 0 && n[1] > 0 && n[2] > 0);
        assert_true(n[0] * size <= most / 2);
        assert_true(all * size <= most - most / 8);
        struct asker *of_other = ask(r, &site[SITES], 2, size);
        assert_true(has(r, of_other, 0));
        end(r, of_other);
        for (int i = 0; i < SITES; i++)
            end_all(r, held[i], n[i]);
        room_free(&r);
    }
}

/* Else a stream of the smaller ones would keep the larger ones out. */
static void small_ones_are_all_the_same(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[2] = {0};
    struct asker *held[1000];
    size_t n = fill(r, &site[0], 1, SMALL, held, 1000);
    struct asker *tiny = ask(r, &site[0], 1, 256), *elsewhere = ask(r, &site[1], 1, SMALL);
    assert_false(has(r, tiny, 0));
    assert_true(has(r, elsewhere, 0));
    end(r, tiny);
    end(r, elsewhere);
    end_all(r, held, n);
    room_free(&r);
}

/* One message for many domains of a provider. */
static void who_needs_what_another_one_of_its_site_has_needs_no_more(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[2] = {0};
    struct asker *a = ask(r, &site[0], 1, LARGE_MOST);
    struct bundle second = {.letter = &a->letter, .site = &site[0]};
    struct bundle elsewhere = {.letter = &a->letter, .site = &site[1]};
    TAILQ_INSERT_TAIL(&a->letter.bundles, &second, of_letter);
    TAILQ_INSERT_TAIL(&a->letter.bundles, &elsewhere, of_letter);
    take(r, a);
    struct asker *full = ask(r, &site[1], 2, LARGE_MOST / 2);
    assert_true(has(r, full, 0));
    take(r, full);
    assert_true(room_has(r, &second, NOW));
    assert_false(room_has(r, &elsewhere, NOW)); /* as if it had to be read: that site may hang */
    room_left(r, &elsewhere);
    end(r, full);
    end(r, a);
    room_free(&r);
}

/* One waits that had room but for the one that passed it, and that hangs until the next one passes.
 * Small ones have their own. */
static void who_waits_is_not_kept_waiting_for_ever_by_who_passes_it(void **state) {
    (void)state;
    static const int64_t turns_ms[] = {2000, 4000, 8000, 16000, 32000, 32000, 32000};
    struct room *r = room_new(MOST);
    struct site site[5] = {0};
    struct asker *full = ask(r, &site[0], 1, 400 * KIB), *large = ask(r, &site[1], 2, 500 * KIB);
    struct asker *small = ask(r, &site[4], 5, SMALL), *passed = ask(r, &site[2], 3, 40 * KIB);
    take(r, full);
    assert_false(has(r, large, 0));
    assert_true(has(r, passed, 0)); /* it would have none without it */
    take(r, passed);
    end(r, full);
    int64_t ms = 0;
    for (size_t i = 0; i < sizeof(turns_ms) / sizeof(turns_ms[0]); i++) {
        struct asker *next = ask(r, &site[2 + i % 2], 3 + (int64_t)i % 2, 40 * KIB);
        for (int64_t until_ms = ms + turns_ms[i]; ms < until_ms; ms += 500) {
            assert_false(has(r, large, ms));
            assert_false(has(r, next, ms));
            assert_true(has(r, small, ms));
        }
        assert_false(has(r, large, ms));
        assert_true(has(r, next, ms));
        take(r, next);
        end(r, passed);
        passed = next;
    }
    end(r, passed);
    assert_true(has(r, large, ms));
    end(r, large);
    end(r, small);
    room_free(&r);
}

/* What only queues would be given up for it, together with what those that passed it hold. */
static void who_waits_counts_on_what_is_given_up(void **state) {
    (void)state;
    enum { IDLE = 300 * KIB };
    struct room *r = room_new(MOST);
    struct site site[4] = {0};
    struct asker *full = ask(r, &site[0], 1, 400 * KIB), *large = ask(r, &site[1], 2, 500 * KIB);
    struct asker *passed = ask(r, &site[2], 3, 100 * KIB), *next = ask(r, &site[3], 4, 50 * KIB);
    room_add(r, ROOM_LARGE, 9, IDLE);
    room_idle_add(r, ROOM_LARGE, IDLE);
    take(r, full);
    assert_false(has(r, large, 0));
    assert_true(has(r, passed, 0));
    take(r, passed);
    end(r, full);
    assert_false(room_fits(r, &large->bundle, true));
    assert_false(has(r, next, 1));
    end(r, passed);
    assert_true(room_fits(r, &large->bundle, true));
    assert_false(room_fits(r, &large->bundle, false));
    room_idle_remove(r, ROOM_LARGE, IDLE);
    room_remove(r, ROOM_LARGE, 9, IDLE);
    assert_true(has(r, large, 2));
    end(r, large);
    end(r, next);
    room_free(&r);
}

static void take_too(struct room *r, struct bundle *b) {
    site_pick_slot(b->site, b);
    room_taken(r, b, NOW);
}

static void give_too(struct room *r, struct bundle *b) {
    site_give_slot(b->site, b);
    room_given(r, b);
}

/* One message for several sites: who passes with what is held already takes nothing. */
static void who_waits_is_passed_by_a_content_once(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[6] = {0};
    struct asker *held = ask(r, &site[0], 1, 400 * KIB), *large = ask(r, &site[1], 2, 500 * KIB);
    struct asker *next = ask(r, &site[2], 3, 40 * KIB), *passed = ask(r, &site[3], 4, 60 * KIB);
    struct bundle second = {.letter = &held->letter, .site = &site[4]};
    struct bundle third = {.letter = &passed->letter, .site = &site[4]};
    struct bundle other = {.letter = &large->letter, .site = &site[5]};
    TAILQ_INSERT_TAIL(&held->letter.bundles, &second, of_letter);
    TAILQ_INSERT_TAIL(&passed->letter.bundles, &third, of_letter);
    TAILQ_INSERT_TAIL(&large->letter.bundles, &other, of_letter);
    take(r, held);
    assert_false(has(r, large, 0));
    assert_true(room_has(r, &second, NOW));
    take_too(r, &second);
    assert_true(has(r, next, 0)); /* the first one of it hangs, whoever passes */
    take_too(r, &other);
    assert_true(has(r, next, 0)); /* its own is none that passed it */
    give_too(r, &other);
    take(r, passed);
    assert_true(room_has(r, &third, NOW));
    take_too(r, &third);
    give_too(r, &second);
    give(r, held);
    assert_false(has(r, next, 0));
    give_too(r, &passed->bundle);
    assert_false(has(r, next, 0)); /* the second one of it has it still */
    give_too(r, &third);
    room_remove(r, ROOM_LARGE, 4, 60 * KIB);
    assert_true(has(r, large, 0));
    end(r, held);
    end(r, large);
    end(r, next);
    end(r, passed);
    room_free(&r);
}

/* It passed the first one at another site, and is older. */
static void who_waits_is_not_passed_by_its_own_content(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[4] = {0};
    struct asker *hangs = ask(r, &site[1], 1, 400 * KIB), *large = ask(r, &site[2], 2, 500 * KIB);
    struct asker *own = ask(r, &site[0], 3, 300 * KIB), *next = ask(r, &site[3], 4, 20 * KIB);
    struct bundle second = {.letter = &own->letter, .site = &site[1]};
    TAILQ_INSERT_TAIL(&own->letter.bundles, &second, of_letter);
    large->bundle.fair.since_ms = 10;
    second.fair.since_ms = own->bundle.fair.since_ms = 5;
    take(r, hangs);
    assert_false(has(r, large, 0));
    assert_true(has(r, own, 0));
    take(r, own);
    assert_false(room_has(r, &second, NOW));
    assert_ptr_equal(room_first(r, ROOM_LARGE), &second);
    assert_true(has(r, next, 1)); /* nothing but what hangs is in its way */
    give(r, own);
    assert_false(room_has(r, &second, NOW + 2));
    assert_true(has(r, next, 2)); /* nor is it counted any more */
    room_left(r, &second);
    end(r, own);
    end(r, large);
    end(r, next);
    end(r, hangs);
    room_free(&r);
}

/* It is here from an earlier attempt; given up for itself it would take the room again. */
static void who_waits_does_not_count_on_its_own_content(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[3] = {0};
    struct asker *full = ask(r, &site[0], 1, 400 * KIB), *large = ask(r, &site[1], 2, 350 * KIB);
    struct asker *next = ask(r, &site[2], 3, 20 * KIB);
    take(r, full);
    large->letter.held_bytes = 350 * KIB;
    large->letter.state = LETTER_READY;
    large->letter.is_idle = true;
    room_add(r, ROOM_LARGE, 2, 350 * KIB);
    room_idle_add(r, ROOM_LARGE, 350 * KIB);
    assert_false(room_fits(r, &large->bundle, true));
    assert_false(has(r, large, 0));
    assert_true(has(r, next, 1)); /* nobody passed the large one yet */
    room_idle_remove(r, ROOM_LARGE, 350 * KIB);
    room_remove(r, ROOM_LARGE, 2, 350 * KIB);
    end(r, large);
    end(r, next);
    end(r, full);
    room_free(&r);
}

/* Where it is busy; each of the others is the first of its site, which needs less to be left. */
static void a_small_one_waits_for_seconds_at_most(void **state) {
    (void)state;
    enum { OTHERS = 40, TURNS = 4 };
    struct room *r = room_new(MOST);
    struct site site[4 + OTHERS] = {0};
    struct asker *held[3][200], *other[OTHERS];
    size_t n[3], others = 0;
    n[0] = fill(r, &site[0], 1, SMALL, held[0], 2);
    n[1] = fill(r, &site[1], 1, SMALL, held[1], 200);
    n[2] = fill(r, &site[2], 1, SMALL, held[2], 200);
    struct asker *waits = ask(r, &site[0], 1, SMALL);
    assert_false(has(r, waits, 0));
    int64_t ms = 0;
    for (int turn = 0; turn < TURNS; turn++) {
        other[others] = ask(r, &site[3 + others], 1, SMALL);
        assert_true(has(r, other[others], ms));
        take(r, other[others++]);
        end(r, held[1][--n[1]]); /* now it had room but for that one */
        struct asker *next = ask(r, &site[3 + others], 1, SMALL);
        for (int64_t until_ms = ms + 2000; ms < until_ms; ms += 500) {
            assert_false(has(r, waits, ms));
            assert_false(has(r, next, ms));
        }
        assert_false(has(r, waits, ms));
        end(r, next);
        next = ask(r, &site[3 + others], 1, SMALL);
        assert_true(has(r, next, ms));
        end(r, next);
    }
    end(r, held[1][--n[1]]);
    assert_true(has(r, waits, ms));
    end(r, waits);
    end_all(r, other, others);
    for (int i = 0; i < 3; i++)
        end_all(r, held[i], n[i]);
    room_free(&r);
}

/* Of those that ask in vain who is oldest; but after one of its own a site leaves the place to
 * others for a moment. */
static void the_oldest_has_the_place_and_sites_take_turns(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[3] = {0};
    struct asker *full = ask(r, &site[0], 1, 500 * KIB), *a[4];
    take(r, full);
    for (int i = 0; i < 4; i++) {
        a[i] = ask(r, &site[1 + i / 3], 2 + i, 500 * KIB);
        a[i]->bundle.fair.since_ms = 100 - i;
    }
    for (int i = 0; i < 3; i++) {
        assert_false(has(r, a[i], 0));
        assert_ptr_equal(room_first(r, ROOM_LARGE), &a[i]->bundle);
    }
    assert_false(has(r, a[0], 0));
    assert_ptr_equal(room_first(r, ROOM_LARGE), &a[2]->bundle);
    end(r, full);
    assert_false(has(r, a[3], 0));
    assert_true(has(r, a[2], 0));
    take(r, a[2]);
    assert_false(has(r, a[1], 99));
    assert_null(room_first(r, ROOM_LARGE));
    a[3]->bundle.fair.since_ms = 1000; /* the youngest, of the other site */
    assert_false(has(r, a[3], 99));
    assert_ptr_equal(room_first(r, ROOM_LARGE), &a[3]->bundle);
    end(r, a[3]);
    assert_false(has(r, a[1], 100));
    assert_ptr_equal(room_first(r, ROOM_LARGE), &a[1]->bundle);
    for (int i = 0; i < 3; i++)
        end(r, a[i]);
    room_free(&r);
}

/* What passed one of another kind, at the same site and in a turn of the same number. */
static void each_kind_has_turns_of_its_own(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[3] = {0};
    struct asker *full = ask(r, &site[0], 1, 500 * KIB), *large = ask(r, &site[1], 2, 500 * KIB);
    struct asker *apart = ask(r, &site[0], 1, MOST), *next = ask(r, &site[1], 2, MOST);
    struct asker *passed = ask(r, &site[2], 3, 40 * KIB), *last = ask(r, &site[2], 3, MOST);
    take(r, full);
    take(r, apart);
    assert_false(has(r, large, 0));
    assert_false(has(r, next, 0));
    take(r, passed);
    end(r, apart);
    assert_true(has(r, last, 1000)); /* nobody asked for the next one */
    take(r, last);
    end(r, passed);
    assert_int_equal(site[2].passed_bytes[ROOM_LARGE], 0);
    end(r, last);
    assert_int_equal(site[2].passed_bytes[ROOM_APART], 0);
    end(r, full);
    end(r, large);
    end(r, next);
    room_free(&r);
}

/* Others of its own site and project pass it no longer than those of other sites. */
static void who_waits_at_a_busy_site_is_not_kept_waiting_for_ever(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[2] = {0};
    struct asker *full = ask(r, &site[0], 1, 400 * KIB), *large = ask(r, &site[0], 1, 460 * KIB);
    struct asker *passed = ask(r, &site[0], 1, 120 * KIB), *next = ask(r, &site[0], 1, 20 * KIB);
    struct asker *of_other = ask(r, &site[1], 2, 20 * KIB);
    take(r, full);
    assert_false(has(r, large, 0));
    assert_true(has(r, passed, 0));
    take(r, passed);
    end(r, full);
    for (int64_t ms = 0; ms < 2000; ms += 500) {
        assert_false(has(r, large, ms));
        assert_false(has(r, next, ms));
        assert_false(has(r, of_other, ms));
    }
    end(r, passed);
    assert_true(has(r, large, 1999));
    assert_false(has(r, next, 1999)); /* it goes at any moment */
    assert_ptr_equal(room_first(r, ROOM_LARGE), &large->bundle);
    take(r, large);
    assert_null(room_first(r, ROOM_LARGE));
    assert_true(has(r, of_other, 1999));
    end(r, large);
    assert_true(has(r, next, 1999));
    end(r, next);
    end(r, of_other);
    room_free(&r);
}

static void who_waits_and_is_asked_about_no_more_holds_up_nobody(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[4] = {0};
    struct asker *full = ask(r, &site[0], 1, 500 * KIB), *large = ask(r, &site[1], 2, 400 * KIB);
    struct asker *next = ask(r, &site[2], 3, 50 * KIB);
    take(r, full);
    assert_false(has(r, large, 0));
    give(r, full);
    assert_false(has(r, next, 999)); /* though it would fit beside it */
    assert_true(has(r, next, 1000));
    /* its site is parked, and cannot ask */
    take(r, full);
    assert_false(has(r, large, 2000));
    give(r, full);
    site[1].parked_until_mono_ms = NOW + 3500;
    assert_false(has(r, next, 4499));
    assert_true(has(r, next, 4500));
    /* it was canceled */
    take(r, full);
    assert_false(has(r, large, 5000));
    give(r, full);
    assert_false(has(r, next, 5001));
    end(r, large);
    assert_true(has(r, next, 5001));
    end(r, next);
    end(r, full);
    room_free(&r);
}

/* One at a time, in the order in which they asked, beside all others. */
static void those_that_stand_apart_take_turns(void **state) {
    (void)state;
    struct room *r = room_new(MOST);
    struct site site[3] = {0};
    struct asker *one = ask(r, &site[0], 1, 2 * MOST), *two = ask(r, &site[1], 2, MOST);
    struct asker *three = ask(r, &site[0], 1, 2 * MOST), *full = ask(r, &site[2], 3, LARGE_MOST);
    take(r, full);
    assert_true(has(r, one, 0));
    take(r, one);
    assert_int_equal(room_bytes(r, ROOM_LARGE), LARGE_MOST);
    assert_false(has(r, two, 0));
    assert_false(has(r, three, 0));
    give(r, one);
    assert_false(has(r, three, 1));
    assert_true(has(r, two, 1));
    take(r, two);
    assert_false(has(r, three, 2));
    end(r, two);
    assert_true(has(r, three, 3));
    end(r, three);
    end(r, one);
    end(r, full);
    room_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_size_has_its_kind),
        cmocka_unit_test(large_ones_take_nothing_from_small_ones_nor_small_ones_from_them),
        cmocka_unit_test(who_needs_none_has_it),
        cmocka_unit_test(a_site_and_a_project_leave_some_to_the_next),
        cmocka_unit_test(small_ones_are_all_the_same),
        cmocka_unit_test(who_needs_what_another_one_of_its_site_has_needs_no_more),
        cmocka_unit_test(who_waits_is_not_kept_waiting_for_ever_by_who_passes_it),
        cmocka_unit_test(who_waits_at_a_busy_site_is_not_kept_waiting_for_ever),
        cmocka_unit_test(who_waits_and_is_asked_about_no_more_holds_up_nobody),
        cmocka_unit_test(who_waits_counts_on_what_is_given_up),
        cmocka_unit_test(who_waits_is_passed_by_a_content_once),
        cmocka_unit_test(who_waits_does_not_count_on_its_own_content),
        cmocka_unit_test(who_waits_is_not_passed_by_its_own_content),
        cmocka_unit_test(a_small_one_waits_for_seconds_at_most),
        cmocka_unit_test(the_oldest_has_the_place_and_sites_take_turns),
        cmocka_unit_test(each_kind_has_turns_of_its_own),
        cmocka_unit_test(those_that_stand_apart_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
