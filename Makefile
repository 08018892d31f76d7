# Nothing but a Python of at least 3.12 is needed; the environment is made in .venv on first use.
# Another interpreter is chosen with `make PYTHON=/path/to/python ...`.
.POSIX:
.SUFFIXES:

PYTHON =
PYTEST = .venv/bin/python -m pytest
# How many processes run the tests side by side; 0 runs them in one.
PROCESSES = 2
SHARED_OUT = -n $(PROCESSES) --dist worksteal
READY = .venv/ready

help:
	@echo 'make demo      a synthetic sky, two trained networks, predictions 8 times finer, and a report of it all'
	@echo 'make test      lint, types, then all tests but the long scientific ones'
	@echo 'make explore   the tests with random cases, with other cases in every run'
	@echo 'make science   the long runs that judge the science against synthetic truth'
	@echo 'make bench     the benchmarks, and their table'
	@echo 'make bench-large  the runs at nside 16384, full sky: some 60 GB of disk and half an hour'
	@echo 'make lint      ruff and mypy'
	@echo 'make clean     remove what the others made, except the environment .venv'
	@echo 'make distclean remove .venv too'

demo: $(READY)
	rm -rf demo-output
	.venv/bin/skymill demo --out demo-output

# The fast tests first: most mistakes show within a minute.
test: lint
	$(PYTEST) -q $(SHARED_OUT) -m 'not science and not bench and not slow and not faults'
	$(PYTEST) -q $(SHARED_OUT) -m '(slow or faults) and not science and not bench'

explore: $(READY)
	$(PYTEST) -q $(SHARED_OUT) -m hypothesis --hypothesis-profile=explore

science: $(READY)
	$(PYTEST) -q -s -m science

bench: $(READY)
	$(PYTEST) -q -s -m 'bench and not large' tests/benchmarks

bench-large: $(READY)
	$(PYTEST) -q -s -m large tests/benchmarks

lint: $(READY)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

clean:
	rm -rf demo-output build dist skymill.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf .venv

# A candidate counts only if it runs: a version manager's shim may exist for a version that is not installed.
# The link .venv/typing/skymill gives the root its package name for mypy, whatever the checkout is called.
$(READY): pyproject.toml
	@good='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))'; \
	if ! .venv/bin/python -c "$$good" >/dev/null 2>&1; then \
	  found=; \
	  for candidate in "$(PYTHON)" python3.12 python3.13 python3.14 python3 python \
	      "$$HOME"/.pyenv/versions/3.1[2-9]*/bin/python; do \
	    if [ -n "$$candidate" ] && "$$candidate" -c "$$good" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -n "$(PYTHON)" ] && [ "$$found" != "$(PYTHON)" ]; then \
	    echo "PYTHON=$(PYTHON) is no Python >= 3.12 with the modules venv and ensurepip." >&2; exit 1; \
	  fi; \
	  if [ -z "$$found" ]; then \
	    echo 'skymill needs a Python >= 3.12 with the modules venv and ensurepip (on Debian and Ubuntu: package' >&2; \
	    echo 'python3-venv). None was found as python3.12, python3.13, python3.14, python3 or python, nor in' >&2; \
	    echo '~/.pyenv/versions. Install one, or name one: make PYTHON=/path/to/python demo' >&2; \
	    exit 1; \
	  fi; \
	  echo "creating .venv with $$found"; \
	  "$$found" -m venv --clear .venv; \
	fi
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@mkdir -p .venv/typing
	@rm -f .venv/typing/skymill
	@ln -s ../.. .venv/typing/skymill
	@touch $(READY)

.PHONY: help demo test explore science bench bench-large lint clean distclean
