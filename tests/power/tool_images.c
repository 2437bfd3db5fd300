/* tool_images: of the log of a program's writes, makes disks that a power cut could have left,
 * opens the store on each, and holds it to what had been promised up to that moment.
 *
 *     tool_images LOG SCRATCH COUNT SEED [BASE_FOLDER BASE_LEDGER]
 *     tool_images emit LOG FOLDER LEDGER SEED
 *
 * A disk at a moment: what was synced before is there (a sync counts once it has ended, for what
 * was written before it began); of what was written since, in any of these ways, chosen at random:
 *
 *   nothing; all; in order up to some write; any subset of the writes; any subset of the sectors of
 *   512 octets; in order up to a write of which only some sectors arrived
 *
 * A file that grew may hold zeros or rubbish where its new octets did not arrive. A name that was
 * made or removed since the folder was synced is in its old or its new state, each name for itself.
 * A power cut never changes octets that were not being written (SQLite's "powersafe overwrite").
 *
 * With BASE the log is that of a recovery: it began with those files and promises. `emit` leaves
 * one such disk in FOLDER, and the promises in LEDGER. Prints one JSON line; 1: a promise is
 * broken. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/log.h"
#include "tests/power/model.h"
#include "tests/power/shim.h"

enum { FILES = 512, NAMES = 8, SECTOR = 512, PENDING = 65536 };

struct file {
    char *p; /* what is safe */
    size_t n, room;
    uint32_t pending[PENDING]; /* places in `entry` */
    size_t pending_n;
};

struct name {
    char text[64];
    uint32_t safe;        /* file + 1; 0: no such name */
    uint32_t pending[64]; /* what it was set to since, in order */
    uint64_t at[64];
    size_t pending_n;
};

enum way { NOTHING, ALL, PREFIX, WRITES, SECTORS, TORN, WAYS };
static const char *const way_names[WAYS] = {"nothing", "all",     "prefix",
                                            "writes",  "sectors", "torn"};

static const char *log_bytes;
static size_t log_n, entry_n;
static const struct shim_entry **entry;
static struct file *file;
static struct name name[NAMES];
static size_t name_n;
static struct model *model;
static uint64_t random_state;

static uint64_t draw(uint64_t below) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

static const char *bytes_of(const struct shim_entry *e) {
    return (const char *)(e + 1);
}

static uint64_t place_of(const struct shim_entry *e) {
    return (uint64_t)((const char *)e - log_bytes);
}

/* ---- a file's octets ---- */

struct octets {
    char *p;
    size_t n, room;
};

static void reach(struct octets *o, size_t n, bool with_rubbish) {
    if (n > o->room) {
        o->room = n + n / 2 + 65536;
        o->p = realloc(o->p, o->room);
        if (o->p == NULL)
            abort();
    }
    if (n > o->n) {
        for (size_t i = o->n; with_rubbish && i < n; i++)
            o->p[i] = (char)draw(256);
        if (!with_rubbish)
            memset(o->p + o->n, 0, n - o->n);
        o->n = n;
    }
}

static void apply(struct octets *o, const struct shim_entry *e, bool with_rubbish) {
    if (e->what == LOG_TRUNCATE) {
        if (e->at > o->n)
            reach(o, e->at, false);
        o->n = e->at;
        return;
    }
    reach(o, e->at + e->size, with_rubbish);
    memcpy(o->p + e->at, bytes_of(e), e->size);
}

/* Of a write only some sectors; each is old or new. */
static void apply_torn(struct octets *o, const struct shim_entry *e, bool with_rubbish) {
    if (e->what == LOG_TRUNCATE) {
        if (draw(2) != 0)
            apply(o, e, with_rubbish);
        return;
    }
    uint64_t odds = 1 + draw(9);
    for (uint64_t at = e->at; at < e->at + e->size;) {
        uint64_t end = (at / SECTOR + 1) * SECTOR;
        if (end > e->at + e->size)
            end = e->at + e->size;
        if (draw(10) < odds) {
            reach(o, end, with_rubbish);
            memcpy(o->p + at, bytes_of(e) + (at - e->at), end - at);
        }
        at = end;
    }
    if (draw(2) != 0) /* the size may have changed, whatever arrived */
        reach(o, e->at + e->size, with_rubbish);
}

static void apply_way(struct octets *o, const struct file *f, enum way way) {
    bool with_rubbish = draw(3) == 0;
    size_t upto = way == ALL ? f->pending_n : way == NOTHING ? 0 : (size_t)draw(f->pending_n + 1);
    for (size_t i = 0; i < f->pending_n; i++) {
        const struct shim_entry *e = entry[f->pending[i]];
        if (way == SECTORS)
            apply_torn(o, e, with_rubbish);
        else if (way == WRITES) {
            if (draw(2) != 0)
                apply(o, e, with_rubbish);
        } else if (i < upto)
            apply(o, e, with_rubbish);
        else if (i == upto && way == TORN)
            apply_torn(o, e, with_rubbish);
    }
}

