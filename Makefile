# `make` lists the targets. All that is installed goes into .venv, from locks with hashes.
.DEFAULT_GOAL := help
.PHONY: help install demo test soak kills oldest newest lint format types bench coding compat crash dapr dex frameworks mcp ag-ui tsc harness kube argocd image lock sbom audit clean

BIN := .venv/bin
# The first interpreter that really runs and is new enough (a shim may exist for a version that does not).
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# uv is three times faster; where it has no wheel, pip installs the same locks.
INSTALL = $$(test -x $(BIN)/uv && echo "$(BIN)/uv pip install --python $(BIN)/python" || echo "$(BIN)/python -m pip install") -q

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.dev  ## set up .venv with all that development and the tests need

demo: .venv/.default  ## set up the little that running needs, then show agents fix a failing test (MODEL=... for a real model)
	@$(BIN)/mesh demo $(if $(MODEL),--model "$(MODEL)") $(ARGS)

test: .venv/.dev  ## lint, types, near tests (ARGS=all for everything, PART=ledger or SINCE=main for the tests of a part or a change)
	@$(BIN)/python tests/run.py $(if $(PART),--of $(PART)) $(if $(SINCE),--since $(SINCE)) $(ARGS)

soak: .venv/.dev  ## the tests of chance, with another seed each time, and what CI leaves out: unit, contract, faults, agents, rows of benchmarks; hostile input
	@SOAK=1 MESH_TEST_SEED=$${MESH_TEST_SEED:-random} $(BIN)/python tests/run.py unit contract faults agents marked benchmarks
	@MESH_TEST_SEED=$${MESH_TEST_SEED:-random} FUZZ_SECONDS=$${FUZZ_SECONDS:-300} \
		$(BIN)/python -m pytest tests/journeys/integration/test_fuzz*.py -q -s

kills: .venv/.dev  ## 20,000 tasks and 500 kills on SQLite, 5,000 and 200 on PostgreSQL and on Dapr (PERCENT=5 for a part, STORES=sqlite)
	@SOAK=1 SOAK_PERCENT=$(or $(PERCENT),100) MESH_TEST_SEED=$${MESH_TEST_SEED:-random} \
		$(BIN)/python -m pytest tests/journeys/integration/test_soak.py -q -s -k "$(or $(STORES),test)" \
		--basetemp="$$(mktemp -d)/kills"

oldest: .venv/.dev  ## install the oldest versions that pyproject.toml allows, and try the mesh and each extra with them
newest: .venv/.dev  ## the same with the newest
oldest newest:
	@SOAK=1 MESH_TEST_RESOLUTION=$(if $(filter oldest,$@),lowest-direct,highest) $(BIN)/python -m pytest -q \
		tests/journeys/integration/test_versions.py tests/project/integration/test_extras.py \
		tests/project/integration/test_litellm_releases.py $(ARGS)

lint: .venv/.dev  ## style, formatting and import rules
	@$(BIN)/python tests/run.py lint imports

format: .venv/.dev  ## format the code and repair what can be repaired
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

types: .venv/.dev  ## strict type checking
	@$(BIN)/python tests/run.py types

bench: .venv/.dev  ## the benchmarks, each beside its hand-written floor
	@$(BIN)/python -m benchmarks $(ARGS)

coding: .venv/.dev tsc $(if $(HARNESS),harness)  ## do 20 small coding jobs by recorded calls of tools, by a model (MODEL=anthropic/...), or by a program (HARNESS=codex or claude); ARGS="--only JOB"
	@$(BIN)/python -m benchmarks.coding$(if $(HARNESS),.programs "$(HARNESS)") $(if $(MODEL),--model "$(MODEL)") $(ARGS)

compat: .venv/.dev  ## run real software beside the mesh and write docs/compatibility.md (ONLY=brokers for a group or recipes)
	@$(BIN)/python -m compat $(ONLY)

crash: .venv/.dev frameworks  ## kill agents of frameworks in the middle of a refund, alone and in a mesh
	@$(BIN)/python -m benchmarks.crash $(ARGS)

dapr:  ## build daprd, placement and scheduler with Go, once, and print where they are
	@"$(PYTHON)" tools/dapr/build

dex:  ## build Dex, an OpenID Connect issuer for the tests, with Go, once
	@"$(PYTHON)" tests/support/build dex

