#!/usr/bin/env bash
# What `make gpu-pack` packs, on a machine without internet that has a GPU, torch and the other packages named below.
#   bash run.sh                  the benchmark, then every job of the packed studies
#   bash run.sh bench [option …] the benchmark alone, with its options (--small: on the processor)
#   bash run.sh studies          the jobs alone; stopped, the same command continues
# PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PYTHON="${PYTHON:-python3}"
packed="$(cat python-version)"
found="$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [ "$packed" != "$found" ]; then
  echo "run.sh: the wheels are for Python $packed, and $PYTHON is $found. Set PYTHON, or pack for it: make gpu-pack PYTHON_VERSION=$found" >&2
  exit 2
fi
"$PYTHON" - << 'CHECK'
import importlib.util, sys
names = ("torch", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "psutil")
missing = [name for name in names if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"run.sh: this Python has no {', '.join(missing)}, which are not in the pack. Load the module or environment that has them.")
CHECK
if [ -d wheels ] && [ ! -e site/unpacked ]; then
  rm -rf site
  for wheel in wheels/*.whl; do "$PYTHON" -m zipfile -e "$wheel" site; done
  touch site/unpacked
fi
export PYTHONPATH="$PWD:$PWD/site"

bench() { "$PYTHON" benchmarks/gpu.py --out results "$@"; }

studies() {
  while read -r stage spec log; do
    echo "medssl $stage $spec" >&2
    "$PYTHON" -m medssl "$stage" "$spec" --threads "$(nproc)" --log "$log" < /dev/null
  done < jobs
}

case "${1:-all}" in
  all) bench && studies ;;
  bench) shift && bench "$@" ;;
  studies) studies ;;
  *) echo "run.sh: expected nothing, bench or studies, got $1" >&2 && exit 2 ;;
esac
