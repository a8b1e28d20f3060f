# Each target does all its own set-up and works alone on a clean clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo ui test test-fast check fix mutate bench families lab study study-live tables docs build clean

demo: $(STAMP)            ## train a LoRA adapter on a real open model and show that it learned
	$(BIN)/workbench demo

ui: $(STAMP)              ## open the browser pages: the link it prints lets you in
	$(BIN)/workbench ui

# One thread each: two processes whose threads spin while they wait slow each other down tenfold.
test: $(STAMP)            ## the whole suite on every core, fast tests first; prints the slowest ten
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --durations=10

test-fast: $(STAMP)       ## what starts no job, server or browser and needs no torch; half a minute on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
	  -m "not slow and not postgres" --ignore=tests/hf --ignore=tests/ui --ignore=tests/reliability

check: $(STAMP)           ## ruff, mypy strict on the engine, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP)             ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutate: $(VENV)/.mutmut   ## change the code in one place, over and over: how many such mutants the tests kill; twenty minutes
	$(BIN)/python benchmarks/mutants.py

bench: $(STAMP)           ## training speed beside plain TRL, alternating: a Llama, a mixture of experts, a Gemma 2
	$(BIN)/python -m benchmarks.train

families: $(STAMP)        ## a tiny model of every family through everything; writes docs/families.md, ten minutes on two quiet cores
	$(BIN)/python -m benchmarks.families --write docs

lab: $(STAMP)             ## the lineage lab: small models, every adapter on every base; within an hour on two quiet cores
	$(BIN)/python -m benchmarks.lab --publish

study: $(STAMP)           ## a real model, its later versions and controls; hours on two cores. TEXT=folder BANKING77=folder
	$(BIN)/python benchmarks/study.py $(if $(TEXT),--text $(TEXT)) $(if $(BANKING77),--banking77 $(BANKING77)) --write docs

study-live: $(STAMP)      ## the newest stored version and two controls, checked again in minutes
	$(BIN)/python benchmarks/study.py --live

tables: $(STAMP)          ## write docs/simulation.md, docs/published.md and docs/selftest.md: what the commands print
	$(BIN)/python benchmarks/make_tables.py

docs: $(STAMP)            ## write the pages in docs/ that are derived from the code
	$(BIN)/python benchmarks/make_docs.py

build: $(STAMP)           ## a wheel in dist/
	$(BIN)/python -m pip wheel --no-deps --quiet --wheel-dir dist .

clean:
	rm -rf $(VENV) dist

# torch first: a build that already satisfies the pin keeps pip from looking for another one.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

$(VENV)/.mutmut: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'mutmut>=3.8'
	touch $@
