/* tool_faults: puts a load on a store whose disk, or memory, fails, and holds it to its promises.
 *
 *     tool_faults FOLDER SEED OPS heal|restart [LEDGER]
 *
 * Runs under tests/power/shim.so, whose control page says what fails and how often; the harness has
 * set it. All answers may be "unavailable", no other failure is allowed, and nobody may wait for
 * ever. After the load the fault is taken away, and the store has to be well again: `heal`: by
 * itself within 5 s (times the load of the machine); what was refused is then not there (but for a
 * load that met a start which failed). `restart`: after closing and opening; what was refused may
 * be there. Then it works on without a failure, and all is compared. With LEDGER the folder is one
 * that an earlier process left (an old one, or killed). Prints one JSON line; 1: a promise is
 * broken. */
#include <sys/mman.h>
#include <unistd.h>

#include "server/base/log.h"
#include "tests/power/work.h"

enum { OPENS = 4, HEAL_MS = 5000, MORE_OPS = 12, HANG_S = 60 };

static struct shim_control *map_control(void) {
    const char *path = getenv("SHIM_CONTROL");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p =
        fd >= 0 ? mmap(NULL, sizeof(struct shim_control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                : MAP_FAILED;
    if (p == MAP_FAILED) {
        perror("SHIM_CONTROL");
        exit(64);
    }
    close(fd);
    return p;
}

static void disarm(struct shim_control *c) {
    c->fail_at = 0;
    c->alloc_fail_at = 0;
}

/* A start that fails is tried again; it has to succeed when the fault is gone. */
static void open_somehow(struct work *w, struct shim_control *c, char **argv,
                         uint64_t *refused_starts) {
    for (int i = 0; i < OPENS && w->store == NULL; i++) {
        if (i == OPENS - 1) {
            disarm(c);
            w->o.may_fail = false;
        }
        if (work_start(w) == OK)
            break;
        ++*refused_starts;
        /* SQLite could not be made ready, once for the life of a process: the server ends and is
         * started again, and so is this. */
        if (sqlite3_vfs_find("postchute") == NULL) {
            disarm(c);
            execv("/proc/self/exe", argv);
            abort();
        }
    }
    w->o.may_fail = true;
}

static int64_t heal_most_ms(void) {
    double load = 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (getloadavg(&load, 1) != 1 || cores < 1 || load < (double)cores)
        return HEAL_MS;
    return (int64_t)(HEAL_MS * load / (double)cores);
}

/* How long it took. */
static int64_t heal(struct work *w, struct model_report *r) {
    int64_t from = clock_mono_ms(), most = heal_most_ms();
    while (!store_health(w->store).is_writable && clock_mono_ms() < from + most)
        usleep(2000);
    struct store_health h = store_health(w->store);
    if (!h.is_writable)
        model_violation(r, "not well again after %lld ms: %s", (long long)most, h.text);
    return clock_mono_ms() - from;
}

int main(int argc, char **argv) {
    log_setup(LOG_ERROR + 1, LOG_FORMAT_TEXT);
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "tool_faults: see its source for what it takes\n");
        return 64;
    }
    struct shim_control *c = map_control();
    static struct work w;
    struct model_report r = {0};
    uint64_t refused_starts = 0;
    alarm(HANG_S); /* whoever waits for ever is ended by a signal, which the harness reports */
    work_init(&w, &(struct work_options){.folder = argv[1],
                                         .ledger = argc == 6 ? argv[5] : NULL,
                                         .seed = strtoull(argv[2], NULL, 10),
                                         .ops = (int)strtol(argv[3], NULL, 10),
                                         .checkpoint_pages = 20,
                                         .may_fail = true});
    open_somehow(&w, c, argv, &refused_starts);
    bool is_restart = strcmp(argv[4], "heal") != 0 || w.has_unknown;
    if (w.store != NULL && !work_run(&w)) {
        open_somehow(&w, c, argv, &refused_starts);
        is_restart = true; /* what was refused before may have come back with it */
    }
    uint64_t failed = c->failed + c->alloc_failed;
    disarm(c);
    int64_t healed_ms = 0;
    if (w.store != NULL && strcmp(argv[4], "heal") == 0) {
        healed_ms = heal(&w, &r);
        if (!is_restart)
            model_settle_unknown(w.model);
    } else if (w.store != NULL) {
        w.o.may_fail = false;
        work_reopen(&w);
    }
    w.o.may_fail = false;
    w.o.no_sweeps = true;
    w.o.ops = MORE_OPS;
    uint64_t before = w.ok;
    if (w.store != NULL)
        work_run(&w);
    if (w.ok == before)
        work_unexpected(&w, "nothing works after the fault", OK, "");
    work_close(&w);
    model_verify(w.model, &(struct store_options){.backend = STORE_SQLITE, .folder = argv[1]},
                 (uint32_t)w.ok, &r);
    printf("{\"failed_calls\": %llu, \"promises\": %llu, \"removed\": %llu, \"unavailable\": %llu, "
           "\"refused_starts\": %llu, \"healed_ms\": %lld, \"lost\": %llu, \"violations\": %llu, "
           "\"first\": \"%s%s\"}\n",
           (unsigned long long)failed, (unsigned long long)w.model->promises,
           (unsigned long long)w.model->removed, (unsigned long long)w.unavailable,
           (unsigned long long)refused_starts, (long long)healed_ms, (unsigned long long)r.lost,
           (unsigned long long)(r.violations + w.unexpected), model_plain(w.first),
           model_plain(r.first));
    bool is_good = r.violations + w.unexpected == 0;
    work_release(&w);
    return is_good ? 0 : 1;
}
