#!/usr/bin/env bash
# The one entry: sets up .venv when needed, then runs notebooks, tests, verification or JupyterLab. See usage below.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")"

supported="3.11 3.12" # as requires-python in pyproject.toml

usage() {
    cat <<'TEXT'
usage: ./run_all.sh [OPTIONS]            run the notebooks, in order (sets up first if needed)
       ./run_all.sh test [OPTIONS]       the tests: ruff, pytest, every notebook under the smoke profile that has
                                         not passed since a file changed
       ./run_all.sh verify N [OPTIONS]   retrain N shipped runs, drawn at random, and compare to the last bit
       ./run_all.sh setup [--peers]      only set up; --peers adds what notebook 90 compares against
       ./run_all.sh lab [-- ARGUMENTS]   JupyterLab on the notebooks; ARGUMENTS go to JupyterLab

options:
  --profile smoke|laptop|paper   how much to compute (default: smoke; `test` has no other)
  --only 01,03                   only these notebooks, by number
  --jobs N                       notebooks at a time (default: 1; under `test`: one per core)
  -p NAME VALUE                  a papermill parameter, which every notebook chosen must declare; repeatable
  -h, --help                     this text

options of verify (exit status 0: all identical; 1: not; 3: not, but on another machine or versions than recorded):
  N                              how many, or all; a run takes minutes to an hour of one core
  --seed S                       of the draw (default: another one each time)
  --study NAME                   only from figures/data/NAME/

environment:
  PYTHON=...                     the interpreter to make .venv with (default: the first supported on PATH)
  PIP_EXTRA_INDEX_URL=...        and all else that pip reads; the README says how to get PyTorch for the CPU

Executed notebooks go to runs/notebooks/<profile>/ as .ipynb and .html; figures to figures/, under smoke to
figures/smoke/, and from a notebook run in JupyterLab to runs/figures/.
TEXT
}

fail() { # MESSAGE: nothing was started
    printf 'run_all.sh: %s\n' "$1" >&2
    exit 2
}

# Prints the path of a supported Python: the one .venv was made with, if any. _base_executable looks through
# virtual environments to the interpreter behind them; it cannot where a .venv was left half removed.
find_python() {
    local candidate answer seen=""
    for candidate in ${PYTHON:-.venv/bin/python python3.11 python3.12 python3 python}; do
        answer="$("$candidate" -I -S -c 'import sys
print("%d.%d" % sys.version_info[:2], getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null)" || continue
        case "${answer#* }" in "$PWD/.venv/"*) continue ;; esac
        case " $supported " in
            *" ${answer%% *} "*) printf '%s\n' "${answer#* }" && return ;;
        esac
        seen="$seen $candidate is ${answer%% *};"
    done
    fail "needs Python ${supported/ / or } (found:${seen:- none}). Install one, or name it: PYTHON=/path/to/python ./run_all.sh"
}

# Prints what .venv depends on: the Python, this folder (a virtual environment cannot be moved) and the pins.
stamp_of() { # PYTHON
    "$1" -I -S - <<'CODE'
import hashlib, json, os, sys, tomllib
with open("pyproject.toml", "rb") as file:
    pins = json.dumps(tomllib.load(file)["project"], sort_keys=True).encode()
for name in ("requirements/constraints.txt", "requirements/lock.txt"):
    with open(name, "rb") as file:
        pins += file.read()
print("%d.%d.%d" % sys.version_info[:3], hashlib.sha256(pins).hexdigest(), os.getcwd())
CODE
}

pip_install() {
    local quiet=()
    [ -t 1 ] || quiet=(--quiet) # progress bars on a terminal, a few lines in a log
    .venv/bin/python -m pip install --disable-pip-version-check --no-input ${quiet[@]+"${quiet[@]}"} \
        --constraint requirements/constraints.txt "$@"
}

is_set_up() { # STAMP
    [ -x .venv/bin/python ] && [ "$(cat .venv/stamp 2>/dev/null)" = "$1" ]
}

# Waits until no other set-up is at work here. The lock ends with the descriptor 9, thus also with the process; it is
# Python's, because macOS has no flock(1). A file system without locks goes without.
lock_set_up() { # PYTHON
    exec 9>.venv.lock
    "$1" -I -S - <<'CODE'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another set-up is at work in this folder; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass
CODE
}

