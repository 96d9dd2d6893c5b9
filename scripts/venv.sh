# shellcheck shell=bash
# The virtual environment in .venv: choosing its Python, filling it, knowing that it is ready.

# Prints the first Python that is new enough; pyenv's stand-ins may exist and not run.
choose_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11})"
}

# packages_of_python PYTHON: the Debian packages without which it builds no environment or module.
packages_of_python() {
    "$1" - <<'PYTHON'
import importlib.util, pathlib, sys, sysconfig

name = f"python{sys.version_info.major}.{sys.version_info.minor}"
if importlib.util.find_spec("ensurepip") is None:
    print(f"{name}-venv")
if not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists():
    print(f"{name}-dev")
PYTHON
}

# Everything that what is in .venv depends on, as one number.
fingerprint() {
    {
        cat setup.cfg pyproject.toml constraints.txt scripts/*.sh
        .venv/bin/python --version
        # Scripts in .venv/bin name their interpreter by its full path.
        pwd
    } 2>/dev/null | sha256sum
}

# venv_is_ready EXTRAS
venv_is_ready() { [[ $(cat ".venv/ready$1" 2>/dev/null) == "$(fingerprint)" ]]; }

# build_venv EXTRAS PYTHON: makes .venv, or brings it up to date. EXTRAS: empty, or [dev].
build_venv() {
    local extras=$1 python=$2 started=$SECONDS
    [[ -e .venv || -w . ]] || fail "$PWD cannot be written to, and .venv belongs there"
    [[ ! -e .venv || -w .venv ]] ||
        fail ".venv needs an update and cannot be written to: if another user made it, run make with sudo once"

    # An interrupted pip leaves libraries that look complete: begin again.
    if [[ -e .venv/unfinished ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        rm -rf .venv
        say "creating .venv with $("$python" --version)"
        mkdir .venv
        touch .venv/unfinished
        logged 'creating .venv' "$python" -m venv .venv
    fi
    touch .venv/unfinished

    # The C that NetfilterQueue 1.1.0 ships compiles on no Python we support: Cython must write it
    # anew. What builds it is therefore put into .venv first, and used from there.
    say "installing nfq_zerortt$extras and its libraries"
    pip_can_cache || export PIP_NO_CACHE_DIR=1
    pip_install setuptools wheel Cython
    pip_install --no-build-isolation --editable ".$extras"
    logged 'loading what was installed' .venv/bin/python -c 'import iptc, netfilterqueue, nfq_zerortt'

    fingerprint >.venv/ready
    [[ -z $extras ]] || cp .venv/ready ".venv/ready$extras"
    rm .venv/unfinished
    say "ready after $((SECONDS - started)) s: .venv/bin/nfq-zerortt"
}

# What pip builds it puts into its cache first, and gives up if that cannot be written.
pip_can_cache() {
    local cache
    cache=$(.venv/bin/python -m pip cache dir 2>/dev/null) && mkdir -p "$cache" 2>/dev/null &&
        [[ -w $cache ]]
}

pip_install() {
    logged 'pip install (it needs the Python package index, or PIP_FIND_LINKS)' .venv/bin/python -m pip install --disable-pip-version-check \
        --constraint constraints.txt "$@"
}
