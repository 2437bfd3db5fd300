/* config_declare: routes, keys, domains and webhooks declared in the YAML file. Private to
 * server/config*.c.
 *
 *     keys:     [{name: ci, secret_file: /run/secrets/ci, scopes: [send], from_domains:
 * [acme.example]}] domains:  [{name: acme.example, bounce_address: b@acme.example, dkim:
 * [{selector: s1, key_file: s1.pem}]}] routes:   [{name: relay, smarthosts:
 * ["smtp://user:pw@relay.example:587"], recipient_domains: [example.net]}] webhooks: [{url:
 * "https://app.example/hook", secret_file: hook.secret, events: [final]}]
 */
#pragma once

#include "server/base/arena.h"
#include "server/config.h"
#include "server/config_yaml.h"

bool config_declare_knows(struct str key);
NODISCARD enum err config_declare(struct config *c, struct arena *a, struct str key,
                                  const struct yaml_node *node, struct errinfo *info);
/* Every field that they can have, and the parameters of a smarthost. */
void config_declare_print(enum config_help form, struct buf *out);
