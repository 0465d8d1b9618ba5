# Two commands do everything: `make demo` and `make test`. Both install what is missing first.
SHELL := /bin/bash
PACKAGES := libopenblas-dev zlib1g-dev libpcre2-dev libjansson-dev nettle-dev libutf8proc-dev pkg-config curl
RELEASE := swift build -c release --static-swift-stdlib
STRICT := -Xswiftc -warnings-as-errors
TOOL := .build/release/peft-tool
PREFIX ?= /usr/local
STATIC_PACKAGES := libgfortran-12-dev python3-venv zsh fish lintian debootstrap
DEMO := Fixtures/merge/llama-bf16-all-linear

# What is shown of a run of tests: failures and the summary. The whole stands in .build/test.log.
QUIET := { grep -vE '^(◇|✔ (Test|Suite) [^r]|\[[0-9]+/[0-9]+\]|Test (Suite|Case) )' || true; }

.PHONY: demo test mpi build bootstrap browser lint bench fuzz sanitize docs examples dist dist-bootstrap install uninstall clean

demo: build
	rm -rf .build/demo
	$(TOOL) --version
	$(TOOL) inspect $(DEMO)/adapter
	$(TOOL) count $(DEMO)/base $(DEMO)/adapter
	$(TOOL) merge $(DEMO)/base $(DEMO)/adapter .build/demo
	@echo "# against the result that PEFT itself computed:"
	$(TOOL) diff .build/demo $(DEMO)/merged --tolerance 0.004

build: bootstrap
	$(RELEASE) --product peft-tool

test: bootstrap lint
	swift build --build-tests $(STRICT)
	set -o pipefail; swift test --skip-build 2>&1 | tee .build/test.log | $(QUIET)
	set -o pipefail; TESTS_OF=TensorMathTests swift test -c release --scratch-path .build/release-tests -Xswiftc -enable-testing 2>&1 \
	  | tee .build/test-release.log | $(QUIET)
	@Tools/require-tests .build/test.log .build/test-release.log

# The tests of several ranks under mpirun, built with the trait that the other targets do without: docs/clusters.md.
mpi: bootstrap
	@$(MAKE) -s bootstrap PACKAGES="libopenmpi-dev openmpi-bin"
	swift build --build-tests --traits MPI --scratch-path .build/mpi $(STRICT)
	set -o pipefail; swift test --skip-build --traits MPI --scratch-path .build/mpi --filter MPITests 2>&1 \
	  | tee .build/test-mpi.log | $(QUIET)
	@Tools/require-tests .build/test-mpi.log

bootstrap:
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; \
	fi

# For the test that shows the report in a browser; without it that test is skipped.
browser:
	@[ -x /usr/bin/chromium ] || { sudo=$$([ $$(id -u) = 0 ] || echo sudo); $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

lint:
	swift format lint --strict --recursive Sources Tests Package.swift

bench: bootstrap
	$(RELEASE)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE .build/release/peft-bench startup
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE .build/release/peft-bench kernels
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE .build/release/peft-bench merge
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE .build/release/peft-bench methods --rounds 3
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE .build/release/peft-bench trust --rounds 3

fuzz: bootstrap
	FUZZ_ROUNDS=1000000 swift test -c release --scratch-path .build/fuzz -Xswiftc -enable-testing --filter "NeverTrap|aSmallFile|HostileSize"

# Tests that start programs are left out: Foundation reads past a buffer when it starts one, and the programs are built plain.
sanitize: bootstrap
	ASAN_OPTIONS=detect_leaks=0 swift test --sanitize=address --scratch-path .build/address --skip peft_toolTests --skip aBrowserShowsTheReport
	swift test --sanitize=thread --scratch-path .build/thread --skip peft_toolTests --skip aBrowserShowsTheReport

# The task pages and the libraries' API as one site: python3 -m http.server -d .build/docs
docs: bootstrap
	swift build
	Tools/docs .build/debug .build/docs

# What stands in examples/: a Swift client by path, a shell session, a Python session.
examples: bootstrap
	swift build --product peft-tool
	Tools/run-examples .build/debug

# One static file and all that is made of it, under dist/, each checked in a fresh root: docs/release.md.
dist: bootstrap dist-bootstrap
	Tools/dist/build .build/static
	Tools/dist/package .build/static dist
	Tools/dist/check dist

dist-bootstrap:
	@$(MAKE) -s bootstrap PACKAGES="$(STATIC_PACKAGES)"

install: build
	Tools/install $(TOOL) $(DESTDIR)$(PREFIX)

uninstall:
	Tools/install --remove $(DESTDIR)$(PREFIX)

clean:
	rm -rf .build dist
