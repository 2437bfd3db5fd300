/* main: argv -> command. */
#include <unistd.h>

#include "server/cli/cli.h"

int main(int argc, char **argv) {
    return cli_run(argc, argv, environ);
}
