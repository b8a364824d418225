# Every target sets itself up: Python 3.10 or newer, git and GNU make are all a machine needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

# Containers set it. Then every process compiles some thousand files anew, which takes ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint pocket-figures clean

demo: $(STAMP)
	$(PY) -m escdiff_core demo --out out/demo

# Real ComfyUIs, where there are any (see tests/hosts.py), get an environment each, and their tests run beside one another:
# two at a time, which is what 24 GB hold and two cores have hands for.
test: $(STAMP)
	$(PY) tests/hosts.py
	$(PY) -m pytest -n 2 --no-loadscope-reorder

lint: $(STAMP)
	$(PY) -m ruff check .

# The ordinary torch and torchvision are taken together (their builds must match); uv makes that a matter of a minute.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ESCDiff needs Python 3.10 or newer; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --upgrade pip uv
	$(PY) -m uv pip install --quiet --python $(PY) -r requirements.txt -r pyproject.toml --extra judge --extra headless --extra dev
	touch $@

clean:
	rm -rf $(VENV) .venv-hosts out
