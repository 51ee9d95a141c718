# Sourced by the other scripts with the wanted extras as its argument: makes .venv if it is missing, installs igll
# with those extras when pyproject.toml has changed since the last time, and activates the environment.
extras="$1"
python="${PYTHON:-python3}"
if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: igll needs Python 3.10 or newer; set PYTHON to one (found: $("$python" --version 2>&1))" >&2
        exit 2
    }
    echo "making .venv"
    "$python" -m venv .venv
fi
stamp=".venv/.igll-$extras"
if ! cmp -s pyproject.toml "$stamp"; then
    echo "installing igll[$extras] into .venv (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    cp pyproject.toml "$stamp"
fi
# shellcheck disable=SC1091
source .venv/bin/activate