/* ---- the log, in order ---- */

static void settle_file(struct file *f, uint64_t before) {
    struct octets o = {f->p, f->n, f->room};
    size_t kept = 0;
    for (size_t i = 0; i < f->pending_n; i++) {
        if (place_of(entry[f->pending[i]]) < before)
            apply(&o, entry[f->pending[i]], false);
        else
            f->pending[kept++] = f->pending[i];
    }
    f->pending_n = kept;
    f->p = o.p;
    f->n = o.n;
    f->room = o.room;
}

static struct name *name_of(const char *text, size_t n) {
    for (size_t i = 0; i < name_n; i++)
        if (strlen(name[i].text) == n && memcmp(name[i].text, text, n) == 0)
            return &name[i];
    if (name_n == NAMES || n >= sizeof name[0].text)
        abort();
    memcpy(name[name_n].text, text, n);
    return &name[name_n++];
}

static void change_name(const struct shim_entry *e, uint32_t to) {
    struct name *x = name_of(bytes_of(e), e->size);
    if (e->what == LOG_CREATE && e->at == 1) {
        x->safe = to;
        return;
    }
    if (x->pending_n == 64)
        abort();
    x->at[x->pending_n] = place_of(e);
    x->pending[x->pending_n++] = to;
}

static void settle_folder(uint64_t before) {
    for (size_t i = 0; i < name_n; i++) {
        struct name *x = &name[i];
        size_t done = 0;
        while (done < x->pending_n && x->at[done] < before)
            x->safe = x->pending[done++];
        memmove(x->pending, x->pending + done, (x->pending_n - done) * sizeof x->pending[0]);
        memmove(x->at, x->at + done, (x->pending_n - done) * sizeof x->at[0]);
        x->pending_n -= done;
    }
}

static void pass(size_t i) {
    const struct shim_entry *e = entry[i];
    struct model_note note;
    if (e->file >= FILES)
        abort();
    struct file *f = &file[e->file];
    switch ((enum shim_what)e->what) {
    case LOG_CREATE:
        change_name(e, e->file + 1);
        break;
    case LOG_UNLINK:
        change_name(e, 0);
        break;
    case LOG_WRITE:
    case LOG_TRUNCATE:
        if (f->pending_n == PENDING)
            abort();
        f->pending[f->pending_n++] = (uint32_t)i;
        break;
    case LOG_SYNCED:
        if (e->file == LOG_FOLDER)
            settle_folder(e->at);
        else
            settle_file(f, e->at);
        break;
    case LOG_NOTE:
        if (e->size != sizeof note)
            abort();
        memcpy(&note, bytes_of(e), sizeof note);
        model_note(model, &note);
        break;
    case LOG_SYNC:
        break;
    }
}

/* ---- a disk ---- */

static void write_file(const char *folder, const char *base, const struct octets *o) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, base);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || (o->n > 0 && pwrite(fd, o->p, o->n, 0) != (ssize_t)o->n))
        abort();
    close(fd);
}

static void remove_file(const char *folder, const char *base) {
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, base);
    unlink(path);
}

