# make demo and make test need Python 3.10 or newer, and make itself; all else goes into .venv
PY = .venv/bin/python
export PYTHON
export MPLBACKEND = agg
# a test that hangs fails, and says where, before the whole is given up
PYTEST = $(PY) -m pytest -q --timeout 900
# threads that wait should sleep: those that spin make training ten times slower as soon as another program wants a core
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test slow kernels docs prepare venv clean
.DEFAULT_GOAL := help

help: ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 17

demo: ## from nothing to a new piece of music: corpus, training, MIDI and picture in demo/
	@tools/venv.sh demo
	@$(PY) scripts/demo.py

test: ## check everything: package = notebooks, notebooks, docs site, tests
	@tools/venv.sh dev
	@echo '== 1/4 The package, the README and the notebooks agree'
	@$(PYTEST) tests/test_repo.py
	@echo '== 2/4 Every notebook runs'
	@OMP_NUM_THREADS=1 .venv/bin/nbdev_test --n_workers 2
	@echo '== 3/4 The docs site has no broken link'
	@$(PY) tools/docs.py --check
	@echo '== 4/4 Tests; those of the clock have it to themselves'
	@$(PYTEST) -n 2 --dist loadfile --ignore tests/test_repo.py --ignore tests/test_live.py
	@$(PYTEST) tests/test_live.py

slow: ## the long checks: slow cells of the notebooks, 10,000 invented scores, whole folders, what grows
	@tools/venv.sh dev
	@OMP_NUM_THREADS=1 .venv/bin/nbdev_test --n_workers 2 --flags slow
	@$(PY) -m pytest -q --slow tests/test_round_trip.py tests/test_grammar.py tests/test_soak.py

kernels: ## count what masks cost in the kernels of a GPU, and run small ones in an interpreter; needs a C++ compiler, no GPU
	@tools/venv.sh dev
	@$(PY) benchmarks/kernels.py

docs: ## build README.md and the docs site in _docs
	@tools/venv.sh dev
	@$(PY) tools/docs.py
	@echo 'To read it: $(PY) -m http.server -d _docs 8000 --bind 127.0.0.1, then open http://127.0.0.1:8000'

prepare: ## after editing notebooks: export the package, clean the notebooks, write README.md
	@tools/venv.sh dev
	@.venv/bin/nbdev_export
	@.venv/bin/nbdev_clean
	@$(PY) tools/docs.py --readme_only

venv: ## set up .venv for development
	@tools/venv.sh dev

clean: ## remove what was built (.venv and demo stay)
	@rm -rf _docs _proc _site build dist *.egg-info .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
