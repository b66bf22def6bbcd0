#!/bin/sh
# Makes .venv, with the diffuse.* commands in .venv/bin, on top of the DIALS on PATH or else Debian's packages.
# --dry-run: say what would be done and do nothing.
set -eu
cd "$(dirname "$0")/.."

DEBIAN_PACKAGES="dials python3-dials python3-numba python3-h5py python3-hdf5plugin bitshuffle
python3-xraylib python3-gemmi python3-mpi4py openmpi-bin python3-plotly python3-matplotlib python3-tqdm
python3-mrcfile python3-pytest python3-pytest-xdist python3-hypothesis python3-venv python3-pip python3-setuptools python3-wheel"
CONDA_HINT="get DIALS with conda (https://conda-forge.org): conda env create -f environment.yml && conda activate diffuse_dials"

dry_run=no
[ "${1:-}" != --dry-run ] || dry_run=yes

say() { echo "setup: $*"; }
stop() { echo "setup: $*" >&2; exit 1; }
run() { if [ $dry_run = yes ]; then say "would run: $*"; else "$@"; fi; }

# The interpreter of the DIALS on PATH, empty without one. Its scripts name it in their first line, the dispatchers
# of a developer build are shell scripts and ask libtbx.
dials_python() {
    command_file=$(command -v dials.version) || return 0
    interpreter=$(sed -n '1s/^#! *\([^ ]*\).*/\1/p' "$command_file")
    case "$interpreter" in
    *python*) echo "$interpreter" ;;
    *) libtbx.python -c 'import sys; print(sys.executable)' || stop "$command_file is there, but libtbx.python does not work" ;;
    esac
}

is_debian_package() { command -v dpkg-query >/dev/null && dpkg-query -S "$(readlink -f "$1")" >/dev/null 2>&1; }

missing_packages() {
    for package in $DEBIAN_PACKAGES; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || echo "$package"
    done
}

install_packages() {
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || stop "needs Debian's packages $packages: install them as root (apt-get install), or $CONDA_HINT"
        as_root=sudo
    fi
    say "installing Debian's packages: $packages"
    run $as_root apt-get -q update -o Acquire::Retries=3 || stop "apt-get update failed: see above, or $CONDA_HINT"
    # shellcheck disable=SC2086  (a list of words)
    run $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        -o Acquire::Retries=3 $packages || stop "apt-get install failed: see above, or $CONDA_HINT"
}

python=$(dials_python)
if [ -n "$python" ]; then
    # what Debian's DIALS lacks comes from Debian; another DIALS is left alone
    if is_debian_package "$(command -v dials.version)"; then install_packages; fi
elif command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    install_packages
    python=/usr/bin/python3
else
    stop "there is no DIALS on PATH, and no apt-get to install it with: $CONDA_HINT"
fi

say "using the DIALS of $python"
if [ $dry_run = no ]; then
    unset PYTHONPATH PYTHONHOME
    "$python" -c 'import dials.array_family, dxtbx.model' 2>/dev/null ||
        stop "$python cannot import DIALS by itself: in a developer build use libtbx.configure diffuse_dials (see docs/installing.md)"
fi
run "$python" -m venv --clear --system-site-packages .venv || stop "$python could not make the virtual environment .venv"
[ $dry_run = no ] || exit 0

# libtbx looks for its environment under the virtual environment's prefix. The package sets this variable itself;
# the .pth file does it for a python that imports dxtbx first.
.venv/bin/python - <<'END'
import os, pathlib, sys, sysconfig
sys.path.insert(0, os.getcwd())
import diffuse_dials  # noqa: F401
build = os.environ.get("LIBTBX_BUILD")
if build:
    line = f'import os; os.environ.setdefault("LIBTBX_BUILD", {build!r})\n'
    pathlib.Path(sysconfig.get_paths()["purelib"], "libtbx_build.pth").write_text(line)
END
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps --no-index -e . ||
    stop "pip could not install diffuse_dials into .venv: see above"
# Debian's bitshuffle takes 1.6 times as long for an Eiger image as hdf5plugin's, and Debian's hdf5plugin has none of its
# own. One from PyPI is welcome, and not needed.
has_filters() { .venv/bin/python -c 'import sys, hdf5plugin as h; sys.exit("bshuf" not in h.get_config().build_config.embedded_filters)' 2>/dev/null; }
if is_debian_package "$python" && ! has_filters; then
    .venv/bin/python -m pip install -qq --disable-pip-version-check --retries 1 --timeout 15 --no-deps --upgrade hdf5plugin || true
    has_filters || say "went on without the hdf5plugin of PyPI, which decodes Eiger's images faster"
fi
.venv/bin/python -c 'import dxtbx.model, diffuse_dials' || stop "DIALS cannot be imported from .venv: see above"
missing=
for module in scipy matplotlib tqdm gemmi xraylib pytest xdist; do
    .venv/bin/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$module') is None)" || missing="$missing $module"
done
[ -z "$missing" ] || stop "the Python of this DIALS lacks$missing: conda env update -n <its name> -f environment.yml, then run this again"
say "done: the commands are .venv/bin/diffuse.*"
