#!/usr/bin/env bash
# Makes the environment if needed and runs the whole test suite. Arguments go to pytest.
#
#   launch/test.sh
#   launch/test.sh tests/reid/data -k clips
#   launch/test.sh -m "not slow"
#
# Tests whose tools are missing (Slurm, Chromium, a GPU) are skipped and say why. With CI=true only a GPU may be missing.
# Ends with pytest's summary line and pytest's exit code.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
"$root/launch/environment.sh"
export PATH="$root/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 # one process a core: more threads would only wait for each other
cd "$root"
exec python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder "$@"