static void make_disk(const char *folder, enum way way) {
    static struct octets o;
    static const char *const all[] = {"outbox.db", "outbox.db-wal", "outbox.db-journal",
                                      "outbox.db-shm", "lock"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        remove_file(folder, all[i]);
    for (size_t i = 0; i < name_n; i++) {
        size_t upto = way == NOTHING ? 0
                      : way == ALL   ? name[i].pending_n
                                     : (size_t)draw(name[i].pending_n + 1);
        uint32_t which = upto > 0 ? name[i].pending[upto - 1] : name[i].safe;
        if (which == 0)
            continue;
        const struct file *f = &file[which - 1];
        o.n = 0;
        reach(&o, f->n, false);
        if (f->n > 0)
            memcpy(o.p, f->p, f->n);
        apply_way(&o, f, way);
        write_file(folder, name[i].text, &o);
    }
}

/* ---- input ---- */

static void read_log(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        perror(path);
        exit(1);
    }
    log_n = (size_t)st.st_size;
    /* Entries are not aligned: the processors that this runs on do not mind. */
    log_bytes = mmap(NULL, log_n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (log_bytes == MAP_FAILED)
        abort();
    close(fd);
    size_t room = 0;
    for (size_t at = 0; at + sizeof(struct shim_entry) <= log_n;) {
        struct shim_entry e;
        memcpy(&e, log_bytes + at, sizeof e);
        if (entry_n == room) {
            room = room * 2 + 4096;
            entry = realloc(entry, room * sizeof *entry);
            if (entry == NULL)
                abort();
        }
        entry[entry_n++] = (const struct shim_entry *)(const void *)(log_bytes + at);
        at += sizeof e + e.size;
    }
    file = mem_zalloc(FILES * sizeof *file);
    model = mem_zalloc(sizeof *model);
}

/* The number by which the log knows a file that was there before it, else one that it never uses.
 */
static uint32_t number_of(const char *base, uint32_t unused) {
    for (size_t i = 0; i < entry_n; i++)
        if (entry[i]->what == LOG_CREATE && entry[i]->at == 1 && entry[i]->size == strlen(base) &&
            memcmp(bytes_of(entry[i]), base, entry[i]->size) == 0)
            return entry[i]->file;
    return unused;
}

static void read_base(const char *folder, const char *ledger) {
    static const char *const all[] = {"outbox.db", "outbox.db-wal", "outbox.db-journal"};
    for (uint32_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char path[700];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, all[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        uint32_t number = number_of(all[i], FILES - 1 - i);
        struct file *f = &file[number];
        if (fstat(fd, &st) != 0)
            abort();
        f->n = f->room = (size_t)st.st_size;
        f->p = mem_zalloc(f->n + 1);
        if (read(fd, f->p, f->n) != (ssize_t)f->n)
            abort();
        close(fd);
        name_of(all[i], strlen(all[i]))->safe = number + 1;
    }
    struct model_note n;
    FILE *in = fopen(ledger, "rb");
    while (in != NULL && fread(&n, sizeof n, 1, in) == 1)
        model_note(model, &n);
    if (in != NULL)
        fclose(in);
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int emit(char **argv) {
    read_log(argv[2]);
    random_state = 88172645463325252ull ^ (strtoull(argv[5], NULL, 10) * 0x9e3779b97f4a7c15ull);
    size_t until = entry_n / 4 + (size_t)draw(entry_n - entry_n / 4);
    FILE *out = fopen(argv[4], "wb");
    for (size_t i = 0; i < until; i++) {
        pass(i);
        if (entry[i]->what == LOG_NOTE && fwrite(bytes_of(entry[i]), entry[i]->size, 1, out) != 1)
            return 1;
    }
    fclose(out);
    make_disk(argv[3], (enum way)draw(WAYS));
    return 0;
}

int main(int argc, char **argv) {
    log_setup(LOG_INFO, LOG_FORMAT_TEXT); /* what is migrated when a disk is opened */
    if (argc == 6 && strcmp(argv[1], "emit") == 0)
        return emit(argv);
    if (argc != 5 && argc != 7) {
        fprintf(stderr, "tool_images: see its source for what it takes\n");
        return 64;
    }
    read_log(argv[1]);
    if (argc == 7)
        read_base(argv[5], argv[6]);
    size_t count = strtoul(argv[3], NULL, 10);
    random_state = 88172645463325252ull ^ (strtoull(argv[4], NULL, 10) * 0x9e3779b97f4a7c15ull);
    uint32_t *moment = mem_zalloc((count + 1) * sizeof *moment);
    for (size_t i = 0; i < count; i++)
        moment[i] = (uint32_t)draw(entry_n + 1);
    qsort(moment, count, sizeof *moment, compare);
    struct model_report r = {0};
    struct store_options o = {.backend = STORE_SQLITE, .folder = argv[2]};
    uint64_t images = 0, lost_images = 0, broken_images = 0, of_way[WAYS] = {0}, unsynced = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        while (at < moment[i])
            pass(at++);
        size_t waits = 0;
        for (size_t k = 1; k < FILES; k++)
            waits += file[k].pending_n;
        /* Where nothing waits there is but one disk. */
        enum way way = waits == 0 ? ALL : (enum way)draw(WAYS);
        unsynced += waits > 0;
        make_disk(argv[2], way);
        uint64_t violations = r.violations, lost = r.lost;
        char before[sizeof r.first];
        memcpy(before, r.first, sizeof before);
        model_verify(model, &o, (uint32_t)draw(1u << 30), &r);
        images++;
        of_way[way]++;
        lost_images += r.lost > lost;
        broken_images += r.violations > violations;
        if (violations == 0 && r.violations > 0) {
            size_t n = strlen(r.first);
            snprintf(r.first + n, sizeof r.first - n, " (entry %zu of %zu, %s)", at, entry_n,
                     way_names[way]);
        }
    }
    printf("{\"images\": %llu, \"with_unsynced\": %llu, \"promises\": %llu, \"checked\": %llu, "
           "\"probes\": %llu, \"lost\": %llu, \"lost_images\": %llu, \"broken_images\": %llu, "
           "\"violations\": %llu, ",
           (unsigned long long)images, (unsigned long long)unsynced,
           (unsigned long long)model->promises, (unsigned long long)r.checked_messages,
           (unsigned long long)r.probes, (unsigned long long)r.lost,
           (unsigned long long)lost_images, (unsigned long long)broken_images,
           (unsigned long long)r.violations);
    for (int i = 0; i < WAYS; i++)
        printf("\"%s\": %llu, ", way_names[i], (unsigned long long)of_way[i]);
    printf("\"first\": \"%s\"}\n", model_plain(r.first));
    return r.violations == 0 ? 0 : 1;
}
