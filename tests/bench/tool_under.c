/* tool_under: runs a command and becomes the parent of every process that outlives its own parent
 * below it, so that the CPU time of all of them, ended or not, can be read in one tree.
 *
 *     tool_under command [argument...]
 *
 * SIGTERM and SIGINT go to the command; when it has ended and nobody is left below, this ends too.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t child;

static void pass_on(int signal_number) {
    if (child > 0)
        kill(child, signal_number);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 64;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(127);
    }
    signal(SIGTERM, pass_on);
    signal(SIGINT, pass_on);
    int status, code = 1;
    pid_t pid;
    while ((pid = wait(&status)) > 0 || errno == EINTR)
        if (pid == child)
            code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code;
}
