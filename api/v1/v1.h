/* v1: the handlers of the native API, one file per resource; the table of api/routes.c says which
 * path leads to which. Each has a request that is complete and admitted (api/request.h) and ends in
 * request_finish(). Thread: the request's loop. */
#pragma once

#include "api/request.h"

/* send.c */
void v1_send(struct request *r);

/* messages.c */
void v1_messages_list(struct request *r);
void v1_message_get(struct request *r);
void v1_message_events(struct request *r);
void v1_message_attempts(struct request *r);
void v1_message_raw(struct request *r);
void v1_message_cancel(struct request *r);
void v1_message_retry(struct request *r);

/* keys.c */
void v1_keys_create(struct request *r);
void v1_keys_list(struct request *r);
void v1_key_revoke(struct request *r);

/* domains.c */
void v1_domains_create(struct request *r);
void v1_domains_list(struct request *r);
void v1_domain_get(struct request *r);
void v1_domain_verify(struct request *r);
void v1_domain_delete(struct request *r);

/* webhooks.c, deliveries.c */
void v1_webhooks_create(struct request *r);
void v1_webhooks_list(struct request *r);
void v1_webhook_get(struct request *r);
void v1_webhook_change(struct request *r);
void v1_webhook_delete(struct request *r);
void v1_webhook_rotate(struct request *r);
void v1_webhook_test(struct request *r);
void v1_webhook_deliveries(struct request *r);
void v1_webhook_replay(struct request *r);

/* sandbox.c */
void v1_sandbox_messages(struct request *r);
void v1_sandbox_message(struct request *r);
void v1_sandbox_webhooks(struct request *r);
void v1_sandbox_receive(struct request *r);

/* service.c */
void v1_livez(struct request *r);
void v1_readyz(struct request *r);
void v1_metrics(struct request *r);
void v1_openapi(struct request *r);
