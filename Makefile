# Every target sets up what it needs: Python packages in .venv, from the pins in requirements-*.txt, once per change.
# The machine needs Python 3.11 to 3.13 with pip, git and a C compiler; uv comes from PyPI where there is none.

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-full cold-start test chaos check docs pins clean

# cpu or gpu; what is installed stays the choice until another is named.
EXTRA ?= $(if $(wildcard .venv/.synced-gpu),gpu,cpu)
STAMP := .venv/.synced-$(EXTRA)
PY := .venv/bin/python

IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(IN_RANGE)' 2>/dev/null && { echo $$p; break; }; done)

# The uv on PATH where it is new enough to build sam2 against torch, else one of our own. pip's --target leaves the
# system's Python alone, so it needs no root and no venv module, and works where that Python is externally managed.
OWN_UV := .uv/bin/uv
UV := $(shell uv --version 2>/dev/null | grep -qE '^uv (0\.(1[3-9]|[2-9][0-9])|[1-9])' && command -v uv || echo $(OWN_UV))
NEED_UV := $(filter $(OWN_UV),$(UV))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the Python packages into .venv (GPU node: make setup EXTRA=gpu)
	@echo "ready: .venv ($(EXTRA))"

demo: $(STAMP) ## Train the shipped checkpoint with GRPO (20 steps) and evaluate it: runs/demo/report.html
	$(PY) -m rl.demo --config tiny --train-videos 400 --set grpo.steps=20

demo-full: $(STAMP) ## Do the same from nothing, cold start included: runs/demo_full/report.html
	$(PY) -m rl.demo --config tiny --from-nothing --train-videos 2500 --set run_dir=runs/demo_full \
	  --set data.train_root=runs/demo_full/data/train

SEED ?= 0
COLD = runs/cold_start-$(SEED)

cold-start: $(STAMP) ## Train the cold start of policy/tiny from nothing (SEED=0); longer than the demo's
	test -f $(COLD)/data/moving_shapes.json || \
	  $(PY) -m cot_data.moving_shapes --out $(COLD)/data --videos 2500 --seed 1
	$(PY) -m rl.sft_coldstart --config tiny_long --set run_dir=$(COLD) --set data.train_root=$(COLD)/data --set seed=$(SEED)

test: $(STAMP) ## Run the tests (less than 20 minutes on two cores)
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

chaos: $(STAMP) ## Run the long forms of the tests that kill and freeze workers, drivers and commands, and fill disks
	$(PY) -m pytest tests/chaos -m slow

check: $(STAMP) ## Check style, formatting and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

docs: $(STAMP) ## Build the documentation into build/docs; a warning is an error
	rm -rf docs/api/generated build/docs
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "site: build/docs/index.html"

pins: $(NEED_UV) ## Resolve pyproject.toml anew into requirements-cpu.txt and requirements-gpu.txt
	for extra in cpu gpu; do \
	  $(UV) pip compile pyproject.toml --extra $$extra --extra dev --generate-hashes --universal --python-version 3.11 \
	    -q --no-header -o requirements-$$extra.txt || exit 1; \
	done

clean: ## Remove .venv, .uv and the tools' caches; runs/ stays
	rm -rf .venv .uv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(OWN_UV):
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "== uv: not found (or older than 0.13), fetching it from PyPI into .uv"
	$(PYTHON) -m pip install --quiet --upgrade --target .uv 'uv>=0.13.8,<0.14'
	@echo '*' > .uv/.gitignore

# The last step puts this folder on the path of .venv, as an editable install would.
$(STAMP): requirements-$(EXTRA).txt | $(NEED_UV)
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "== Python packages ($(EXTRA)) into .venv: some 7 GB; minutes the first time, seconds from uv's cache"
	@rm -f .venv/.synced-*
	test -x $(PY) || $(UV) venv --no-python-downloads --python $(PYTHON) .venv
	$(UV) pip sync --require-hashes --python $(PY) requirements-$(EXTRA).txt
	@$(PY) -c "import pathlib, sysconfig; \
	pathlib.Path(sysconfig.get_path('purelib'), 'videoseg_rl.pth').write_text(str(pathlib.Path.cwd()) + '\n')"
	@touch $@
