/* tool_work: puts a load on a store that is written down, or holds a store to what was written
 * down.
 *
 *     tool_work work  FOLDER LEDGER SEED OPS [CHECKPOINT_PAGES] [normal]
 *     tool_work check FOLDER LEDGER
 *
 * `work` is what is recorded, killed and starved under the shim; it ends with 0 when all answers
 * were as expected. `check` reads the ledger, opens the store as a start would, and prints one JSON
 * line; 1: something that was promised is not so. `normal`: without a sync at each commit, as a
 * negative control. */
#include "server/base/log.h"
#include "tests/power/work.h"

static int work(int argc, char **argv) {
    static struct work w;
    work_init(&w, &(struct work_options){
                      .folder = argv[2],
                      .ledger = argv[3],
                      .seed = strtoull(argv[4], NULL, 10),
                      .ops = (int)strtol(argv[5], NULL, 10),
                      .checkpoint_pages = argc > 6 ? strtoul(argv[6], NULL, 10) : 0,
                      .synchronous_normal = argc > 7 && strcmp(argv[7], "normal") == 0,
                  });
    if (work_open(&w) == OK && work_run(&w))
        work_close(&w);
    uint64_t unexpected = w.unexpected;
    printf("{\"promises\": %llu, \"messages\": %u, \"unexpected\": %llu, \"first\": \"%s\"}\n",
           (unsigned long long)w.model->promises, w.model->count, (unsigned long long)unexpected,
           model_plain(w.first));
    work_release(&w);
    return unexpected == 0 ? 0 : 1;
}

static int check(char **argv) {
    struct model *m = mem_zalloc(sizeof *m);
    struct model_note n;
    struct model_report r = {0};
    FILE *f = fopen(argv[3], "rb");
    uint64_t notes = 0;
    while (f != NULL && fread(&n, sizeof n, 1, f) == 1) {
        model_note(m, &n);
        notes++;
    }
    if (f != NULL)
        fclose(f);
    struct store_options o = {.backend = STORE_SQLITE, .folder = argv[2]};
    model_verify(m, &o, (uint32_t)notes, true, &r);
    printf("{\"promises\": %llu, \"messages\": %u, \"checked\": %llu, \"probes\": %llu, "
           "\"lost\": %llu, \"violations\": %llu, \"first\": \"%s\"}\n",
           (unsigned long long)m->promises, m->count, (unsigned long long)r.checked_messages,
           (unsigned long long)r.probes, (unsigned long long)r.lost,
           (unsigned long long)r.violations, model_plain(r.first));
    free(m);
    return r.violations == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    if (argc >= 6 && strcmp(argv[1], "work") == 0)
        return work(argc, argv);
    if (argc == 4 && strcmp(argv[1], "check") == 0)
        return check(argv);
    fprintf(stderr, "tool_work: see its source for what it takes\n");
    return 64;
}
