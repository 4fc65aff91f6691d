# `make reproduce` and `make test` need Python >= 3.11, git and a package index; each does all its own set-up.
SHELL := bash
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(if $(shell command -v $(name)),$(name))))
VENV   ?= .venv
CORES  ?= all
BIN    := $(VENV)/bin
# pip checks every file against the lock's hashes; the project itself is installed without asking for more.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check
# CPU=1: on Linux torch without its GPU libraries, from an index that has such builds; their hashes are not in the lock. The
# environment stays so.
WITHOUT_GPU = $(and $(filter Linux,$(shell uname)),$(or $(CPU),$(wildcard $(VENV)/without-gpu)))
SHORTENED = sed -E '/^(torch==|torchvision==|triton==|nvidia-|cuda-)/,/[^\\]$$/d'
CPU_TORCH = $(shell sed -nE 's/^(torch|torchvision)==([^ ]+) .*/\1==\2+cpu/p' requirements/main.lock)

.DEFAULT_GOAL := help
.PHONY: help setup reproduce quick pictures test test-slow test-real test-slurm test-s3 lint dvc bench bench-slurm gpu-suites gpu-why gpu-bench gpu-test kit lock clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.main: requirements/main.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(not ok and f"error: found Python {sys.version.split()[0]}, expected 3.11 or 3.12; set PYTHON=python3.11")'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
ifneq ($(WITHOUT_GPU),)
	@echo "installing $(CPU_TORCH) and what else requirements/main.lock names into $(VENV): under 1.5 GB"
	@$(INSTALL) --no-deps $(CPU_TORCH) || { echo "error: the package index has no builds of torch without GPU libraries: set \
	PIP_EXTRA_INDEX_URL to one that has (torch's page on installing names it), or leave CPU=1 out (5 GB more)" >&2; exit 1; }
	@$(SHORTENED) requirements/main.lock > $(VENV)/without-gpu
	@$(INSTALL) --no-deps --require-hashes -r $(VENV)/without-gpu
else
	@echo "installing what requirements/main.lock names into $(VENV): 6 GB on Linux, most of it torch's GPU libraries (CPU=1: without)"
	@$(INSTALL) --require-hashes -r requirements/main.lock
endif
	@$(INSTALL) --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.main requirements/test.lock
	@$(INSTALL) --quiet --no-deps --require-hashes -r <($(if $(WITHOUT_GPU),$(SHORTENED),cat) requirements/test.lock)
	@touch $@

setup: $(VENV)/.main  ## make the virtual environment

reproduce: $(VENV)/.main  ## run the main job (params.yaml) to its report
	@$(BIN)/snakemake --cores $(CORES)
	@echo "report: $$($(BIN)/lapml suite report)"

quick: $(VENV)/.main  ## a first look: three methods of the main job, one seed, few epochs, to a report
	@$(BIN)/snakemake --cores $(CORES) --configfile suites/quick.yaml
	@echo "report: $$($(BIN)/lapml suite report --params suites/quick.yaml)"

pictures: reproduce  ## draw README's picture again, from the main job's images, maps and first baseline
	@$(BIN)/lapml picture birds cutmix snapmix loc_cutmix --pair 9 --output docs/mixing.webp

