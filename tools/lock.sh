#!/bin/sh
# Write requirements/constraints.txt anew from the direct requirements (after changing one of them).
# Needs `uv` on the PATH; resolves for every Python from 3.10 at once.
set -eu
cd "$(dirname "$0")/../requirements"
{
  echo '# Every package that the requirement files pull in, at one version. Made by tools/lock.sh.'
  cat runtime.txt build.txt test.txt train.txt ray.txt onnx.txt quantize.txt eval.txt \
    | uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links - \
    | grep -vE "sys_platform == '(win32|emscripten)'"
} > constraints.new
mv constraints.new constraints.txt
