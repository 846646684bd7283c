#!/usr/bin/env bash
# Sets the project up: the system packages that ffcv compiles against (Debian, Ubuntu), .venv, and in it requirements.txt
# and this project, editable.
# Safe to call again: it does only what is missing. PYTHON=python3.12 chooses the interpreter.
# `install.sh browser` installs Chromium, which only the tests need, and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# To need one more Debian package (say, a browser for a test), add a line.
system_packages=(
    g++             # ffcv is C++, and pip compiles it
    pkg-config      # how ffcv's setup.py finds the next two
    libopencv-dev
    libturbojpeg0-dev
)
venv=.venv
stamp=$venv/.installed        # the Makefile's: present when everything below went through
unfinished=$venv/.installing  # present while .venv is being changed: after a kill it says not to trust what is there

die() {
    echo "install.sh: $*" >&2
    exit 1
}
# pip ends with a plain failure on Ctrl-C; without this the script would take it for one.
trap 'exit 130' INT
trap 'exit 143' TERM

# --- system packages ---

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_install() {
    local missing=() package as_root=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        # sudo may ask for a password, but only where someone can answer.
        if ! command -v sudo >/dev/null || { ! sudo -n true 2>/dev/null && [ ! -t 0 ]; }; then
            die "these Debian packages are missing and installing them needs root or sudo: ${missing[*]}."
        fi
        as_root=(sudo)
    fi
    echo "Installing Debian packages: ${missing[*]}"
    as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)  # another apt may be at work
    { "${as_root[@]}" update && "${as_root[@]}" install -y --no-install-recommends "${missing[@]}"; } ||
        die "apt-get could not install ${missing[*]} (its own message is above); install them by hand and call this again."
}

has_apt() {
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

if [ "${1:-}" = browser ]; then
    for browser in chromium chromium-browser google-chrome; do
        ! command -v "$browser" >/dev/null || exit 0
    done
    has_apt || die "there is no apt-get here, so install Chromium, which the tests of the report open it in, by hand."
    apt_install chromium
    exit 0
fi

if has_apt; then
    apt_install "${system_packages[@]}"
elif ! { command -v g++ && command -v pkg-config && pkg-config --exists opencv4 libturbojpeg; } >/dev/null; then
    die "there is no apt-get here, so install what these Debian packages hold by hand and call this again: ${system_packages[*]}."
fi

# --- Python ---

# Prints "X.Y" where $1 is a Python that the pinned packages support.
supported() {
    "$1" -c 'import sys; v = sys.version_info[:2]; print("%d.%d" % v); sys.exit(not (3, 11) <= v <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if supported "$candidate" >/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# A .venv is kept when nothing was interrupted in it, its Python runs and is not another one than asked for.
keep_venv() {
    [ ! -e "$unfinished" ] && supported "$venv/bin/python" >/dev/null && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        { [ -z "${PYTHON:-}" ] || [ "$(supported "$venv/bin/python")" = "$(supported "$PYTHON")" ]; }
}

if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13, which this project needs."
fi
kept=no
if keep_venv; then
    kept=yes
    python=$venv/bin/python
elif [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
elif ! python=$(find_python); then
    if has_apt && ! command -v python3 >/dev/null; then
        apt_install python3
    fi
    python=$(find_python) || die "no Python 3.11, 3.12 or 3.13 found; install one, or name it: PYTHON=/path/to/python3.12."
fi

# ffcv needs Python's headers and a new .venv needs ensurepip. Debian packs both apart from its Python; others bring them.
is_complete() {
    "$1" -c '
import importlib.util, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (os.path.exists(header) and importlib.util.find_spec("ensurepip")))'
}
if ! is_complete "$python"; then
    if has_apt && [ "$("$python" -c 'import sys; print(sys.base_prefix)')" = /usr ]; then
        version=$(supported "$python")
        apt_install "python$version-dev" "python$version-venv"
    fi
    is_complete "$python" || die "$python has no C headers (Python.h) or no ensurepip; install its development and venv packages."
fi

# --- .venv ---

if [ $kept = no ]; then
    # The interpreter behind a virtual environment: an activated .venv can't make itself again.
    python=$("$python" -c 'import sys; print(sys._base_executable)')
    echo "Making $venv with $("$python" --version)"
    rm -rf "$venv"
    mkdir "$venv"
    touch "$unfinished"
    "$python" -m venv "$venv" || die "$python could not make $venv (its own message is above)."
fi
rm -f "$stamp"
touch "$unfinished"
echo "Installing requirements.txt into $venv (a new one takes some minutes and 6 GB)"
# One that worked before still does if pip found no network; it must not be thrown away for that.
keep_what_works() {
    [ $kept = no ] || rm -f "$unfinished"
}
if ! "$venv/bin/python" -m pip install --disable-pip-version-check -r requirements.txt; then
    keep_what_works
    die "pip could not install requirements.txt (its own message is above); without a network, set PIP_NO_INDEX=1 and PIP_FIND_LINKS to a folder of wheels."
fi
# The project under its name and with its commands; what it needs is there.
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .; then
    keep_what_works
    die "pip could not install this project into $venv (its own message is above)."
fi
# ffcv is linked to this machine's OpenCV: find out now, not in the middle of a run.
"$venv/bin/python" -c 'import ffcv' ||
    die "ffcv was installed but cannot be imported (see above); '$venv/bin/pip install --no-cache-dir --force-reinstall --no-deps ffcv==1.0.2' compiles it afresh."
# Renamed, so its time is the start's: what was edited meanwhile is newer, and make calls this again.
mv "$unfinished" "$stamp"
echo "Ready: $venv has everything."
