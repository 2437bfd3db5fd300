/* environment: our own copy of the variables, and none of their secrets where the kernel shows them
 * (/proc/PID/environ, ps e), for as long as the process lives.
 *
 *     struct environment e;
 *     environment_take(environ, &e);
 *     ... cli_run(argc, argv, e.list), which reads them again at each SIGHUP ...
 *     environment_release(&e);
 *
 * Thread: main, before there are others.
 */
#pragma once

#include "server/base/arena.h"

struct environment {
    char **list; /* as environ */
    struct arena *arena;
};

/* Overwrites the values of `env` that are secrets with NULs, after copying them. */
void environment_take(char **env, struct environment *out);
void environment_release(struct environment *e); /* wipes the copies */
