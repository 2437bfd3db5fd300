#include "server/net/httpc_failure.h"

#include <curl/curl.h>
#include <errno.h>

static enum failure failure_of_connect(CURL *easy) {
    long error = 0;
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &error);
    switch (error) {
    case ECONNREFUSED:
        return FAILURE_CONNECT_REFUSED;
    case ETIMEDOUT:
        return FAILURE_CONNECT_TIMEOUT;
    case EMFILE:
    case ENFILE:
        return FAILURE_LOCAL;
    default:
        return FAILURE_CONNECT_UNREACHABLE;
    }
}

static enum failure failure_of_certificate(CURL *easy) {
    /* OpenSSL's numbers, for which the header would be on the wrong side of its fence */
    enum {
        VERIFY_OK = 0,
        UNSPECIFIED = 1,
        NOT_YET_VALID = 9,
        HAS_EXPIRED = 10,
        HOST = 62,
        IP = 64
    };
    long result = 0;
    curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &result);
    switch (result) {
    case VERIFY_OK:   /* OpenSSL found nothing: it is the name, which curl looks at itself, ... */
    case UNSPECIFIED: /* ... before it asks OpenSSL for its result */
    case HOST:
    case IP:
        return FAILURE_TLS_NAME;
    case NOT_YET_VALID:
    case HAS_EXPIRED:
        return FAILURE_TLS_EXPIRED;
    default:
        return FAILURE_TLS_UNTRUSTED;
    }
}

/* Connected, and TLS agreed on when there is some. A reused connection has no time of connecting,
 * but one of being ready. */
static bool is_connected(CURL *easy) {
    curl_off_t ready_us = 0;
    curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &ready_us);
    return ready_us > 0;
}

enum failure httpc_failure_of(void *easy, int code) {
    switch ((CURLcode)code) {
    case CURLE_OK:
        return FAILURE_NONE;
    case CURLE_COULDNT_CONNECT:
        return failure_of_connect(easy);
    case CURLE_COULDNT_RESOLVE_HOST:
        return FAILURE_DNS_TEMPORARY;
    case CURLE_OPERATION_TIMEDOUT:
        return is_connected(easy) ? FAILURE_TIMEOUT : FAILURE_CONNECT_TIMEOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
        return failure_of_certificate(easy);
    case CURLE_SSL_CONNECT_ERROR:
        return FAILURE_TLS_HANDSHAKE;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
        return FAILURE_CLOSED;
    case CURLE_OUT_OF_MEMORY:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_FAILED_INIT:
    case CURLE_URL_MALFORMAT:
        return FAILURE_LOCAL;
    case CURLE_UNSUPPORTED_PROTOCOL: /* the URL's; of an answer that is no HTTP, too */
        return is_connected(easy) ? FAILURE_PROTOCOL : FAILURE_LOCAL;
    default:
        return FAILURE_PROTOCOL;
    }
}
