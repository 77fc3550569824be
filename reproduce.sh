#!/usr/bin/env bash
# The paper's table: trains on MVTec AD and on VisA, tests each on the other for every seed and number of shots, and
# gathers mean and spread over the seeds. Stopped or repeated, it goes on where it was: what is finished is skipped.
#   SEEDS="14 15 16 17 18" SHOTS="1 2 4" bash reproduce.sh [MODEL DEVICE [backbone flags...]]
# Other settings: TRAIN_ARGS and TEST_ARGS, for instance TEST_ARGS="--winmode nan --pictures 0".
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/shell.sh"

USAGE_ARGUMENTS='[MODEL DEVICE [backbone flags...]]
  MODEL   name of the checkpoints and results folder (default fdsl)
  DEVICE  auto, cpu, cuda, mps or a GPU'"'"'s number (default auto)
  environment: SEEDS="14 15 16 17 18" SHOTS="1 2 4" MVTEC_PATH VISA_PATH TRAIN_ARGS TEST_ARGS'

model_and_device "$@"
both_datasets
set_up_python requirements.txt

paper_arguments() { name_arguments "$model" "$device" 1 mul 13 2 0.5 "$1" "$2" ${flags[@]+"${flags[@]}"}; }

paper_arguments "${seeds[0]}" "${shots[0]}"
train_on mvtec "$MVTEC"
train_on visa "$VISA"
TEST_FLAGS+=(--seed "${seeds[@]}" --k-shot "${shots[@]}")  # all of them, in place of the first
for pair in "visa:$VISA" "mvtec:$MVTEC"; do  # one pass over the test images for all seeds and shots
    echo "${pair%%:*}: $((${#seeds[@]} * ${#shots[@]})) runs in one pass" >&2
    test_on "${pair%%:*}" "${pair#*:}"
done
"$PYTHON" -m fdsl.summarize "$(given_value --results results)/$model"
