# Packages that building and testing need (listed in tests/packages); each target installs what is missing and is
# quick when nothing is.
.PHONY: deps deps-test deps-lint deps-fuzz deps-image npm peers
deps: ## install what building and running need (apt; asks dpkg only when all is there)
	@tests/deps build
deps-test: ## the same for `make test`
	@tests/deps build test
deps-lint:
	@tests/deps build test lint
deps-fuzz:
	@tests/deps build fuzz
deps-image:
	@tests/deps image

npm: ## unpack the npm packages that the tests verify with, under build/npm
	@tests/npm/install
peers: ## unpack the real servers that the tests talk to, under build/peers
	@tests/peers/fetch
