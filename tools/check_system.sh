#!/bin/sh
# Check what pip cannot install: the venv module, Python's headers, a C++ compiler and the shared
# libraries that wheels load. What is missing is installed where that is possible without asking
# (root, or sudo without a password), and otherwise named in one line.
# Usage: check_system.sh [PYTHON]
set -eu
python=${1:-python3}

if ! command -v "$python" > /dev/null; then
  echo "setup: no $python found: install Python 3.10 or newer, or call make PYTHON=/path/to/python3" >&2
  exit 1
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "setup: $python is Python $version, 3.10 or newer is needed: call make PYTHON=/path/to/python3" >&2
  exit 1
fi
# Debian's packages of the default Python are called python3-*, those of another python3.X-*.
package=python3
[ "$(command -v python3)" = "$(command -v "$python")" ] || package=python$version

missing=
need() { missing="$missing $1"; }

"$python" -c 'import ensurepip, venv' 2> /dev/null || need "$package-venv"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
[ -e "$header" ] || need "$package-dev"
command -v c++ > /dev/null || need g++

known=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
library() { case $known in *"$1 "*) ;; *) need "$2" ;; esac }
library libgomp.so.1 libgomp1  # torch, numba, open3d
library libGL.so.1 libgl1      # open3d loads these three even without a screen
library libX11.so.6 libx11-6
library libudev.so.1 libudev1

[ -n "$missing" ] || exit 0

by_hand="setup: missing system packages:$missing. Install them with:  sudo apt-get install$missing"
if ! command -v apt-get > /dev/null; then
  echo "$by_hand  (names of Debian and Ubuntu) and call make again." >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
  as_root='sudo -n'
else
  echo "$by_hand  and call make again." >&2
  exit 1
fi
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # lists of words
if ! { $as_root apt-get update -qq \
    && $as_root apt-get install -y -qq --no-install-recommends $missing > /dev/null; }; then
  echo "$by_hand  and call make again (the attempt to do so failed, see above)." >&2
  exit 1
fi
