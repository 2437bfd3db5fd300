/* transcript: a dialogue as text for people, "C: " and "S: " before each line, cut at
 * LIMIT_TRANSCRIPT. Message bodies are a note with a size; secrets do not come here at all: the
 * session puts a line of its own in their place. Thread: owner. */
#pragma once

#include "server/base/buf.h"
#include "server/mail/reply.h"

struct transcript {
    struct buf text;
    bool is_on;
    bool is_cut;
};

void transcript_init(struct transcript *t, bool is_on);
void transcript_release(struct transcript *t);
void transcript_clear(struct transcript *t);
/* One or more complete lines with CRLF. */
void transcript_client(struct transcript *t, struct str lines);
void transcript_server(struct transcript *t, const struct reply *r);
/* A remark of ours: "C: (TLSv1.3)". */
void transcript_note(struct transcript *t, const char *fmt, ...) PRINTF(2, 3);
struct str transcript_text(const struct transcript *t);