# What one worker has compiled, the others and the next run read, whatever the environment says of that.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
# One process more than there are cores: some tests wait for the disk, or for processes of their own.
test: $(VENV)/.test  ## run the tests, but for those that take minutes
	@$(PYTEST) -n $$(($$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal -m "not slow" $(ARGS)

test-slow: $(VENV)/.test  ## run the others: both orchestrators from data to report, killed processes, several ranks
	@$(PYTEST) -n auto --dist worksteal -m slow $(ARGS)

test-real: $(VENV)/.test  ## run the tests on real CUB-200-2011 (LAPML_CUB200 or data/CUB_200_2011)
	@$(BIN)/python -m pytest -m real

test-s3: $(VENV)/.test  ## run the test of several machines over an S3 server of this machine
	@$(INSTALL) --quiet dvc-s3 'moto[server]'
	@$(BIN)/python -m pytest tests/workflow/test_machines.py

# As root on Debian or Ubuntu it installs SLURM; its daemons run only within the tests.
test-slurm: $(VENV)/.test  ## run the tests of profiles/slurm on a SLURM of this machine
	@PATH="$$PATH:/usr/sbin"; type munged slurmctld slurmd sbatch > /dev/null 2>&1 || [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null || \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends munge slurmctld slurmd slurm-client; }
	@$(INSTALL) --quiet --no-build-isolation -e '.[slurm]'
	@$(BIN)/python -m pytest -m slurm

lint: $(VENV)/.test  ## check the style of the code and of the workflow
	@$(BIN)/ruff check lapml benchmarks kit tests
	@$(BIN)/ruff format --check lapml benchmarks kit tests
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint

dvc: $(VENV)/.main  ## the same job through DVC
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro

# What runs read has to be there before they are timed or taken over: data, and the maps of suites that mix by maps.
READY = for stage in prepare localise; do $(BIN)/snakemake --quiet all --cores $(CORES) $(1) --until $$stage; done

BENCH := results/published/bench
bench: $(VENV)/.main  ## measure costs on this machine (after `make reproduce`), into results/published/bench/
	@set -e; $(call READY)
	@$(BIN)/python -m benchmarks rows --repeats 20 --steps 12 --output $(BENCH)
	@$(BIN)/python -m benchmarks profile --steps 20 --output $(BENCH)
	@$(BIN)/python -m benchmarks loaders --repeats 10 --steps 12 --output $(BENCH)
	@$(BIN)/python -m benchmarks options --repeats 10 --steps 12 --output $(BENCH)
	@$(BIN)/python -m benchmarks growth --repeats 5 --steps 8 --output $(BENCH)
	@$(BIN)/python -m benchmarks packing --output $(BENCH)

bench-slurm: $(VENV)/.test  ## time the tiny suite through a SLURM of this machine (after `make test-slurm`)
	@$(BIN)/python tests/slurm/cluster.py $(BIN)/python -m benchmarks slurm --output $(BENCH)

# gpu-SUITE makes the table of suites/SUITE.yaml on GPUs, over as many occasions as it takes: what is published is taken
# over, JOBS runs at a time share the GPUs, and within a minute of its end every run is published, even where others fail or
# LIMIT seconds (0: none) are over; those of the diagnosed method wait for its diagnosis. Give the same command again
# to go on (after a `kill -9` of Snakemake first `snakemake --unlock`: docs/usage.md). (Ctrl-C ends it where there is no LIMIT;
# else `pkill -INT snakemake` does.)
GPU_SUITES = recipe-cub200 choices-cub200 cub200 cub200-448 cub200-scratch paper
JOBS    ?= 1
LIMIT   ?= 0
gpu-suites:  ## gpu-SUITE for a SUITE named here: make its table on GPUs (set LAPML_CUB200), and publish it
	@printf 'make gpu-%s\n' $(GPU_SUITES)

.PHONY: $(GPU_SUITES:%=gpu-%)
$(GPU_SUITES:%=gpu-%): gpu-%: suites/%.yaml $(VENV)/.main
	@set -e; params="--params $<"; \
	$(call READY,--configfile $<); \
	$(BIN)/lapml publish --finished $$params; $(BIN)/lapml restore $$params; \
	(while sleep 60; do $(BIN)/lapml publish --finished $$params > /dev/null || true; done) & publishing=$$!; \
	trap "kill $$publishing 2> /dev/null || true" EXIT; status=0; \
	$(if $(filter-out 0,$(LIMIT)),timeout --signal=INT $(LIMIT)) \
	  $(BIN)/snakemake --keep-going --cores $(CORES) --resources gpu=$(JOBS) --configfile $< || status=$$?; \
	$(BIN)/lapml publish --finished $$params; \
	test $$status = 0 || exit $$status; \
	$(BIN)/lapml report --no-images $$params; $(BIN)/lapml publish $$params

STAGES = baseline cutmix loc_cutmix margin adaptive_margin
WHY := results/published/cub200-why
gpu-why: $(VENV)/.main  ## after gpu-cub200: which mistakes each stage removes, and where generated images lie
	@mkdir -p $(WHY)
	@$(BIN)/lapml confusions $(addprefix results/published/cub200/runs/cub200/,$(STAGES)) \
	  --group Sparrow --group Gull --group Tern --group Warbler > $(WHY)/.confusions.tmp
	@mv $(WHY)/.confusions.tmp $(WHY)/confusions.md; cat $(WHY)/confusions.md
	@$(BIN)/lapml distances $(addprefix results/cub200/runs/cub200/,$(STAGES) snapmix) --images 2000 --output $(WHY)

# model, side of the input, stored side; pack and results lie in results/MODEL-SIDE
GPU_BENCHES = resnet50-224-256 resnet50-448-512 resnet18-224-256 tf_efficientnet_lite0-224-256
gpu-bench: $(addprefix gpu-bench-,$(GPU_BENCHES))  ## measure costs on one GPU (set LAPML_CUB200), into results/published/bench/gpu/
gpu-bench-%: $(VENV)/.main
	@set -e; IFS=- read -r model side stored <<< "$*"; \
	common="--params suites/cub200.yaml --set suite=$$model-$$side --set model.name=$$model --set model.weights=none \
	  --set data.cub200.view.side=$$side --set data.cub200.stored_side=$$stored"; \
	measure="$$common --steps 20 --output $(BENCH)/gpu"; \
	$(BIN)/lapml data fetch cub200 $$common; $(BIN)/lapml data prepare cub200 $$common; \
	$(BIN)/lapml localise cub200 $$common; \
	$(BIN)/python -m benchmarks rows $$measure --repeats 20; $(BIN)/python -m benchmarks loaders $$measure --repeats 5; \
	$(BIN)/python -m benchmarks options $$measure --repeats 10; $(BIN)/python -m benchmarks profile $$measure

# A suite for a machine that reaches nothing (docs/offline.md): wheels for its Python, weights, and IMAGES, in pieces that
# take at most MIB MiB together with the checkout.
PY  ?= 312
OUT ?= kit/out
MIB ?= 60
kit: $(VENV)/.main  ## pack SUITE=suites/….yaml and IMAGES=DIR for PY=312 into kit/out, for kit/run.sh elsewhere
	@test -n "$(SUITE)" || { echo "error: make kit: SUITE: found nothing, expected a file such as suites/cub200.yaml" >&2; exit 1; }
	@$(BIN)/python -m kit make $(SUITE) $(if $(IMAGES),--images "$(IMAGES)") --py $(PY) --out "$(OUT)" --mib $(MIB)

gpu-test: $(VENV)/.test  ## run the tests that need a GPU
	@$(BIN)/python -m pytest -m gpu

lock:  ## renew the lock files (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/main.lock
	uv pip compile pyproject.toml --extra test -c requirements/main.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/test.lock

clean:  ## remove the environment; results and data stay
	rm -rf $(VENV)
