#!/usr/bin/env bash
# Trains FDSL's heads on MVTec AD and on VisA and tests each checkpoint on the other dataset.
#   bash trainAndTest.sh MODEL DEVICE useNAM winmode win-size win-stride win-weight seed kshots [backbone flags...]
# With no arguments: the demo, on two small datasets that it renders itself.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/shell.sh"

if [ "$#" -eq 0 ]; then
    set_up_python requirements.txt
    source scripts/demo.sh
    exit
fi
check_arguments "$@"
both_datasets
set_up_python requirements.txt
name_arguments "$@"
train_on mvtec "$MVTEC"
train_on visa "$VISA"
test_on visa "$VISA"
test_on mvtec "$MVTEC"
