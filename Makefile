# largescale: `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
MEASURED := --cov=largescale --cov=shards --cov-report=term:skip-covered

.DEFAULT_GOAL := help
.PHONY: help setup demo check fast test lint docs bench gpu-check shards verify-shards clean torture

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY)  ## make .venv with everything (some minutes, 9 GB)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "largescale needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

demo: $(READY)  ## build the demo corpus, train, evaluate before and after; about 5 minutes on 2 cores
	$(BIN)/python launch/demo.py

check: $(READY)  ## lint, types and the fast tests, side by side: about a minute
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint fast

fast: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not distributed and not gpu"

test: $(READY)  ## the whole suite, eight to fifteen minutes on 2 cores; make test T=tests/losses: a part of it
ifdef T
	$(BIN)/python -m pytest $(T)
else
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),$(MEASURED))
endif

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the site, in site/; strict
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

torture: $(READY)  ## kills and flipped bytes, by hand and nightly; make torture N="kills=200 flips=1000"
	$(BIN)/python -m tests.torture $(N)

bench: $(READY)  ## speed, as ratios against a peer or a limit in the same run
	$(BIN)/python -m tests.benchmarks

gpu-check:  ## what one GPU does, in at most 8 minutes; writes gpu-check.md; make gpu-check ARGS="search faiss": some parts
	$(PYTHON) -m tests.benchmarks.gpu_check $(ARGS)

shards: $(READY)  ## make shards SOURCE=… OUT=… [LAYOUT=…] [ARGS="--max-side 512"]
	$(if $(and $(SOURCE),$(OUT)),,$(error make shards SOURCE=… OUT=…: which pictures, and the folder of the corpus))
	$(BIN)/python -m shards build "$(SOURCE)" --layout "$(LAYOUT)" --out "$(OUT)" $(if $(APPEND),--append) $(ARGS)

verify-shards: $(READY)  ## make verify-shards OUT=…: re-read a corpus against its manifest
	$(if $(OUT),,$(error make verify-shards OUT=…: the folder of the corpus))
	$(BIN)/python -m shards verify "$(OUT)"

clean:  ## remove .venv and caches; corpora and runs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
