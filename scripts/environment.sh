# Sourced by the other scripts: `environment EXTRA` goes to the checkout, makes its virtual environment if there is
# none, installs spann with the extra, and activates it. The environment is .venv, or what SPANN_VENV names.
# Nothing is installed again until pyproject.toml, setup.py or a source in ext is newer.

environment() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    local place=${SPANN_VENV:-.venv} candidate python=${PYTHON:-}
    if [ -z "$python" ]; then
        for candidate in python3.11 python3 python; do
            if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
    fi
    [ -n "$python" ] || { echo "spann needs Python 3.11 or later; name one with PYTHON=..." >&2; exit 1; }
    unset PYTHONPATH PYTHONHOME
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    [ -x "$place/bin/python" ] || "$python" -m venv "$place"
    # Activated, not only called by path: cython-lint looks for pycodestyle on PATH.
    # shellcheck disable=SC1091
    . "$place/bin/activate"
    # Editable: the compiled modules then lie beside the sources, where Python finds them in the checkout.
    installed "$place/spann-$1" && return
    python -m pip install --no-input --quiet --editable ".[$1]"
    local extra
    for extra in $1 $([ "$1" = dev ] && echo test docs); do # dev has these in it
        pwd >"$place/spann-$extra"
    done
}

# Whether the note $1 of an installation is of this checkout, and it and the native modules are newer than their sources.
installed() {
    local made modules=(spann/_kernels/_*.abi3.so)
    [ "$(cat "$1" 2>/dev/null)" = "$PWD" ] && [ "${#modules[@]}" = "$(ls ext/_*.pyx | wc -l)" ] || return 1
    for made in "$1" "${modules[@]}"; do
        [ -e "$made" ] || return 1
        [ -z "$(find pyproject.toml setup.py ext -type f -newer "$made" ! -path 'ext/_*.c' -print -quit)" ] || return 1
    done
}
