#!/usr/bin/env bash
# Passes the tests: bash tests/run.sh [pytest arguments]. Sets itself up. Without arguments all of them, a process for each
# core, eight at most, with one thread each.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/shell.sh"

set_up_python requirements-dev.txt
if [ $# = 0 ]; then
    set -- --numprocesses auto --maxprocesses 8 --dist loadfile
    export OMP_NUM_THREADS=1
fi
exec "$PYTHON" -m pytest "$@"
