# Every target makes the environment by itself when it is missing or out of date. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-cuda fuzz simulate chaos survey image-test metrics-test lint options docs format bench bench-levels quality scale pictures release clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# A step of the installation: what it does, how long it took; pip's many lines are kept, and shown if it fails.
step = printf '%s … ' $(1); began=$$(date +%s); \
	if $(2) >>$(VENV)/install.log 2>&1; then echo "$$(($$(date +%s) - began)) s"; else \
	echo failed; grep -Ev 'WARNING:|Requirement already satisfied:' $(VENV)/install.log | tail -n 200 >&2; echo 'all that was said: $(VENV)/install.log' >&2; exit 1; fi
# Python compiles what it imports, once; to compile everything beforehand takes longer than to unpack it.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
WANTED = import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *sum((p["optional-dependencies"][e] for e in ("dev", "data", "cluster")), []), sep="\n")

install: $(STAMP)  ## make .venv with everything in it
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard pipeline/engine/native/*/*.[ch])
	@echo '$(VENV): 3 GB on disk with a CPU build of torch, several more with a CUDA build (docs/how-to/install.md)'
	@mkdir -p $(VENV) && : >$(VENV)/install.log
	@$(call step,'1/3 the environment',test -x $(BIN)/python || $(PYTHON) -m venv $(VENV))
	@$(BIN)/python -c '$(WANTED)' >$(VENV)/requirements.txt
	@$(call step,'2/3 the packages of constraints.txt; this takes minutes',$(PIP) -r $(VENV)/requirements.txt)
	@$(call step,'3/3 promptmill with its kernels (the C code in pipeline/engine/native)',$(PIP) --no-deps -e .)
	@built=$$(cd pipeline/engine/native && ls _native-*.so 2>/dev/null | sed 's/_native-//; s/[.]so//' | sort | xargs); \
	echo "done; kernels for $${built:-no processor: without a C compiler torch does their work, more slowly}"
	@touch $@

demo: install  ## generate with the embedded model and prompts
	$(BIN)/promptmill generate experiment=demo

test: install  ## run the tests
	$(BIN)/python -m pytest -n auto

# The CUDA build of torch imports without a card, and answers some calls otherwise than the CPU build.
CUDA_VENV ?= build/cuda-venv
CUDA_TORCH ?= $(shell grep '^torch==' constraints.txt)
CUDA_TESTS = pyarrow hydra-core omegaconf jinja2 rich huggingface_hub safetensors transformers numpy scipy llguidance pytest hypothesis pyyaml
test-cuda:  ## run tests/engine/gpu under a CUDA build of torch, no card needed (6 GB, in CUDA_VENV=build/cuda-venv); CUDA_TORCH=torch==2.14.1
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	grep -vE '^(torch|triton|nvidia|cuda)' constraints.txt >$(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CUDA_VENV)/constraints.txt $(CUDA_TORCH) $(CUDA_TESTS)
	$(CUDA_VENV)/bin/python -c 'import torch; assert torch.version.cuda, f"torch {torch.__version__} is no CUDA build"'
	PYTHONPATH=. $(CUDA_VENV)/bin/python -m pytest -m "not slow" tests/engine/gpu

fuzz: install  ## run the tests with other random examples than last time
	$(BIN)/python -m pytest -n auto --hypothesis-profile=new

simulate: install  ## run simulated worlds in which everything fails; RUNS=1000000 of them from seed FIRST=0
	$(BIN)/python -m tests.run.simulation $(or $(RUNS),100000) $(or $(FIRST),0)

chaos: install  ## kill processes of real runs at random, and compare bytes; RUNS=100
	$(BIN)/python -m tests.faults.chaos $(or $(RUNS),100) $(or $(FIRST),0)

metrics-test: install  ## run Prometheus beside real jobs; needs prometheus and promtool on PATH, and ray[default]
	$(BIN)/python docker/monitoring/check.py

survey: install  ## try every causal language model of transformers, tiny and random; writes docs/reference/families.md
	$(BIN)/python -m tests.engine.survey
	$(BIN)/python -m pytest -m slow tests/engine/model/test_survey.py

image-test:  ## build the image with buildah on the base image BASE=, and run the demo in it; docker/README.md
	docker/image_test.sh $(BASE)

lint: install  ## check style, types and the floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

options: install  ## write what the code decides: options.md, columns.md, exit-codes.md and events.md of docs/reference
	$(BIN)/python -m jobs.help.document docs/reference

docs: install  ## build the documentation as a site, in site/; broken links are errors
	$(BIN)/python -m docs.build site

format: install  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install  ## measure, and print one table; BENCH="--help" lists its options
	$(BIN)/python -m benchmarks.run $(BENCH)

quality: $(VENV)/.quality  ## measure what each precision costs on real text; QUALITY="--help" lists its options
	$(BIN)/python -m benchmarks.quality $(QUALITY)
$(VENV)/.quality: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quality]'
	touch $@

bench-levels: install  ## measure the compiled kernels of each level, and the engine with them, beside torch; LEVELS="--help" lists its options
	$(BIN)/python -m benchmarks.levels $(LEVELS)

scale: install  ## measure the driver with up to a million made-up shards; SCALE="--help" lists its options
	$(BIN)/python -m benchmarks.scale $(SCALE)

pictures: install  ## run the demo model, check its report in Chromium, take the pictures of docs; NODE_PATH=node_modules
	$(BIN)/python -m tests.browser.pictures

release: install  ## build sdist and wheel, try the wheel in an environment of its own, tag the commit with the version
	.ci/release $(BIN)/python

clean:  ## remove the environment, caches and builds; outputs stay
	rm -rf $(VENV) pipeline/engine/native/_native*.so build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
