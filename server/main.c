/* main: argv -> command. */
#include <unistd.h>

#include "server/base/confine.h"
#include "server/cli/cli.h"
#include "server/cli/environment.h"

int main(int argc, char **argv) {
    struct environment env;
    confine_memory();
    environment_take(environ, &env);
    int code = cli_run(argc, argv, env.list);
    environment_release(&env);
    return code;
}
