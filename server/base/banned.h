/* banned: functions that cannot be used safely, as compile errors. Included on the command line of
 * every unit. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat sprintf vsprintf strtok strncat atoi atol atoll gmtime localtime  \
    ctime asctime
