# Static checks: tests/lint/run names them; each can be run alone.
.PHONY: lint lint-test format readme
## lint       format, clang-tidy, cppcheck, floors and fences, headers alone, SQL, words, routes against OpenAPI
lint: deps-lint
	@tests/lint/run
# the checks find what they are there for
lint-test: deps-lint
	@/usr/bin/python3 -m pytest -p no:cacheprovider -q tests/lint
## format     lays the C files out as `make lint` wants them
format:
	@tests/lint/format --fix
## readme     writes the README's table of settings anew
readme: build
	@tests/lint/readme --fix
