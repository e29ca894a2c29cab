#!/bin/sh
# Build onellm_msgs and install it into the venv, where every interpreter of the venv finds it.
# Usage: build_msgs.sh VENV
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$(cd "$1" && pwd)
build=$venv/build/onellm_msgs
log=$venv/build/onellm_msgs.log

# A sourced ROS installation must not mix with the venv's.
unset PYTHONPATH LD_LIBRARY_PATH COLCON_PREFIX_PATH ROS_DISTRO || true
export AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv" PATH="$venv/bin:$PATH"

"$venv/bin/python" "$root/tools/mend_wheels.py"
rm -rf "$build"
mkdir -p "$build"
if ! { cmake -S "$root/onellm_msgs" -B "$build" -G Ninja -DBUILD_TESTING=OFF \
      -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$venv/bin/python" \
    && cmake --build "$build" -j "$(nproc)"; } > "$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "setup: onellm_msgs could not be built; the whole log is $log" >&2
  exit 1
fi
# What an older version of the messages left behind.
rm -rf "$venv/share/onellm_msgs" "$venv/include/onellm_msgs" \
  "$venv"/lib/libonellm_msgs__* "$venv"/lib/python3*/site-packages/onellm_msgs
cmake --install "$build" >> "$log"
rm -rf "$build"
echo 'built onellm_msgs into the venv'
