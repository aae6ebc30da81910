# Two commands to begin with: `make serve` answers a curl, `make test` passes the tests.
# One thread a test process and a process a core: threads that share cores wait for each other.
# PIP_FLAGS passes options to pip, such as --extra-index-url for CPU builds of torch.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
MODELS := .models
SMOLLM2 := $(MODELS)/smollm2-135m-instruct
# Without compiling: of what is installed only a part is imported, and that is compiled then, once:
# where images of CI keep Python from writing it down, each process would take seconds to begin.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(VENV)/bin/pip install --disable-pip-version-check --no-compile -c tests/constraints.txt $(PIP_FLAGS)
PLUGINS := plugins/anthropic_api plugins/embeddings_api plugins/ollama_api plugins/responses_api plugins/trace_otlp plugins/watermark_kgw
PACKAGES := backends/torch backends/llamacpp backends/openvino backends/cuda backends/rocm backends/xpu backends/neuron backends/gaudi backends/xla backends/trtllm $(PLUGINS)

# Clients have environments of their own, tests/clients/NAME.txt: what they need contradicts itself.
CLIENTS := .venv-clients
# Warnings are no errors here: clients call what is deprecated, and leave sockets to the collector.
ask = $(CLIENTS)/$(1)/bin/python -m pytest -W default --server-python $(abspath $(VENV))/bin/python $(2:%=tests/clients/test_%.py)

# optimum-neuron holds transformers at 4.57: it has an environment of its own too.
NEURON := .venv-neuron
# torch_xla holds torch at 2.9.
XLA := .venv-xla
# Sources of Intel's, to be read.
GAUDI := .venv-gaudi

# The lowest versions that core and the torch backend say they work with, but for torch, which is large.
# tokenizers and huggingface-hub are those that this transformers takes.
OLDEST := .venv-oldest
OLDEST_TESTS := families padded_families encoding_families experts quantized adapters embedding runner conformance padded_conformance

.PHONY: serve test test-all clients-light sdks frameworks clients neuron xla gaudi oldest quick check fix bench gpu docs reports xla-report dist image clean

# The torch backend answers first: OpenVINO's is faster, but converts the model when it meets it.
serve: $(SMOLLM2)/config.json  ## Installs the torch backend and serves a real model
	$(VENV)/bin/tgi serve $(SMOLLM2) --backend torch --served-model-name smollm2 --port $(PORT)

# Environments do not depend on each other, and pip uses one core.
test:  ## Installs and passes the tests
	$(MAKE) -j 2 $(VENV)/.test $(SMOLLM2)/config.json $(CLIENTS)/sdks/.done $(CLIENTS)/frameworks/.done
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not long" $(PYTEST_FLAGS)
	$(MAKE) clients-light

test-all: $(VENV)/.test $(SMOLLM2)/config.json  ## Half an hour more: what `test` takes samples of, and all clients
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "long or not long" $(PYTEST_FLAGS)
	$(MAKE) clients neuron xla gaudi

clients-light:  ## SDKs and frameworks, against a server
	$(MAKE) -j 2 --output-sync sdks frameworks

sdks: $(VENV)/.test $(CLIENTS)/sdks/.done
	$(call ask,sdks,openai huggingface_hub anthropic)

frameworks: $(VENV)/.test $(CLIENTS)/frameworks/.done
	$(call ask,frameworks,text_generation langchain openai huggingface_hub)

clients: clients-light $(CLIENTS)/tools/.done $(CLIENTS)/prometheus  ## All clients, the large ones too: 2 GB
	OMP_NUM_THREADS=1 $(call ask,tools,litellm lm_eval guidellm prometheus)

neuron: $(NEURON)/.done  ## optimum-neuron's own code, on a double of Neuron's runtime: 900 MB, a minute
	OMP_NUM_THREADS=1 $(NEURON)/bin/python -m pytest -W default backends/neuron/tests/test_conformance.py backends/neuron/tests/test_vendor.py

gaudi: $(VENV)/.test $(GAUDI)/.done  ## The simulated Gaudi against Intel's own sources: seconds
	$(VENV)/bin/python -m pytest backends/gaudi/tests/test_vendor.py

xla: $(XLA)/.done $(SMOLLM2)/config.json  ## The xla backend on a CPU, compiled by XLA itself: 2 GB, minutes
	OMP_NUM_THREADS=1 PJRT_DEVICE=CPU $(XLA)/bin/python -m pytest -W default -m "" backends/xla/tests tests/e2e/test_xla.py

oldest: $(OLDEST)/.done  ## Core and the torch backend's families on the oldest versions that they allow: minutes
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto --dist worksteal -W 'ignore:`torch.jit.script`:DeprecationWarning' -k "not umt5" \
	  tests/unit $(OLDEST_TESTS:%=backends/torch/tests/test_%.py) $(PYTEST_FLAGS)

quick: $(VENV)/.test  ## The tests that take seconds
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

check: $(VENV)/.test  ## Format, lint, types and import rules
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

fix: $(VENV)/.test  ## Formats, and mends what the linter can
	$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

bench:  ## Measures the server on PORT
	$(VENV)/bin/tgi bench --url http://127.0.0.1:$(PORT)

