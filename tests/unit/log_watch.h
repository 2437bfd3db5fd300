/* log_watch: an unexpected WARN or ERROR in the log fails the test that caused it, as in the
 * end-to-end tests. It is linked into every unit test and needs nothing of them; a test that causes
 * such a line on purpose says so:
 *
 *     expect_log("site does not answer");      // from here to the end of this test
 *
 * Lines below the level of log_setup() count, too: silence is no permission. In a setup function it
 * is for each test that has it. Thread: any.
 */
#pragma once

/* A WARN or ERROR whose message has these words in it belongs to the test. */
void expect_log(const char *words);
/* From here to the end of this test nothing at all is logged, nor noticed. */
void silence_log(void);
/* How many lines with these words, which were expected, this test has logged so far. */
unsigned logged(const char *words);
