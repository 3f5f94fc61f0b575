# medssl: `make pretrain_ct`, `make report`, `make test`, `make check`. Everything below installs what it needs into .venv.

VENV   := .venv
PYTHON := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
CORES  ?= all
# uv reads UV_FIND_LINKS; pip's own setting for local wheels is honoured too.
# Byte code is compiled once here, so that no job pays for it at its start.
export UV_COMPILE_BYTECODE := 1
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))

.PHONY: help install organamnist few-shot-organs oasis-labels scanner-shift split-tables reference docs docs-test gallery readme-picture pretrain_ct report test test-full mutants package-test slurm-test wheelhouse wheelhouse-test gpu-pack check format lock clean

help:
	@grep -E '^[a-z_%-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'
	@printf 'bench-NAME\tratios against peers; NAME is one of: $(BENCHES)\n'

install: $(STAMP) ## make .venv from the pinned lock

$(STAMP): requirements.lock pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip "uv==$(shell sed -n 's/^uv==//p' requirements.lock)"
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation -e .
	touch $@

pretrain_ct: $(STAMP) ## the main job: the bundled CT, ingest to pre-training, and its page
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" snakemake --cores $(CORES) pretrain_ct

report: $(STAMP) ## the whole default study, with fine-tuning, evaluation and the full page
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" snakemake --cores $(CORES) report

# The libraries that exported weights are held against, out of sight of the environment: torchvision does not fit every torch.
$(VENV)/parity: $(STAMP)
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $@ --no-deps torchvision==0.28.0 timm==1.0.31 dynamic-network-architectures==0.4.4 einops==0.8.2

# lifelines, which the survival analysis is held against; it asks for an older pandas than it needs.
$(VENV)/lifelines: $(STAMP) requirements-lifelines.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $@ --no-deps -r requirements-lifelines.lock

# What the extra `onnx` adds to the lock, in a folder of its own: the suite with the long counts holds exported files to onnxruntime.
$(VENV)/onnx/.installed: $(STAMP) requirements-onnx.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $(VENV)/onnx --no-deps -r requirements-onnx.lock
	touch $@

# SimpleITK, which NRRD and MetaImage are held against.
$(VENV)/simpleitk: $(STAMP)
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $@ --no-deps simpleitk==2.5.7

# The RO-Crate validator, in a folder of its own for the same reason.
$(VENV)/validator/.installed: $(STAMP) requirements-validator.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $(VENV)/validator -r requirements-validator.lock
	touch $@

test: $(STAMP) $(VENV)/parity $(VENV)/simpleitk $(VENV)/lifelines $(VENV)/validator/.installed ## the suite, about 25 minutes on two cores
	$(PYTHON) -m pytest -n 2 --dist loadfile

test-full: $(STAMP) $(VENV)/parity $(VENV)/simpleitk $(VENV)/lifelines $(VENV)/validator/.installed $(VENV)/onnx/.installed ## the suite with the long counts
	$(PYTHON) -m pytest -n 2 --dist loadfile --full

mutants: $(STAMP) $(VENV)/simpleitk $(VENV)/lifelines ## break the library in hundreds of places, one at a time: the tests must notice each; ends with RESULT {json}
	$(PYTHON) tests/mutants/run.py

package-test: $(STAMP) ## wheel, sdist, conda and container in clean environments and a folder of one's own, timed; ends with RESULT {json}
	$(PYTHON) tests/packaging/package_test.py

slurm-test: $(STAMP) ## the bundled study as jobs of a real SLURM (root, Debian), stopped and requeued: same weights
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) tests/slurm/slurm_test.py

check: $(STAMP) ## lint, format, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" snakemake --lint

BENCHES := faults ingest reduce leakage leaked_benchmarks pretrain finetune cache spark self_distillation scale plan gpu
.PHONY: $(BENCHES:%=bench-%)

$(VENV)/.peers: $(STAMP) requirements-bench.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) -r requirements-bench.lock
	touch $@

# lightly needs torchvision, which does not fit every torch: out of sight of the environment, where benchmarks/peers.py finds all.
$(VENV)/lightly: $(STAMP) requirements-gpu.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $@ --no-deps -r requirements-gpu.lock torchvision==0.28.0
	touch $@

bench-pretrain bench-gpu: $(VENV)/lightly

$(BENCHES:%=bench-%): bench-%: $(VENV)/.peers
	$(PYTHON) benchmarks/$*.py
	$(PYTHON) benchmarks/write_docs.py

bench-fuzz: $(STAMP) ## 5,000 mutations of the header of one slice: right or refused; ends with RESULT {json}
	$(PYTHON) benchmarks/header_fuzz.py --full
	$(PYTHON) benchmarks/write_docs.py

