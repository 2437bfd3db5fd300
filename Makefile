# postchute: see README.md; `make help` lists the targets.
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

VARIANT ?= release
VARIANTS := release asan tsan coverage fuzz fuzzfast fuzzcov
$(if $(filter $(VARIANTS),$(VARIANT)),,$(error VARIANT=$(VARIANT): there are $(VARIANTS)))
B := build/$(VARIANT)
VERSION := 0.1.0

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif

include tests/deps.mk
include tests/lint.mk

# ---- flags -------------------------------------------------------------------------------------------------
PKGS := libmicrohttpd jansson libssl libcrypto uuid sqlite3 libevent libevent_openssl libevent_pthreads libunbound libcurl libidn2 libpcre2-8 yaml-0.1 libseccomp
WARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla \
        -Wformat=2 -Wundef -Werror
# Asked once, and not before the first file is compiled: so `make deps build` finds what deps installed.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $$(PKGS) | sed 's/-I/-isystem /g'))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $$(shell pkg-config --libs $$(PKGS)))$(PKG_LIBS)
CPPFLAGS += -I. -D_GNU_SOURCE -DPOSTCHUTE_VERSION='"$(VERSION)"' -include server/base/banned.h
CFLAGS_release := -O2 -g -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fPIE
CFLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -fPIE
CFLAGS_tsan := -O1 -g -fno-omit-frame-pointer -fsanitize=thread -fPIE
CFLAGS_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined
# the same targets at several times the speed: no ASan, undefined behaviour ends in a trap; what they find is run under `fuzz` afterwards
CFLAGS_fuzzfast := -O2 -g -fsanitize=undefined -fsanitize-trap=undefined -fsanitize-coverage=inline-8bit-counters,pc-table
CFLAGS_coverage := -O0 -g --coverage -fprofile-update=atomic
CFLAGS_fuzzcov := $(CFLAGS_coverage)
LDFLAGS_release := -pie -Wl,-z,relro,-z,now,-z,noexecstack,--as-needed
LDFLAGS_asan := -fsanitize=address,undefined -pie
LDFLAGS_tsan := -fsanitize=thread -pie
LDFLAGS_fuzz := -fsanitize=address,undefined
LDFLAGS_fuzzfast := -fsanitize=undefined -fsanitize-trap=undefined
# a test that ends without exit() writes down itself what it reached (tests/contract/test_store_short.c)
LDFLAGS_coverage := --coverage -Wl,-u,__gcov_dump
LDFLAGS_fuzzcov := --coverage
# libFuzzer is clang's
ifneq ($(filter fuzz fuzzfast,$(VARIANT)),)
override CC := clang
endif
ALL_CFLAGS = -std=gnu17 $(WARN) $(CFLAGS_$(VARIANT)) -pthread -MMD -MP $(PKG_CFLAGS) $(CFLAGS)
ALL_LIBS = $(PKG_LIBS) -lm -pthread

# ---- sources, found by folder --------------------------------------------------------------------------------
SRC := $(sort $(shell find server api storage -name '*.c' 2>/dev/null))
MAIN := server/main.c
LIB_SRC := $(filter-out $(MAIN),$(SRC))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
MAIN_OBJ := $(MAIN:%.c=$(B)/%.o)
UNIT_SRC := $(sort $(shell find tests/unit tests/contract tests/golden tests/transcript -name 'test_*.c' 2>/dev/null))
UNIT_BIN := $(UNIT_SRC:tests/%.c=$(B)/tests/%)
, := ,
FUZZ_SRC := $(sort $(shell find tests/fuzz -name 'fuzz_*.c' 2>/dev/null))
FUZZ_BIN := $(FUZZ_SRC:tests/%.c=$(B)/tests/%)
# C programs that the e2e, crash and bench suites use (receivers, load generators): one per file
TOOL_SRC := $(sort $(shell find tests/bench tests/crash tests/power tests/fault tests/e2e -name 'tool_*.c' 2>/dev/null))
TOOL_BIN := $(TOOL_SRC:tests/%.c=$(B)/tests/%)

.PHONY: build
build: $(B)/postchute

