# What is run against the built program. The variables of the Makefile apply: VARIANT=asan make e2e.

## run        installs what is missing, builds, and starts the development profile: a sandbox that receives all mail
.PHONY: run
run:
	@$(MAKE) deps
	@$(MAKE) build
	@exec $(B)/postchute serve --dev

## test       installs what is missing, builds, and runs the unit, contract, golden, transcript and end-to-end tests
.PHONY: test e2e
test:
	@$(MAKE) deps-test
	@tests/run-all

## e2e        the end-to-end tests alone (E2E="-k webhook" chooses)
E2E ?= tests/e2e
e2e: build $(B)/tests/soak/clock.so
	@POSTCHUTE_BIN=$(B)/postchute tests/e2e/run $(E2E)

## e2e-tsan   the end-to-end tests against the program under the thread sanitizer
.PHONY: e2e-tsan
e2e-tsan:
	@$(MAKE) VARIANT=tsan e2e

## valgrind   the unit tests under memcheck
.PHONY: valgrind
valgrind: unit-bins
	@tests/valgrind $(UNIT_BIN)

## proof      kills, power cuts, failing calls and a soak, in short forms of three minutes together
.PHONY: proof
proof:
	@$(MAKE) deps-test
	@tests/run-all proof

## conformance  each line of the mail RFCs and each threat, and whether its tests pass (tests/conformance.md, tests/PROOF.md)
.PHONY: conformance
conformance: unit-bins tools
	@tests/conformance

## tools      the program and all that these suites run with it or preload: what the scripts of tests/PROOF.md need that are run directly
.PHONY: tools
tools: build $(TOOL_BIN) $(B)/tests/power/shim.so $(SOAK_SO)

## crash      kills a loaded server CRASH_CYCLES=500 times and compares promises with deliveries
CRASH_CYCLES ?= 500
CRASH_BATCH ?= 250
.PHONY: crash bench
crash: tools
	@tests/crash/run --cycles $(CRASH_CYCLES) --batch $(CRASH_BATCH) --build $(B)

## points     kills the store at each system call that changes it (POINTS_STEP=20: at about one of 20)
POINTS_STEP ?= 1
.PHONY: points
points: tools
	@tests/crash/points --build $(B) --step $(POINTS_STEP)

## points-server  the same for the whole server, at each call that changes or sends something (POINTS_STEP as well)
.PHONY: points-server
points-server: tools
	@tests/crash/server --build $(B) --step $(POINTS_STEP)

## power      cuts the disk's power in POWER_IMAGES=100000 ways and looks for what had been acknowledged
POWER_IMAGES ?= 100000
.PHONY: power
power: tools
	@tests/power/run --images $(POWER_IMAGES) --build $(B)

## faults     lets the disk and the memory fail under the store at each call (FAULTS_STEP=20: at about one of 20)
FAULTS_STEP ?= 1
.PHONY: faults
faults: tools
	@tests/fault/run --build $(B) --step $(FAULTS_STEP)

## faults-server  the same for the whole server under load, all of its libraries: each kind of fault once (FAULTS_SHORT=1: what once found something)
FAULTS_SHORT ?=
.PHONY: faults-server
faults-server: tools
	@tests/fault/server --build $(B) $(if $(FAULTS_SHORT),--short,--each-kind --together 4)

## soak       mixed load with faults for SOAK_SECONDS=3600: nothing lost, nothing grows (tests/soak/run --hours 72 is the long form)
SOAK_SECONDS ?= 3600
.PHONY: soak
soak: tools
	@tests/soak/run --seconds $(SOAK_SECONDS) --build $(B)

## bench      measures accepting, delivering and memory beside a load generator and a sink
# What it compares with is unpacked while this is built, two at a time unless make was told otherwise; what went wrong there, run tells.
.PHONY: bench-tools
bench-tools: $(filter $(B)/tests/bench/%,$(TOOL_BIN))
bench:
	@$(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),:,tests/bench/fetch) & $(MAKE) -s --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j2) build bench-tools; built=$$?; wait; exit $$built
	@tests/bench/run --binary $(B)/postchute

## timing     whether the time of a refused API key tells anything, a million keys of each class; nothing passes or fails
.PHONY: timing tenants
timing: tools
	@$(B)/tests/bench/tool_timing

## tenants    what one tenant's flood does to another's p99; nothing passes or fails
tenants: tools
	@tests/bench/tenants --binary $(B)/postchute

## coverage   the tests with counters, lines and branches by folder; the report is build/coverage/report.txt
.PHONY: coverage
coverage:
	@$(MAKE) deps-test
	@tests/coverage

## branches   the branches of the outbox and of what writes to the wire, by their own tests: each has to be taken
.PHONY: branches
branches:
	@tests/coverage --branches

## mutation   changes the code in small ways, MUTATION_SAMPLE=60 a room (0: all), and counts how many changes a test notices
MUTATION_SAMPLE ?= 60
.PHONY: mutation
mutation:
	@$(MAKE) deps-test
	@tests/mutation/run --sample $(MUTATION_SAMPLE) --jobs $(shell nproc)

## image      the container image, and a test of it, with buildah over a base made by debootstrap
.PHONY: image
image: deps-image
	@tests/image/run

## ci         what the project's continuous integration runs
.PHONY: ci
ci:
	@.ci/run
