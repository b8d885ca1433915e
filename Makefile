# The rituals. Each creates .venv when it is missing; nothing but Python 3.11+ and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
DEBIAN_PACKAGES := mosquitto ser2net socat openssl chromium faketime

.PHONY: help demo test check bench proof fuzz screenshots servers clean

help:
	@echo "make demo    the whole thing without hardware, until Ctrl-C"
	@echo "make test    lint, types and all tests"
	@echo "make check   lint and types only"
	@echo "make bench   the benchmarks, one line a figure"
	@echo "make proof   faults, kills and a day of readings, and a year, counted (half an hour)"
	@echo "make fuzz    coverage-guided fuzzing of all that takes bytes from outside"
	@echo "make screenshots  those of the README"
	@echo "make clean   remove what these made"

demo: $(VENV)/.demo
	$(BIN)/kamstrup-mqtt demo $(ARGS)

test: servers check
	$(BIN)/pytest -q -n 6 --cov=kamstrup_mqtt.kmp --cov-branch --cov-fail-under=100 $(ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.bench
	@$(BIN)/python benchmarks/bench.py

proof: servers $(VENV)/.test
	@$(BIN)/python benchmarks/proof.py $(ARGS)

screenshots: servers $(VENV)/.test
	@$(BIN)/python docs/screenshots.py

# So many inputs for each target; what it finds grows in fuzz/corpus, which is not kept in git.
FUZZ_RUNS ?= 100000

fuzz: $(VENV)/.fuzz
	for target in telegrams values commands config captures tables; do \
	  $(BIN)/python -m fuzz $$target -runs=$(FUZZ_RUNS) -max_len=600 || exit 1; \
	done

# What the tests start for real. Root installs what is missing, others are told.
servers:
	@missing=; for name in $(DEBIAN_PACKAGES); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $$name >/dev/null || missing="$$missing $$name"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "The tests need:$$missing. On Debian: sudo apt-get install$$missing" >&2; exit 1; \
	fi; \
	echo "Installing$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kamstrup-mqtt needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "No virtual environment; on Debian: sudo apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.%: $(VENV)/.venv pyproject.toml
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage fuzz/corpus
