#!/usr/bin/env bash
# Checks style, format and types: bash tests/lint.sh. Sets itself up.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/shell.sh"

set_up_python requirements-dev.txt
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
"$PYTHON" -m mypy
