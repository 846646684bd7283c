# `make demo` and `make test` set the project up first (scripts/install.sh), once: the stamp is younger than what it is
# made from until one of these files changes.
STAMP := .venv/.installed
PYTEST_ARGS ?=
DATA ?=
WEIGHTS ?= data/efficientnet_lite0.pt

.PHONY: help setup demo test check slices bench clean

help:
	@echo "make demo    run the whole loop on the embedded data set"
	@echo "make test    lint, check the format, run the tests (PYTEST_ARGS='-k svm' to choose)"
	@echo "make check   what takes longer than a test: notebooks, an empty environment, kills, bad inputs"
	@echo "make slices  the short slice benchmark on drawn scenes (DATA=FOLDER with CIFAR-10: on its photographs)"
	@echo "make bench   ours, a peer and the limit: a table of what is fast, on one core, in about five minutes"
	@echo "make setup   install what is missing: system packages, .venv, requirements.txt, this project (PYTHON=python3.12 to choose)"
	@echo "make clean   remove the demo's output, builds and caches; .venv, runs/ and data/ stay"

$(STAMP): requirements.txt setup.py pyproject.toml scripts/install.sh
	bash scripts/install.sh

# Always runs the script: this is how to change the interpreter or to mend a broken .venv.
setup:
	bash scripts/install.sh

demo: $(STAMP)
	.venv/bin/failure-directions demo

# Tests: two processes of one thread each; the tests of a file share what they have made, and stay together.
test: $(STAMP)
	bash scripts/install.sh browser
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not check" $(PYTEST_ARGS)

# Types of the public functions, what is marked as too long for a test, and the trials.
check: $(STAMP)
	.venv/bin/mypy
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile -m check $(PYTEST_ARGS)
	rm -rf build/trials && mkdir -p build/trials
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.trials.kill_trials --kills 39 --out build/trials/kills
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.trials.races --rounds 5 --out build/trials/races
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.trials.bad_inputs --trials files --out build/trials/inputs

# About ten minutes; the whole of it: docs/slices.md.
SLICE_METHODS = ours one_svm domino:per_class kmeans_errors prototype confidence random_guesses
SLICES = $(if $(DATA),--settings several --seeds 1,--settings scenes --seeds 1 2 3)
slices: $(STAMP)
	.venv/bin/python -m benchmarks.slices.make $(SLICES) --out data/slices $(if $(DATA),--data "$(DATA)" --weights "$(WEIGHTS)")
	.venv/bin/python -m benchmarks.slices.run $(SLICES) --data data/slices --out data/slices/short.csv --methods $(SLICE_METHODS)
	.venv/bin/python -m benchmarks.slices.report data/slices/short.csv --out data/slices/short

bench: $(STAMP)
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/bench_speed.py --out build/bench.md

clean:
	rm -rf demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -path ./.git -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