$(B)/postchute: $(MAIN_OBJ) $(B)/libpostchute.a
	@echo "  LINK $@"
	@$(CC) $(LDFLAGS_$(VARIANT)) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(B)/libpostchute.a: $(LIB_OBJ)
	@rm -f $@; $(AR) qcs $@ $(LIB_OBJ)

$(B)/%.o: %.c $(B)/.flags
	@mkdir -p $(@D)
	@echo "  CC   $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c -o $@ $<

# fuzzcov: the corpora alone, with counters
FUZZ_DRIVER := $(if $(filter fuzzcov,$(VARIANT)),$(B)/tests/fuzz/replay.o)
$(B)/tests/fuzz/replay.o: tests/fuzz/replay.c # named, or the rule below loses against the general one
# compiled by the rule for all: the linker alone is told of libFuzzer. A target may put functions of its own in the place of ours: it comes first
$(FUZZ_BIN): $(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(B)/libpostchute.a $(FUZZ_DRIVER) $(B)/.flags
	@echo "  TEST $@"
	@$(CC) $(LDFLAGS_$(VARIANT)) $(LDFLAGS) -Wl,-z,muldefs $(if $(FUZZ_DRIVER),,-fsanitize=fuzzer) -o $@ $< $(FUZZ_DRIVER) $(B)/libpostchute.a $(ALL_LIBS)

# what is preloaded to record, kill and starve, or for another time: nothing of the program is in it
$(B)/tests/power/shim.so: tests/power/shim.c tests/power/shim.h $(B)/.flags
	@mkdir -p $(@D)
	@echo "  SHIM $@"
	@$(CC) -I. -D_GNU_SOURCE -std=gnu17 $(WARN) -Wno-missing-prototypes -O2 -g -fPIC -shared -pthread -o $@ $< -ldl

SOAK_SO := $(B)/tests/soak/clock.so $(B)/tests/soak/preload.so
$(SOAK_SO): $(B)/%.so: %.c $(B)/.flags
	@mkdir -p $(@D)
	@echo "  SHIM $@"
	@$(CC) -I. -D_GNU_SOURCE -std=gnu17 $(WARN) -Wno-missing-prototypes -O2 -g -fPIC -shared -pthread -o $@ $< -ldl

# tests/unit/log_watch.h: an unexpected WARN or ERROR fails the test that caused it
$(UNIT_BIN): WATCH = $(B)/tests/unit/log_watch.o -Wl,--wrap=log_is_on,--wrap=log_write,--wrap=_cmocka_run_group_tests
$(UNIT_BIN): $(B)/tests/unit/log_watch.o
# tests/contract/sqlite_faults.h: calls of SQLite that are made to fail
STORE_BIN := $(filter $(B)/tests/contract/% $(B)/tests/unit/events/test_webhook,$(UNIT_BIN))
$(STORE_BIN): WATCH += $(B)/tests/contract/sqlite_faults.o $(addprefix -Wl$(,)--wrap=sqlite3_,open_v2 prepare_v2 prepare_v3 step exec wal_checkpoint_v2 extended_errcode errmsg system_errno)
$(STORE_BIN): $(B)/tests/contract/sqlite_faults.o
$(B)/tests/contract/test_store_files: WATCH += $(addprefix -Wl$(,)--wrap=,open fsync flock chmod ftruncate)
$(B)/tests/contract/test_store_failing: WATCH += -Wl,--wrap=clock_mono_ms
$(B)/tests/contract/test_store_short: WATCH += $(addprefix -Wl$(,)--wrap=,pthread_mutex_init pthread_cond_init pthread_condattr_init pthread_rwlock_init mem_try_zalloc sqlite3_vfs_register _exit)
# what is still in a block when it is freed
$(B)/tests/contract/test_store_settings: WATCH += -Wl,--wrap=free
# a clock that goes on while contents are read
$(B)/tests/unit/storage/test_readers: WATCH += -Wl,--wrap=clock_mono_ms
# no memory for the log's buffer
$(B)/tests/unit/storage/test_wal_file: WATCH += -Wl,--wrap=malloc
# comparisons of names, and a qsort() without memory
$(B)/tests/unit/api/test_json_tree: WATCH += -Wl,--wrap=memcmp,--wrap=qsort
# what a key's hash is compared with
$(B)/tests/unit/api/test_auth: WATCH += -Wl,--wrap=digest_equal
# a digest that has memory
$(B)/tests/unit/net/test_tls_verdict: WATCH += -Wl,--wrap=digest_sha256
# a store that holds back what is asked about webhooks
$(B)/tests/unit/api/test_http_webhooks: WATCH += -Wl,--wrap=store_post
# no memory for an attachment
$(B)/tests/unit/cli/test_send: WATCH += -Wl,--wrap=base64_encode
# the rules that a refusal is judged by
$(B)/tests/unit/delivery/test_delivery: WATCH += -Wl,--wrap=rules_find
# what the network answers to a connect()
$(B)/tests/unit/net/test_stream_connect: WATCH += -Wl,--wrap=getsockopt
# the questions that a lookup of mail servers asks
$(B)/tests/unit/net/test_mx: WATCH += -Wl,--wrap=dns_ask
# no memory for what a client makes grow
$(B)/tests/unit/smtp/test_dialogue $(B)/tests/unit/smtp/test_receive: WATCH += -Wl,--wrap=realloc
$(B)/tests/unit/smtp/test_receive: WATCH += -Wl,--wrap=malloc
# no descriptor for a client, and then none of the kernel's memory
$(B)/tests/unit/net/test_listener: WATCH += -Wl,--wrap=accept4,--wrap=event_add
# the stream of a session that is built by hand
$(B)/tests/unit/smtp/test_session: WATCH += $(addprefix -Wl$(,)--wrap=,stream_has_failed stream_pending stream_peek stream_write buf_status)
# no memory for what a stream is to send
$(B)/tests/unit/smtp/test_conversation: WATCH += $(addprefix -Wl$(,)--wrap=,evbuffer_add evbuffer_add_reference evbuffer_add_buffer)
# a store that holds captures back, and no memory for a message
$(B)/tests/unit/inbound/test_sandbox: WATCH += -Wl,--wrap=store_post,--wrap=mem_try_zalloc
# where the committer naps, and is waited for, its test comes in; the room on its disk
$(B)/tests/unit/storage/test_committer: WATCH += -Wl,--wrap=nanosleep,--wrap=thread_join,--wrap=statvfs
$(B)/tests/%: tests/%.c $(B)/libpostchute.a $(B)/.flags
	@mkdir -p $(@D)
	@echo "  TEST $@"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDFLAGS_$(VARIANT)) $(LDFLAGS) -o $@ $< $(WATCH) $(B)/libpostchute.a $(ALL_LIBS) -lcmocka

