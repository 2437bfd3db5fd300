/* system: dns in system mode with a resolv.conf and a hosts file of the test's own, which holds all
 * the names that there are: the library reads no port from resolv.conf, so nobody else is asked.
 *
 *     struct dns *d = start_system("search corp.example\n", "10.0.0.6 app.corp.example\n");
 *
 * Thread: the test's.
 */
#pragma once

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/net/dns.h"

/* `path` ends in XXXXXX. */
static inline void write_file(char *path, const char *text) {
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static inline struct dns *start_system(const char *resolv_conf, const char *hosts) {
    char conf_file[] = "/tmp/postchute-resolv-XXXXXX", hosts_file[] = "/tmp/postchute-hosts-XXXXXX";
    char text[1024];
    snprintf(text, sizeof text, "# none answers\nnameserver 127.0.0.1\n%s", resolv_conf);
    write_file(conf_file, text);
    write_file(hosts_file, hosts);
    struct dns *d;
    struct errinfo info = {0};
    if (dns_start(&(struct dns_options){.mode = "system",
                                        .resolv_conf = conf_file,
                                        .hosts_file = hosts_file,
                                        .trust_anchor_file = "",
                                        .timeout_ms = 3000},
                  &d, &info) != OK)
        fail_msg("dns_start: %s", info.text);
    unlink(conf_file); /* they were read */
    unlink(hosts_file);
    return d;
}
