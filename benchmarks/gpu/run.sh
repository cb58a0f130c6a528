#!/bin/sh
# Everything in benchmarks/gpu, on one GPU (or, without one, on the CPU with the tiny model). What is
# finished is not run again. PYTHON names another interpreter than Trireme's own environment.
set -eu
root=$(CDPATH='' cd -P -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
  python=$root/.venv/bin/python
  [ -x "$python" ] || python=python3
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -m benchmarks.gpu.run "$@"
