# Everything a person or a machine does here: `make demo`, `make test`, `make site`. `make help` lists the rest.
# The set-up (.venv) is made on the first call and again when pyproject.toml changes.
SHELL   := /bin/bash
PYTHON  ?= python3
BIN     := .venv/bin
READY   := .venv/.ready
SYSTEMS := $(notdir $(patsubst %/,%,$(wildcard nbs/experiments/suites/*/)))
DEMO    := $(addsuffix /demo,$(SYSTEMS))
WORKERS ?= 2
# One more than cores: a fifth of the time a test waits for a process of its own.
TESTERS ?= 3
NB      ?=
BY_HAND := tests benchmarks data/samples cpp/golden .ci/drift .ci/notebooks .ci/stored.py .ci/forked.py thesis_surrogates/cli.py thesis_surrogates/_cli_results.py thesis_surrogates/__main__.py thesis_surrogates/_site.py
LAB     ?=
comma   := ,
# One thread a process: two runs, or two tests, share two cores without fighting over them.
export OMP_NUM_THREADS ?= 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup lab demo published published-tracks gpu site test drift imports lint types notebooks pytest export clean-notebooks text notebook clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

setup: $(READY)  ## make .venv and install into it (the other targets do it by themselves)
$(READY): pyproject.toml .ci/setup
	@.ci/setup $(PYTHON)

lab: $(READY)  ## JupyterLab on the notebooks; LAB="--no-browser --port 8899" passes its options on
	@.ci/lab $(BIN)/python $(LAB)

demo: $(READY)  ## data, training, comparison and site of all systems, in 10 to 15 minutes
	@start=$$SECONDS; now=$$SECONDS; set -e; mkdir -p .make; rm -f .make/demo_times.tsv; \
	stage() { printf '%s\t%s\n' "$$1" $$((SECONDS - now)) >> .make/demo_times.tsv; now=$$SECONDS; }; \
	echo "== data"; $(BIN)/surrogates data $(DEMO); stage data; \
	echo "== training, $(WORKERS) runs at a time"; failed=0; $(BIN)/surrogates sweep $(DEMO) --workers $(WORKERS) || failed=$$?; stage training; \
	echo "== comparison"; $(BIN)/surrogates report $(DEMO); stage comparison; \
	echo "== site"; $(BIN)/surrogates site; stage site; \
	echo "demo: $$((SECONDS - start)) s, stages in .make/demo_times.tsv. Tables and figures: outputs/reports/ . All of it as pages: open _docs/index.html in a browser."; \
	[ $$failed = 0 ] || echo "demo: some runs failed; see the table above, and: $(BIN)/surrogates status"; exit $$failed

published: $(READY)  ## train the comparison suites with three seeds and put their facts into outputs/published
	@set -e; for system in $(SYSTEMS); do $(BIN)/surrogates sweep $$system/comparison --seeds 0,1,2 --workers $(WORKERS) --out outputs/comparison; done; \
	$(BIN)/surrogates publish outputs/comparison

STUDY ?= $(addsuffix :0$(comma)1$(comma)2,frontier long_leg seed_domain variable_legs dipole grid_map core physics_losses training_length training_size momentum data_size)
published-tracks: $(READY)  ## the suites of the track study (STUDY=suite:seeds ...) into outputs/published
	@set -e; for entry in $(STUDY); do $(BIN)/surrogates sweep tracks/$${entry%%:*} --seeds $${entry##*:} --workers $(WORKERS) --out outputs/study; done; \
	$(BIN)/surrogates publish outputs/study

site: $(READY)  ## the documentation with all stored results, in _docs/
	@$(BIN)/surrogates site

gpu: $(READY)  ## all systems on a CUDA device, beside the processor; one line where there is none
	@$(BIN)/python benchmarks/gpu.py

test: $(READY)  ## everything that continuous integration checks, in 20 to 25 minutes
	@set -e; start=$$SECONDS; mkdir -p .make; rm -f .make/test_times.tsv; \
	for checks in drift imports lint "types notebooks" pytest; do \
	  now=$$SECONDS; echo "== $$checks"; make --no-print-directory -j2 $$checks || { echo "make test: '$$checks' failed; repeat it alone with: make $$checks"; exit 1; }; \
	  echo "   ($$checks: $$((SECONDS - now)) s)"; printf '%s\t%s\n' "$$checks" $$((SECONDS - now)) >> .make/test_times.tsv; \
	done; \
	echo "make test: all passed in $$((SECONDS - start)) s; stages in .make/test_times.tsv, slow tests in .make/pytest.log"; tail -n 1 .make/pytest.log

drift: $(READY)  ## generated modules and notebooks are what nbdev makes of the notebooks
	@$(BIN)/python .ci/drift export
	@$(BIN)/python .ci/drift clean

imports: $(READY)  ## the import law of .importlinter
	@$(BIN)/lint-imports --no-cache

lint: $(READY)  ## ruff, rules and format, on the notebooks and on what is written by hand
	@$(BIN)/ruff check nbs site $(BY_HAND)
	@$(BIN)/ruff format --check -q nbs site $(BY_HAND) || { echo "make lint: run: ruff format nbs site $(BY_HAND)"; exit 1; }

types: $(READY)  ## mypy on the package and on the tools of the site
	@$(BIN)/mypy -p thesis_surrogates
	@$(BIN)/mypy site/*.py

notebooks: $(READY)  ## run every notebook, two at a time, within its time budget; what it shows is what is stored
	@$(BIN)/python .ci/notebooks

pytest: $(READY)  ## the tests that only guard: contracts, faults, wheel, site, README, hygiene
	@mkdir -p .make; set -o pipefail; $(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder --durations=40 2>&1 | tee .make/pytest.log

export: $(READY)  ## write thesis_surrogates/ from the notebooks
	@PYTHONWARNINGS=error::UserWarning $(BIN)/nbdev_export && $(BIN)/nbdev_clean

clean-notebooks: $(READY)  ## strip from the notebooks what does not belong in git
	@$(BIN)/nbdev_clean

text: $(READY)  ## NB=02_tracks/00_analytic_fields: the notebook as text, .work/02_tracks/00_analytic_fields.py
	@.ci/notebook text $(NB)

notebook: $(READY)  ## NB=02_tracks/00_analytic_fields: the text back into the notebook, run, exported, cleaned
	@.ci/notebook run $(NB)

clean:  ## delete what can be made again, except .venv, data and outputs
	rm -rf _docs _proc build dist .make .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
