/* lifecycle_options: settings -> the options of each room. Private to server/lifecycle.c. Each
 * struct owns what its options point to until its release. Thread: main. */
#pragma once

#include "api/api.h"
#include "server/base/log.h"
#include "server/base/seal.h"
#include "server/config.h"
#include "server/delivery/delivery.h"
#include "server/delivery/housekeeping.h"
#include "server/net/dns.h"
#include "server/net/guard.h"
#include "server/net/tls.h"

struct lifecycle_net {
    struct dns_options dns;
    struct tls_client_options tls;
    struct guard_options guard;
    struct arena *arena;
};
void lifecycle_net_options(const struct config *c, struct lifecycle_net *o);
void lifecycle_net_release(struct lifecycle_net *o);

struct lifecycle_delivery {
    struct delivery_options options;
    struct smarthost *hosts; /* secrets: wiped at release */
    size_t host_count;
    struct arena *arena;
};
/* `sandbox_port` 0: there is none. ERR_INVALID names the setting. Release in any case. */
NODISCARD enum err lifecycle_delivery_options(const struct config *c, uint16_t sandbox_port,
                                              struct lifecycle_delivery *o, struct errinfo *info);
void lifecycle_delivery_release(struct lifecycle_delivery *o);

void lifecycle_housekeeping_options(const struct config *c, struct housekeeping_options *o);

struct lifecycle_api {
    struct api_options options;
    struct arena *arena;
    struct buf tls_cert, tls_key;
};
NODISCARD enum err lifecycle_api_options(const struct config *c, struct lifecycle_api *o,
                                         struct errinfo *info);
void lifecycle_api_release(struct lifecycle_api *o);

/* The ring of master keys; NULL without one. ERR_INVALID names the setting. */
NODISCARD enum err lifecycle_seal(const struct config *c, struct seal **out, struct errinfo *info);

bool lifecycle_wants_sandbox(const struct config *c);
enum log_format lifecycle_log_format(const struct config *c);
/* "http://127.0.0.1:8025" + path: how this machine reaches the API. */
void lifecycle_local_url(const struct config *c, const char *path, char *out, size_t size);
/* When a room named its option, `info` names the setting that filled it. */
void lifecycle_name_setting(struct errinfo *info);
/* The default route without its credentials. */
struct str lifecycle_shown_route(const struct config *c);