-include $(LIB_OBJ:.o=.d) $(MAIN_OBJ:.o=.d) $(UNIT_BIN:=.d) $(FUZZ_BIN:=.d) $(TOOL_BIN:=.d)
# a .c that was added or removed rebuilds the archive
$(B)/libpostchute.a: $(B)/.sources
$(B)/.sources: FORCE
	@mkdir -p $(@D); echo '$(LIB_SRC)' | cmp -s - $@ || echo '$(LIB_SRC)' > $@
# another compiler or other flags rebuild everything
$(B)/.flags: FORCE
	@pkg-config --exists --print-errors $(PKGS) || { echo "libraries are missing: make deps"; exit 1; }
	@mkdir -p $(@D); echo '$(FLAGS_STAMP)' | cmp -s - $@ || echo '$(FLAGS_STAMP)' > $@
FLAGS_STAMP = $(subst ','"'"',$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDFLAGS_$(VARIANT)) $(LDFLAGS) $(ALL_LIBS))
.PHONY: FORCE
FORCE:
.SECONDARY:

# ---- everyday (a line that begins with `##` is shown by `make help`) ------------------------------------------------------------------------------------------------
.PHONY: help
help:
	@sed -n 's/^## /  make /p' $(filter-out %.d,$(MAKEFILE_LIST))

## build      the program, build/release/postchute (VARIANT=asan|tsan|coverage: build/<variant>/postchute)
## unit       the unit tests
.PHONY: unit unit-bins
unit-bins: $(UNIT_BIN)
unit: unit-bins
	@tests/run-unit $(UNIT_BIN)

## asan tsan  the unit tests under the sanitizers, each in a build folder of its own
.PHONY: asan tsan
asan tsan:
	@$(MAKE) VARIANT=$@ unit

# What a fuzz target finds stays in build/<variant>/corpus, the seeds are only read. So is, under ASan, what the fast build found: it is run first.
## fuzz       every fuzz target for FUZZ_SECONDS=20, or FUZZ_RUNS=100000000 executions each, under ASan and UBSan (FUZZ="url reply": these; FUZZ_JOBS: so many side by side)
## fuzzfast   the same at several times the speed: UBSan's traps, no ASan
FUZZ_RUNS ?=
FUZZ_JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= $(if $(FUZZ_RUNS),0,20)
FUZZ ?= $(FUZZ_SRC:tests/fuzz/fuzz_%.c=%)
.PHONY: fuzz fuzzfast fuzz-bins fuzz-run
fuzz fuzzfast:
	@$(MAKE) -j$(FUZZ_JOBS) VARIANT=$@ fuzz-run
fuzz-bins: $(FUZZ_BIN)
fuzz-run: $(FUZZ:%=fuzz-run-%)
fuzz-run-%: $(B)/tests/fuzz/fuzz_%
	@found=$(B)/corpus/$*; seeds=tests/fuzz/corpus/$*; fast=build/fuzzfast/corpus/$*; mkdir -p $$found; \
	$(B)/tests/fuzz/fuzz_$* -runs=$(or $(FUZZ_RUNS),-1) -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
	    -max_len=$$(sed -n "s/^$* //p" tests/fuzz/max_len | grep . || echo 1000) \
	    $$( [ ! -f tests/fuzz/dict/$*.dict ] || echo -dict=tests/fuzz/dict/$*.dict ) \
	    -artifact_prefix=$(B)/ $$found $$( [ ! -d $$seeds ] || echo $$seeds ) \
	    $$( [ $$found = $$fast ] || [ ! -d $$fast ] || echo $$fast ) >$(B)/$*.log 2>&1 \
	    || { cat $(B)/$*.log; echo "fuzz: $* failed; the input is in $(B)/"; exit 1; }; \
	echo "  FUZZ $* ($(if $(FUZZ_RUNS),$(FUZZ_RUNS) executions$(if $(filter-out 0,$(FUZZ_SECONDS)), or $(FUZZ_SECONDS) s),$(FUZZ_SECONDS) s))" \
	    "$$(sed -n 's/^stat::number_of_executed_units: */executions: /p; s/^stat::average_exec_per_sec: */a second: /p' $(B)/$*.log | paste -sd' ')"

## install    the program, its service for systemd and its user (PREFIX=/usr/local, DESTDIR; UNITDIR, SYSUSERSDIR, SYSCONFDIR)
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
DOCDIR ?= $(PREFIX)/share/doc/postchute
.PHONY: install uninstall
install: build
	install -D -m 0755 $(B)/postchute $(DESTDIR)$(PREFIX)/bin/postchute
	install -d -m 0755 $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(DOCDIR)
	install -d -m 0700 $(DESTDIR)$(SYSCONFDIR)/postchute
	sed -e 's|/usr/local/bin/|$(PREFIX)/bin/|; s|/usr/local/share/doc/postchute|$(DOCDIR)|; s|/etc/postchute|$(SYSCONFDIR)/postchute|g' \
	    server/postchute.service >$(DESTDIR)$(UNITDIR)/postchute.service
	install -m 0644 server/postchute.sysusers $(DESTDIR)$(SYSUSERSDIR)/postchute.conf
	install -m 0644 README.md CHANGELOG.md LICENSE $(DESTDIR)$(DOCDIR)
## uninstall  removes what install put there; settings and the outbox stay
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/postchute $(DESTDIR)$(UNITDIR)/postchute.service $(DESTDIR)$(SYSUSERSDIR)/postchute.conf
	rm -rf $(DESTDIR)$(DOCDIR)

## fuzz-coverage  what the corpora of the fuzz targets reach of the parsers
.PHONY: fuzz-coverage
fuzz-coverage:
	@tests/fuzz-coverage

include tests/suites.mk

## clean      removes what was built
.PHONY: clean
clean:
	rm -rf build
