# Packages that building and testing need (tests/packages lists them); a target is quick when nothing is missing.
.PHONY: deps deps-test deps-lint deps-fuzz deps-image
## deps       installs what building and running need (Debian 12, 13, Ubuntu 24.04; elsewhere it lists the packages)
deps:
	@tests/deps build run
deps-test:
	@tests/deps build test
	@tests/npm/install
	@tests/peers/fetch
deps-lint:
	@tests/deps build test lint
deps-fuzz:
	@tests/deps build fuzz
deps-image:
	@tests/deps image
