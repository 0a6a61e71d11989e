# `make demo` runs the whole engine, `make test` runs every test. Each sets up what it needs, once.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
BIN    := .venv/bin
NOTEBOOKS := $(wildcard nbs/*.ipynb nbs/*/*.ipynb)
TESTS  ?= tests

.PHONY: help demo test runtimes hostile notebooks readme sync site docs
.DEFAULT_GOAL := help

help: ## List what can be made
	@grep -hE '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv: .venv/.ready ## Make the virtual environment and install everything into it

# torch comes first and pinned, so that no resolver picks a build with gigabytes of CUDA for it.
.venv/.ready: settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "recsys_nb needs Python 3.10 or newer; say which: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q '$(TORCH)'
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

demo: .venv ## Run the whole engine on the sample store: clean, train, export, index, recommend
	$(BIN)/recsys demo

test: .venv ## Run all notebooks and tests, and print the coverage
	$(BIN)/python -m slipcover --source recsys_nb --omit recsys_nb/_modidx.py --skip-covered -m pytest -q -p no:cacheprovider -n 2 --dist loadgroup --durations=8 $(TESTS)

runtimes: .venv ## Try the optional runtimes, OpenVINO and its int8, from a folder of their own
	$(BIN)/python -m pip install -q --no-deps --target .runtimes --upgrade openvino openvino-telemetry nncf pydot ninja
	PYTHONPATH=.runtimes $(BIN)/python -m pytest -q -p no:cacheprovider -k 'openvino or runtime' tests/test_machine.py tests/test_score_model.py

hostile: .venv ## Try 100,000 hostile inputs: files, lines, tables, sentences, requests, the service
	RECSYS_EXAMPLES=26 $(BIN)/python -m pytest -q -p no:cacheprovider -n 2 -m hypothesis --hypothesis-show-statistics $(TESTS)

notebooks: .venv ## Execute all notebooks in place, in fresh kernels, and clean them
	RECSYS_PROGRESS=0 $(BIN)/python -m nbconvert --to notebook --execute --inplace $(NOTEBOOKS)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: .venv ## Write README.md from nbs/index.ipynb
	@$(BIN)/python -c 'from recsys_nb.site import readme_of; text = readme_of("nbs/index.ipynb"); open("README.md", "w", encoding="utf-8").write(text)'

sync: .venv ## Export the library, clean the notebooks, write README.md: before every commit
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	@$(MAKE) -s readme

site: .venv ## Process the pages for the site into _proc, without Quarto
	$(BIN)/python -c 'from nbdev.serve import proc_nbs; proc_nbs()'

docs: .venv sync ## Build the documentation site into _docs (needs Quarto)
	$(BIN)/nbdev_docs
