# The only door: every command a person or CI runs. `make help` explains itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
UV     := 0.13.9
BIN    := $(VENV)/bin
STAMPS := /usr/share/tuxpaint/stamps
# Any folder of images; the default is a real sample catalogue from Debian.
IMAGES ?= $(STAMPS)
# faiss build: cpu or gpu, never both.
FAISS  ?= cpu
# The image: what it is called, made of and for (cpu or gpu), and more of Docker's own flags (--network host, --push).
IMAGE        ?= lookalike:local
BASE_IMAGE   ?= debian:12-slim
TARGET       ?= cpu
DOCKER_FLAGS ?=
ROOT_RUN := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: audit sbom image image-test k8s-validate k8s-e2e help setup models archives browser catalogue index serve web stop status demo screenshots test test-unit test-e2e resilience fuzz lint type fmt lock bench clean

help: ## Show this help
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Install Java, the Python environment and Lookalike itself (about 2 minutes, once)

$(VENV)/.ready: pyproject.toml requirements/dev.lock
	@command -v java >/dev/null && $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "setup: installing Java and Python's venv module by apt-get"; \
	  $(ROOT_RUN) apt-get update -qq >/dev/null; \
	  $(ROOT_RUN) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless python3-venv >/dev/null; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	@echo "setup: installing the locked Python packages"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements/dev.lock
	@if [ $(FAISS) = gpu ]; then $(BIN)/uv pip uninstall --quiet faiss-cpu; $(BIN)/uv pip install --quiet 'faiss-gpu>=1.11'; fi
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

models: setup ## Get the default weights, check them, export the graphs
	@$(BIN)/python -m training.export

archives: models ## Pack a TorchServe archive (.mar) for each model
	@$(BIN)/lookalike archives

catalogue: # The sample catalogue, unless IMAGES names a folder
	@if [ "$(IMAGES)" = "$(STAMPS)" ] && [ ! -d $(STAMPS) ]; then \
	  echo "catalogue: installing the sample catalogue (Debian's tuxpaint-stamps-default)"; \
	  $(ROOT_RUN) apt-get update -qq >/dev/null; \
	  $(ROOT_RUN) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tuxpaint-stamps-default >/dev/null; fi

index: models catalogue ## Index a folder of images (IMAGES=dir)
	@$(BIN)/lookalike index build "$(IMAGES)"

serve: archives ## Start TorchServe with all models in the background
	@$(BIN)/lookalike serve

web: serve ## Serve the page and the API in front of TorchServe, until interrupted
	@$(BIN)/lookalike web --catalogue "$(IMAGES)"

stop: ## Stop TorchServe and the page
	@$(BIN)/lookalike stop

status: ## Say whether TorchServe and the page run and what is ready
	@$(BIN)/lookalike status

demo: archives index serve ## Everything: install, index real photos, serve, search, open the page (IMAGES=dir for your own)
	@$(BIN)/lookalike demo --catalogue "$(IMAGES)"

browser: # Chromium, which the page is tested in
	@command -v chromium >/dev/null || { \
	  echo "browser: installing Chromium by apt-get"; \
	  $(ROOT_RUN) apt-get update -qq >/dev/null; \
	  $(ROOT_RUN) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

screenshots: browser # The README's pictures of the page, from the running demo
	@$(BIN)/python docs/pictures/take.py

test: setup browser lint type models archives ## Check style and types, run every test
	@$(BIN)/python -m pytest

test-unit: setup ## Run the tests that need neither models nor a server
	@$(BIN)/python -m pytest tests/unit

resilience: archives ## Kill, fill, flood and damage it; hold every promise and write docs/promises.md (ARGS=--requests=1000)
	@status=0; $(BIN)/python -m pytest tests/resilience --resilience=full $(ARGS) || status=$$?; \
	$(BIN)/python -m tests.resilience.promises; exit $$status

test-e2e: browser archives ## Run the tests on a real TorchServe
	@$(BIN)/python -m pytest tests/e2e

fuzz: archives ## Send 500 made-up requests an operation, damage images and index files by the thousand
	@LOOKALIKE_FUZZ=full $(BIN)/python -m pytest -s tests/fuzz

audit: setup ## Look up known vulnerabilities of every locked package (needs a public advisory service)
	@for lock in dev image-cpu image-gpu; do echo "audit: requirements/$$lock.lock"; \
	  $(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement requirements/$$lock.lock; done

sbom: setup ## Write the CycloneDX bill of materials of each image's Python packages (var/sbom)
	@mkdir -p var/sbom && for lock in image-cpu image-gpu; do \
	  $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	    --output-file var/sbom/$$lock.json requirements/$$lock.lock && echo "sbom: var/sbom/$$lock.json"; done

image: ## Build the container image (IMAGE, BASE_IMAGE, TARGET=cpu|gpu, DOCKER_FLAGS)
	@docker build --file docker/Dockerfile --target $(TARGET) --build-arg BASE_IMAGE=$(BASE_IMAGE) --tag $(IMAGE) $(DOCKER_FLAGS) .

image-test: archives ## Run the image as production would, search, break it (IMAGE)
	@IMAGE=$(IMAGE) $(BIN)/python -m pytest -s tests/image

k8s-validate: setup ## Build every overlay and combination of components, check schemas and policy
	@$(BIN)/python -m pytest tests/k8s

k8s-e2e: setup ## Deploy on the cluster of the kubeconfig, break things under load, clean up (ARGS=...)
	@$(BIN)/python -m k8s.e2e $(ARGS)

lint: setup ## Check the style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: setup ## Check the types
	@$(BIN)/mypy

fmt: setup ## Mend the style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: setup ## Resolve the dependencies anew into requirements/
	@$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra cpu --extra openvino --extra milvus --extra store --extra gateway --extra client --extra serve --extra cuda --extra train --extra bench --extra dev --generate-hashes --output-file requirements/dev.lock
	@$(BIN)/uv pip compile --quiet pyproject.toml --constraint requirements/dev.lock --extra cpu --extra store --extra gateway --extra client --extra serve --generate-hashes --output-file requirements/image-cpu.lock
	@$(BIN)/uv pip compile --quiet pyproject.toml --constraint requirements/dev.lock --extra gpu --extra store --extra gateway --extra client --extra serve --extra cuda --generate-hashes --output-file requirements/image-gpu.lock

bench: archives ## Load a private server and hold it to benchmarks/budgets.yaml
	@$(BIN)/python -m benchmarks.load

clean: ## Remove what was built (models, archives, index, logs), not the environment
	@$(BIN)/lookalike stop || true
	@rm -rf var
