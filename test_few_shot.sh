#!/usr/bin/env bash
# Tests checkpoints that are there already: the one trained on VisA on MVTec AD, and the other way round.
#   bash test_few_shot.sh MODEL DEVICE useNAM winmode win-size win-stride win-weight seed kshots [backbone flags...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/shell.sh"

check_arguments "$@"
both_datasets
set_up_python requirements.txt
name_arguments "$@"
test_on visa "$VISA"
test_on mvtec "$MVTEC"