frameworks:  ## install the agent frameworks whose agents tests run, in an environment of their own, once
	@"$(PYTHON)" tests/support/frameworks/install

mcp:  ## install the MCP servers and the conformance suite that tests run, with npm and pip, once
	@"$(PYTHON)" tests/support/mcp/install
	@"$(PYTHON)" tests/support/mcp/install conformance

ag-ui:  ## install the client of AG-UI that tests run, with npm, once
	@"$(PYTHON)" tests/support/ag_ui/install

tsc:  ## install the TypeScript compiler of the coding jobs, and pyright, with npm, once
	@"$(PYTHON)" benchmarks/coding/compiler/install >/dev/null

harness:  ## install Codex, Claude Code and their adapters for the Agent Client Protocol, with npm, once (1.2 GB)
	@"$(PYTHON)" tests/support/harness_programs/install

kube: .venv/.dev  ## build the API server of Kubernetes with Go, once, and try k8s/ and the tools of agents on it (needs etcd, kubectl)
	@"$(PYTHON)" tests/support/build kube
	@"$(PYTHON)" tests/support/mcp/install kube >/dev/null
	@SOAK=1 $(BIN)/python -m pytest -q -k "k8s or kube" \
		$(addprefix tests/*/integration/test_,k8s_cluster.py kube_tools.py mcp_kube.py ops_kills.py ops_scenarios.py)

argocd: .venv/.dev  ## build Argo CD and that API server with Go, once, and try the toolset argocd (needs etcd, kubectl, redis)
	@"$(PYTHON)" tests/support/build kube
	@"$(PYTHON)" tests/support/build argocd
	@SOAK=1 $(BIN)/python -m pytest -q tests/toolsets/integration/test_argocd_real.py

image:  ## build the image of Dockerfile.agent with docker, podman or buildah (ARGS="--build-arg BASE=...")
	@for tool in docker podman buildah none; do $$tool info >/dev/null 2>&1 && break; done; \
	[ $$tool != none ] || { echo "docker, podman or buildah builds the image, and none works here" >&2; exit 1; }; \
	case $$tool in docker) ;; *) format="--format docker" ;; esac; \
	$$tool build $$format $(ARGS) -f Dockerfile.agent -t meshwright-agent:$(VERSION) .

COMPILE = $(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links $(ARGS)

lock: .venv/.dev  ## renew the locks (ARGS="--upgrade" or ARGS="--upgrade-package NAME" to move versions)
	@$(COMPILE) --extra all --group dev -o requirements/dev.txt
	@$(COMPILE) --extra all -c requirements/dev.txt -o requirements/all.txt
	@$(COMPILE) -c requirements/dev.txt -o requirements/default.txt
	@$(COMPILE) --extra dapr --extra oidc --extra otlp --extra postgres -c requirements/dev.txt -o requirements/image.txt
	@$(COMPILE) --extra dapr --extra postgres --group frameworks -o requirements/frameworks.txt
	@echo hatchling | $(subst pyproject.toml,-,$(COMPILE)) -c requirements/dev.txt -o requirements/build.txt

sbom: .venv/.dev  ## build the wheel into dist/, and beside it the list of all that it rests on, as CycloneDX
	@rm -rf dist && $(BIN)/python -m hatchling build -t wheel -d dist && $(BIN)/python tools/sbom.py dist/*.whl

audit: .venv/.dev  ## ask pip-audit and govulncheck for known weaknesses; what cannot be checked is said (status 75)
	@$(BIN)/python tools/audit.py

clean:  ## remove .venv and every cache
	rm -rf .venv .hypothesis .pytest_cache .ruff_cache .import_linter_cache dist build

.venv/.python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Meshwright needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up .venv" >&2
	@"$(PYTHON)" -m venv .venv || { \
		echo "Python's venv module failed: on Debian or Ubuntu, apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check "uv==0.13.8" \
		|| echo "uv could not be installed: pip does its work, more slowly" >&2
	@touch $@

.venv/.default: .venv/.python pyproject.toml requirements/default.txt
	@$(INSTALL) --require-hashes -r requirements/default.txt
	@$(INSTALL) --no-deps -e .
	@touch $@

.venv/.dev: .venv/.python pyproject.toml requirements/dev.txt
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@$(INSTALL) --no-deps -e .
	@touch $@ .venv/.default