# Makes .venv, unless its stamp says that it is there and whole. The stamp is written last, so an interrupted
# set-up is done again from the start.
set_up() { # PYTHON
    local stamp
    stamp="$(stamp_of "$1")"
    if is_set_up "$stamp"; then return; fi
    lock_set_up "$1"
    if is_set_up "$stamp"; then exec 9>&- && return; fi # by the other one
    echo "Setting up .venv with $1 (some minutes, and only when the pins or the Python change)"
    rm -rf .venv
    "$1" -m venv .venv
    pip_install --no-deps --require-hashes --requirement requirements/lock.txt
    pip_install torch # of whatever index, thus without a digest; all but CUDA's packages is there by now
    pip_install --no-deps --no-build-isolation --editable .
    printf '%s\n' "$stamp" >.venv/stamp
    exec 9>&-
    echo "Set-up is complete"
}

add_peers() {
    pip_install --no-deps --requirement requirements/peers.txt
}

# What git sees of the working tree; empty outside of git.
working_tree() {
    git status --porcelain --untracked-files=all 2>/dev/null && git diff HEAD 2>/dev/null || true
}

# The whole test command. Every stage runs, so that one call tells all that is wrong.
run_tests() {
    local failed="" before
    before="$(working_tree)"
    .venv/bin/ruff check . || failed="$failed ruff-check"
    .venv/bin/ruff format --check . || failed="$failed ruff-format"
    # The notebooks come first, because one test compares their figures with those that ship.
    .venv/bin/python -m notebooks.run --jobs 0 --changed "$@" || failed="$failed notebooks"
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile ||
        failed="$failed pytest"
    if [ "$(working_tree)" != "$before" ]; then
        failed="$failed working-tree"
        echo "The working tree is not as it was before the tests:" >&2
        diff <(printf '%s\n' "$before") <(working_tree) >&2 || true
    fi
    if [ -n "$failed" ]; then
        echo "FAILED:$failed" >&2
        return 1
    fi
}

command=run
case "${1:-}" in
    test | verify | setup | lab) command=$1 && shift ;;
esac
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit ;;
        --) break ;;
        --profile | --profile=*) [ "$command" != test ] || fail "test always uses the smoke profile" ;;
    esac
done

python="$(find_python)" # reads the options before set-up, so a mistake in them starts nothing

case "$command" in
    run | test)
        "$python" -I notebooks/run.py --check "$@"
        set_up "$python"
        if [ "$command" = test ]; then run_tests "$@"; else exec .venv/bin/python -m notebooks.run "$@"; fi
        ;;
    verify)
        [[ "$*" =~ ^([1-9][0-9]*|all)(\ --(seed\ [0-9]+|study\ [^ -][^ ]*))*$ ]] ||
            fail "verify takes N [--seed S] [--study NAME], with N from 1, or all; not: $*"
        set_up "$python"
        exec .venv/bin/python -m shapo.experiments verify "$@"
        ;;
    setup)
        [ $# -eq 0 ] || { [ $# -eq 1 ] && [ "$1" = --peers ]; } || fail "setup takes only --peers, not: $*"
        set_up "$python"
        [ $# -eq 0 ] || add_peers
        ;;
    lab)
        [ $# -eq 0 ] || [ "$1" = -- ] || fail "unknown option for lab: $1 (JupyterLab's own go after --)"
        [ $# -eq 0 ] || shift
        root=() # JupyterLab refuses root, which is who works in a container
        [ "$(id -u)" -ne 0 ] || root=(--allow-root)
        set_up "$python"
        # JupyterLab asks nobody about its news; a user's own settings come first
        mkdir -p .venv/etc/jupyter/labconfig
        echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
            >.venv/etc/jupyter/labconfig/default_setting_overrides.json
        # What is saved keeps its outputs, which git does not see (.gitattributes); not everybody's copy is a repository
        git config filter.notebook.clean ".venv/bin/python notebooks/clean.py" 2>/dev/null || true
        exec .venv/bin/python -m jupyterlab ${root[@]+"${root[@]}"} --ip=127.0.0.1 --ServerApp.root_dir="$PWD" \
            --LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb "$@"
        ;;
esac
