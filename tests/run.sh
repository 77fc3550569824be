#!/usr/bin/env bash
# Passes the tests. Sets itself up; a process for each core, eight at most, with one thread each.
#   bash tests/run.sh                  the fast tests: every module's main behaviour and the golden outputs
#   bash tests/run.sh --slow           all other tests
#   bash tests/run.sh --all            everything: both of these, then the fast tests once more, held to AVX2
#   bash tests/run.sh FILE [...]       pytest with these arguments
# A test is marked slow if it starts Python or a browser, which the others may not, or takes more than five seconds
# of a processor (`--durations=0` measures that; the golden maps, scores and losses are fast whatever they take).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/shell.sh"

in_processes() { OMP_NUM_THREADS=1 "$PYTHON" -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile "$@"; }

# As on a processor without AVX512 and AMX, where sums differ in their last bits.
on_avx2() {
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        in_processes -m "not slow"
}

set_up_python requirements-dev.txt
case ${1-} in
    "") in_processes -m "not slow" ;;
    --slow) in_processes -m slow ;;
    --all) in_processes -m "not slow" && in_processes -m slow && on_avx2 ;;
    *) exec "$PYTHON" -m pytest "$@" ;;
esac