study-%: $(STAMP) ## study-reduction, -spark, … (configs/studies/<name>.yaml; a name with _full is for a GPU); resumable, ends with RESULT {json}
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" snakemake --cores $(CORES) report --configfile configs/studies/$*.yaml
	@$(PYTHON) benchmarks/study.py $*

organamnist: $(STAMP) ## fetch the whole OrganAMNIST (38 MB, CC BY 4.0) into data/, which is not committed; for study-organs
	$(PYTHON) workflow/fetch_organamnist.py

few-shot-organs: $(STAMP) ## draw data/organamnist/few_shot*.npz, which are not committed, from the whole OrganAMNIST; for study-few_shot
	$(PYTHON) workflow/write_few_shot_organs.py

oasis-labels: $(STAMP) ## write data/oasis/labels.csv, which is not committed, from the table of OASIS-1; for study-oasis
	$(PYTHON) workflow/write_oasis_labels.py

scanner-shift: $(STAMP) ## write data/scanner_shift, which is not committed: COVID-CT as two simulated vendors show it; for study-scanner_shift
	$(PYTHON) workflow/write_scanner_shift.py

split-tables: $(STAMP) ## write configs/studies/*_split.tsv again from the protocols and names of the public sets in ../shared/data
	$(PYTHON) workflow/write_study_splits.py

reference: $(STAMP) ## write the pages and the schema that are made from the code
	$(PYTHON) -m medssl.study.reference > docs/reference/options.md
	$(PYTHON) -m medssl.artefacts.reference > docs/reference/artefacts.md
	$(PYTHON) -m medssl schema > configs/study.schema.json
	PYTHONPATH=. $(PYTHON) docs/tools/commands.py > docs/reference/commands.md
	PYTHONPATH=. $(PYTHON) docs/tools/refusals.py > docs/reference/refusals.md

# Sphinx and its theme, out of sight of the environment.
$(VENV)/docs/.installed: $(STAMP) requirements-docs.lock
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --target $(VENV)/docs -r requirements-docs.lock
	touch $@

docs: $(VENV)/docs/.installed ## the documentation as a site without network, build/docs/index.html; a warning is an error
	PYTHONPATH=$(VENV)/docs $(PYTHON) -m sphinx -W --keep-going -q -b html docs build/docs
	$(PYTHON) docs/tools/links.py build/docs

docs-test: $(VENV)/docs/.installed ## run tutorial, notebook and how-to pages for real, line by line (a quarter of an hour on two idle cores); ends with RESULT {json}
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" PYTHONPATH=$(CURDIR)/$(VENV)/docs JUPYTER_PATH=$(CURDIR)/$(VENV)/docs/share/jupyter $(PYTHON) docs/tools/run_pages.py

gallery: $(STAMP) ## draw the pictures of docs/gallery again, from the bundled CT
	PYTHONPATH=. $(PYTHON) docs/tools/gallery.py

readme-picture: ## the picture of the page in README.md, of the bundled study's report (needs chromium)
	$(PYTHON) docs/tools/picture_of_page.py

format: $(STAMP) ## format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove the results of the default study
	rm -rf results/demo .medssl/demo

wheelhouse: $(STAMP) ## every wheel of the lock and of medssl, for machines without internet (docs/howto/cluster.md)
	$(PYTHON) -m pip wheel --quiet --wheel-dir wheelhouse -r requirements.lock
	$(PYTHON) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheelhouse .

wheelhouse-test: wheelhouse ## an environment from these wheels alone, in which the commands start
	rm -rf wheelhouse/.venv && python3 -m venv wheelhouse/.venv
	$(VENV)/bin/uv pip install --quiet --offline --no-config --no-index --find-links wheelhouse --python wheelhouse/.venv -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --offline --no-config --no-index --find-links wheelhouse --python wheelhouse/.venv --no-deps medssl
	cd wheelhouse && .venv/bin/medssl --help > /dev/null && .venv/bin/snakemake --version && .venv/bin/python -c "import monai, torch"
	rm -rf wheelhouse/.venv

# of the GPU machine
PYTHON_VERSION ?= 3.12
STUDIES ?= configs/ct.yaml

gpu-pack: $(STAMP) ## code, wheels and prepared STUDIES="configs/…" in gpu-pack.tar.xz, for a GPU without internet (docs/howto/gpu.md)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PYTHON) workflow/write_gpu_pack.py $(STUDIES) --python $(PYTHON_VERSION)

lock: $(STAMP) ## resolve the pins again from pyproject.toml
	$(VENV)/bin/uv pip compile --quiet pyproject.toml --extra test --no-emit-find-links --no-header --no-annotate -o requirements.lock
	printf 'uv==%s\n' "$$($(VENV)/bin/uv --version | cut -d' ' -f2)" >> requirements.lock
	sed -i 's/^torch==\([0-9.]*\)+.*/torch==\1/' requirements.lock
	$(PYTHON) workflow/write_environment.py
