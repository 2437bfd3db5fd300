/* run_cli: runs a command in this process as a shell would, and keeps what it prints. Each test
 * program includes it once.
 *
 *     char *env[] = {"POSTCHUTE_ROUTE=sandbox", NULL};
 *     struct outcome o = run_cli("key create|shop --scope send", env);    // words between '|'
 *     assert_int_equal(o.code, CLI_OK);
 */
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include "server/cli/cli.h"

static char folder[] = "/tmp/postchute-cli-XXXXXX";

struct outcome {
    int code;
    char out[4096], err[4096];
};

static void read_back(const char *name, char *to, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, to, size - 1);
    assert_true(n >= 0);
    to[n] = '\0';
    close(fd);
}

static int redirect(int fd, const char *name, FILE *stream) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    fflush(stream);
    int kept = dup(fd), to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && to >= 0);
    dup2(to, fd);
    close(to);
    return kept;
}

static void restore(int fd, int kept, FILE *stream) {
    fflush(stream);
    dup2(kept, fd);
    close(kept);
}

/* `line`: words between '|', because texts have spaces. */
static struct outcome run_cli(const char *line, char *const *env) {
    struct outcome o = {0};
    char words[1024], *argv[64], program[] = "postchute";
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    argv[0] = program;
    for (char *save = NULL, *w = strtok_r(words, "|", &save); w; w = strtok_r(NULL, "|", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    int kept_out = redirect(STDOUT_FILENO, "out", stdout);
    int kept_err = redirect(STDERR_FILENO, "err", stderr);
    o.code = cli_run(argc, argv, env);
    restore(STDOUT_FILENO, kept_out, stdout);
    restore(STDERR_FILENO, kept_err, stderr);
    read_back("out", o.out, sizeof o.out);
    read_back("err", o.err, sizeof o.err);
    return o;
}
