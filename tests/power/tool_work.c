/* tool_work: puts a load on a store that is written down, or holds a store to what was written
 * down.
 *
 *     tool_work work    FOLDER LEDGER SEED OPS [CHECKPOINT_PAGES] [normal]
 *     tool_work check   FOLDER LEDGER
 *     tool_work old     FOLDER LEDGER SEED OPS SCHEMA [log]
 *     tool_work degrade FOLDER SCHEMA [log]
 *
 * `work` is what is recorded, killed and starved under the shim; it ends with 0 when all answers
 * were as expected. `check` reads the ledger, opens the store as a start would, and prints one JSON
 * line; 1: something that was promised is not so; its log says what was migrated. `normal`: without
 * a sync at each commit, as a negative control. `old` leaves a store that the program of an earlier
 * schema could have left, attempts under way among it; `degrade` makes such a one of a store that
 * nobody has open; `log`: what it changes stands in the log only. */
#include "server/base/log.h"
#include "tests/power/work.h"

/* Undoes each migration above `schema`. */
static bool degrade(const char *folder, long schema, bool in_log) {
    static const struct {
        long schema;
        const char *sql;
    } undo[] = {
        {4, "UPDATE term SET bucket = seq / 4096; PRAGMA user_version = 3"},
        {3, "ALTER TABLE api_key DROP COLUMN rate; PRAGMA user_version = 2"},
        {2, "ALTER TABLE message DROP COLUMN is_test; PRAGMA user_version = 1"},
    };
    struct model_report r = {0};
    struct model_look l = {.r = &r};
    char path[600];
    snprintf(path, sizeof path, "%s/outbox.db", folder);
    bool is_ok = sqlite3_open_v2(path, &l.db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
                 (!in_log || (sqlite3_db_config(l.db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL) ==
                                  SQLITE_OK &&
                              sqlite3_wal_autocheckpoint(l.db, 0) == SQLITE_OK));
    int64_t is_now = is_ok ? model_number(&l, "PRAGMA user_version") : 0;
    for (size_t i = 0; is_ok && i < sizeof undo / sizeof undo[0]; i++)
        if (undo[i].schema > schema && undo[i].schema <= is_now)
            is_ok = sqlite3_exec(l.db, undo[i].sql, NULL, NULL, NULL) == SQLITE_OK;
    is_ok = is_ok && model_number(&l, "PRAGMA user_version") <= schema;
    if (!is_ok)
        fprintf(stderr, "tool_work: %s: %s\n", path, sqlite3_errmsg(l.db));
    sqlite3_close(l.db);
    return is_ok && r.violations == 0;
}

static bool change(const char *folder, const char *sql) {
    char path[600];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/outbox.db", folder);
    bool is_ok = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
                 sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(db);
    return is_ok;
}

static int old(int argc, char **argv) {
    static struct work w;
    work_init(&w, &(struct work_options){.folder = argv[2],
                                         .ledger = argv[3],
                                         .seed = strtoull(argv[4], NULL, 10),
                                         .ops = (int)strtol(argv[5], NULL, 10)});
    bool is_ok = work_open(&w) == OK;
    work_close(&w);
    /* Messages on both sides of an edge of the buckets, and some of a test key. */
    is_ok = is_ok && change(argv[2], "UPDATE counter SET next_message = 1010") &&
            work_open(&w) == OK && work_run(&w);
    work_close(&w);
    is_ok = is_ok && w.unexpected == 0 &&
            change(argv[2], "UPDATE api_key SET is_test = 1 WHERE name IN ('k0', 'k2');"
                            "UPDATE message SET is_test = 1, key_id = (SELECT max(id) FROM api_key"
                            " WHERE is_test = 1) WHERE seq % 3 = 0 AND EXISTS"
                            " (SELECT 1 FROM api_key WHERE is_test = 1)") &&
            degrade(argv[2], strtol(argv[6], NULL, 10), argc > 7);
    work_release(&w);
    return is_ok ? 0 : 1;
}

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
    if (work_start(&w) == OK && work_run(&w))
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
    log_setup(LOG_INFO, LOG_FORMAT_TEXT);
    FILE *f = fopen(argv[3], "rb");
    uint64_t notes = 0;
    while (f != NULL && fread(&n, sizeof n, 1, f) == 1) {
        model_note(m, &n);
        notes++;
    }
    if (f != NULL)
        fclose(f);
    struct store_options o = {.backend = STORE_SQLITE, .folder = argv[2]};
    model_verify(m, &o, (uint32_t)notes, &r);
    printf("{\"promises\": %llu, \"removed\": %llu, \"in_retention\": %d, "
           "\"messages\": %u, \"checked\": %llu, \"probes\": %llu, "
           "\"lost\": %llu, \"violations\": %llu, \"first\": \"%s\"}\n",
           (unsigned long long)m->promises, (unsigned long long)m->removed, m->is_retaining,
           m->count, (unsigned long long)r.checked_messages, (unsigned long long)r.probes,
           (unsigned long long)r.lost, (unsigned long long)r.violations, model_plain(r.first));
    free(m);
    return r.violations == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    if (argc >= 6 && strcmp(argv[1], "work") == 0)
        return work(argc, argv);
    if (argc == 4 && strcmp(argv[1], "check") == 0)
        return check(argv);
    if (argc >= 7 && strcmp(argv[1], "old") == 0)
        return old(argc, argv);
    if (argc >= 4 && strcmp(argv[1], "degrade") == 0)
        return degrade(argv[2], strtol(argv[3], NULL, 10), argc > 4) ? 0 : 1;
    fprintf(stderr, "tool_work: see its source for what it takes\n");
    return 64;
}
