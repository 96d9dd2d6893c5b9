# The commands of this project; each sets up by itself what it needs.
#   ARGS=…    is handed on:        make test ARGS='-k sack'
#   PYTHON=…  builds .venv with:   make venv PYTHON=python3.13  (after make clean)

.DEFAULT_GOAL := help
.PHONY: help venv demo test fast lint bench faults compare vm kernels fuzz bpf deb clean

bin := .venv/bin
shell_files := packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm \
	.ci/run $(wildcard scripts/*.sh scripts/no-services/* vagrant/*/*.sh vagrant/*/*/*.sh)

# Tests that need no packets take a minute, and say most when something is wrong.
fast_tests := $(wildcard tests/wire tests/core tests/scenarios tests/test_*.py)
other_tests := $(filter-out $(fast_tests:=/) tests/__pycache__/,$(wildcard tests/*/))

# As many at a time as processors (pytest-xdist): more, and captures lose packets. One more is for
# those that wait (tests/conftest.py). One after the other: ARGS='-n 0', as --pdb wants it.
several = -n $$(($$(nproc) + 1)) --dist worksteal

# Expanded before the first line of a recipe runs, so that nothing is done by half.
need_root = $(if $(filter 0,$(shell id -u)),,$(error make $@ needs root \
	(network namespaces, iptables and NFQUEUE do): run 'sudo make $@'))

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

venv: ## set up .venv; afterwards .venv/bin/nfq-zerortt is the command
	@bash scripts/setup.sh run

demo: ## the side-by-side demonstration; writes demo-report.html (root)
	$(need_root)
	@bash scripts/setup.sh run
	@$(bin)/nfq-zerortt demo --report demo-report.html $(ARGS)

test: ## all tests, several at a time (root)
	$(need_root)
	@bash scripts/setup.sh test
	@$(bin)/pytest $(several) $(fast_tests) $(other_tests) $(ARGS)

fast: ## the tests without packets, in a minute
	@bash scripts/setup.sh fast
	@$(bin)/pytest $(fast_tests) $(ARGS)

lint: ## ruff, mypy and shellcheck
	@bash scripts/setup.sh lint
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	shellcheck $(shell_files)

bench: ## the benchmarks (root)
	$(need_root)
	@bash scripts/setup.sh test
	@$(bin)/python -m bench $(ARGS)

faults: ## every fault, direct and through us; writes docs/FAULTS.md (root)
	$(need_root)
	@bash scripts/setup.sh test
	@$(bin)/python -m bench.faults --write $(ARGS)

compare: ## plain forwarding, SYNPROXY, HAProxy and this, side by side; writes docs/COMPARISON.md (root)
	$(need_root)
	@bash scripts/setup.sh test
	@$(bin)/python -m bench.comparison --write $(ARGS)

vm: ## the four hosts as virtual machines, brought up, tested and taken down (root)
	$(need_root)
	@bash vagrant/selftest/run.sh $(ARGS)

kernels: ## the tests with real packets on the kernels of Debian 12 and 13 (root)
	$(need_root)
	@bash vagrant/selftest/kernels.sh $(ARGS)

fuzz: ## coverage-guided fuzzing of the core, ten minutes; see fuzz/README.md
	@bash scripts/setup.sh fast
	@$(bin)/python -c 'import atheris' 2>/dev/null || $(bin)/pip install -q 'atheris>=3,<4'
	@$(bin)/python -m fuzz.seeds fuzz/corpus
	@mkdir -p fuzz/found
	@nice -n 19 $(bin)/python -m fuzz.core_target fuzz/corpus -artifact_prefix=fuzz/found/ \
		-max_total_time=600 -max_len=400 -timeout=60 -print_final_stats=1 $(ARGS)

bpf: ## compile the programs of the kernel data path into the package (clang)
	@bash scripts/build_bpf.sh

deb: ## the package for the Debian that this is run on, in dist/ (see docs/howto/service.md)
	@bash scripts/build_deb.sh

clean: ## remove all that the other commands made in this directory
	rm -rf .venv build dist *.egg-info demo-report.html \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
