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

model=${1:-fdsl} device=${2:-auto} flags=("${@:3}")
SEEDS=${SEEDS:-14 15 16 17 18} SHOTS=${SHOTS:-1 2 4}
read -ra seeds <<< "${SEEDS//$'\n'/ }"
read -ra shots <<< "${SHOTS//$'\n'/ }"
[[ $model =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || wrong_argument "argument 1, MODEL, cannot be '$model'"
[[ $device =~ ^(auto|cpu|cuda(:[0-9]+)?|mps|[0-9]+)$ ]] || wrong_argument "argument 2, DEVICE, cannot be '$device'"
[[ $# -le 2 || $3 == --* ]] || wrong_argument "what follows DEVICE must be flags, not '$3'"
[[ "${seeds[*]-}" =~ ^[0-9]+( [0-9]+)*$ ]] || wrong_argument "SEEDS must be whole numbers, not '$SEEDS'"
[[ "${shots[*]-}" =~ ^[1-9][0-9]*( [1-9][0-9]*)*$ ]] || wrong_argument "SHOTS must be numbers from 1, not '$SHOTS'"
both_datasets
set_up_python requirements.txt

results=results  # or where TEST_ARGS puts them
read -ra words <<< "${TEST_ARGS-}"
for index in "${!words[@]}"; do
    case ${words[index]} in
        --results) results=${words[index + 1]-results} ;;
        --results=*) results=${words[index]#--results=} ;;
    esac
done

paper_arguments() { name_arguments "$model" "$device" 1 mul 13 2 0.5 "$1" "$2" ${flags[@]+"${flags[@]}"}; }

paper_arguments "${seeds[0]}" "${shots[0]}"
train_on mvtec "$MVTEC"
train_on visa "$VISA"
TEST_FLAGS+=(--seed "${seeds[@]}" --k-shot "${shots[@]}")  # all of them, in place of the first
for pair in "visa:$VISA" "mvtec:$MVTEC"; do  # one pass over the test images for all seeds and shots
    echo "${pair%%:*}: $((${#seeds[@]} * ${#shots[@]})) runs in one pass" >&2
    test_on "${pair%%:*}" "${pair#*:}"
done
"$PYTHON" -m fdsl.summarize "$results/$model"
