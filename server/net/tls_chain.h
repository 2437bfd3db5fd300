/* tls_chain: OpenSSL's verification of a peer's chain of certificates, with the verdict that it has
 * not: that there was no memory for one.
 *
 * OpenSSL keeps most failures of its memory to itself, and says of a certificate that it could not
 * read that its key is too weak, its signature wrong, its name another one. So a chain that is
 * refused is read and asked anew; what is refused for one reason only once was not refused by the
 * peer's fault, and neither is what left a failure of the memory in OpenSSL's queue of errors.
 *
 * For tls only. Thread: any.
 */
#pragma once

#include <stdbool.h>

struct ssl_ctx_st;
struct x509_store_ctx_st;

/* The chains of a context's peers are verified in this way. */
void tls_chain_install(struct ssl_ctx_st *ctx);
/* In the place of X509_verify_cert(): 1 it is good; 0 it is not, for the error that is set in
 * `store`, X509_V_ERR_OUT_OF_MEM: nobody knows. */
int tls_chain_verify(struct x509_store_ctx_st *store);
/* False: there was no memory for the key of the peer's own certificate; the error is set. One of a
 * kind that nobody knows is not missing for that. */
bool tls_chain_is_whole(struct x509_store_ctx_st *store);
