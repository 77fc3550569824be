#!/usr/bin/env bash
# Passes the tests: bash tests/run.sh [pytest arguments]. Sets itself up.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/shell.sh"

set_up_python requirements-dev.txt
exec "$PYTHON" -m pytest "$@"