# From the source tree: a machine with a GPU brings torch, Triton and transformers, and may have no network.
gpu:  ## Tests and measures the CUDA backend on this machine's GPU: under ten minutes, installs nothing
	PYTHONPATH=.:backends/torch:backends/cuda PYTHONUNBUFFERED=1 $(PYTHON) -m tests.bench.gpu $(PARTS) \
	  --commit "$$(git rev-parse --short HEAD 2>/dev/null)" $(if $(OUT),--out $(OUT))

docs: $(VENV)/.test  ## Writes the pages that are made from the code
	$(VENV)/bin/python -m tests.reference_pages

# Of backends that this machine can run; others' reports are made where their device or simulator is.
reports: $(VENV)/.test  ## Examines backends and writes the reports that they ship
	for backend in torch torch-encoder openvino; do \
	  $(VENV)/bin/tgi conformance --backend $$backend --save || exit 1; done
	$(VENV)/bin/tgi conformance --backend llamacpp --tests backends/llamacpp/tests/test_conformance.py --save
	$(VENV)/bin/tgi conformance --backend trtllm --tests backends/trtllm/tests/test_conformance.py::TestRelease12 \
	  --simulator "TensorRT-LLM's LLM API, computed on a CPU" --save
	$(VENV)/bin/tgi conformance --backend xpu --tests backends/xpu/tests/test_conformance.py \
	  --simulator "a CPU in the GPU's place, for all but the calls of torch.xpu" --save
	for backend in neuron gaudi; do \
	  $(VENV)/bin/tgi conformance --backend $$backend --tests backends/$$backend/tests/test_conformance.py \
	  --simulator tests/simulators/$$backend --save || exit 1; done

xla-report: $(XLA)/.done  ## The same for the xla backend, in its environment
	PJRT_DEVICE=CPU $(XLA)/bin/tgi conformance --backend xla --tests backends/xla/tests/test_conformance.py --save

dist: $(VENV)/.cpu  ## Wheels of all packages, in dist/
	for package in . $(PACKAGES); do \
	  $(VENV)/bin/pip wheel --disable-pip-version-check --quiet --no-deps --wheel-dir dist ./$$package || exit 1; done

image: dist  ## Builds docker/BACKEND.Dockerfile: make image BACKEND=cpu
	docker build -f docker/$(BACKEND).Dockerfile -t tgi-core:$(BACKEND) .

clean:
	rm -rf $(VENV) $(CLIENTS) $(NEURON) $(XLA) $(GAUDI) $(OLDEST) $(MODELS) dist

$(VENV)/.cpu: pyproject.toml backends/torch/pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e . -e backends/torch gguf
	touch $@

$(VENV)/.test: $(VENV)/.cpu $(PACKAGES:=/pyproject.toml)
	$(PIP) -e ".[dev]" -e backends/llamacpp -e "backends/openvino[quantize]" \
	  -e "backends/cuda[test]" -e backends/rocm -e backends/xpu -e backends/neuron -e backends/gaudi -e backends/xla -e backends/trtllm $(PLUGINS:%=-e %)
	touch $@

$(CLIENTS)/%/.done: tests/clients/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check --quiet --no-deps --no-compile $(PIP_FLAGS) -r $<
	touch $@

$(NEURON)/.done: tests/simulators/neuron.txt
	$(PYTHON) -m venv $(NEURON)
	$(NEURON)/bin/pip install --disable-pip-version-check --quiet --no-deps --no-compile $(PIP_FLAGS) -r $< -e . -e backends/neuron
	touch $@

$(GAUDI)/.done: tests/simulators/gaudi.txt
	$(VENV)/bin/pip install --disable-pip-version-check --quiet --no-deps --no-compile --upgrade $(PIP_FLAGS) --target $(GAUDI) -r $<
	touch $@

$(XLA)/.done: backends/xla/tests/environment.txt
	$(PYTHON) -m venv $(XLA)
	$(XLA)/bin/pip install --disable-pip-version-check --quiet --no-deps --no-compile $(PIP_FLAGS) -r $< -e . -e backends/torch -e backends/xla
	$(XLA)/bin/python tests/simulators/no_cuda.py $(XLA)/lib/python*/site-packages/torch/lib
	touch $@

$(OLDEST)/.done: pyproject.toml backends/torch/pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	sed -n '/^dependencies/,/^]/s/.*"\([a-z-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml backends/torch/pyproject.toml \
	  | grep -v '^torch=' | cat - tests/constraints.txt | tr _ - | awk -F== '!seen[tolower($$1)]++' \
	  | grep -viE '^(tokenizers|huggingface-hub)=' > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/pip install --disable-pip-version-check --no-compile $(PIP_FLAGS) -c $(OLDEST)/lowest.txt \
	  -e ".[dev]" -e backends/torch -e backends/llamacpp -e backends/gaudi -e backends/xpu gguf scipy $(PLUGINS:%=-e %)
	touch $@

$(CLIENTS)/prometheus:
	rm -rf $@.part && mkdir -p $@.part
	cd $@.part && apt-get download prometheus && dpkg-deb -x prometheus_*.deb .
	mv $@.part $@

$(SMOLLM2)/config.json: | $(VENV)/.cpu
	$(VENV)/bin/python tests/smollm2.py $(SMOLLM2)
