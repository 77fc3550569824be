#!/usr/bin/env bash
# The paper's kinds of ablation on both datasets, a table for each: NAM, LFE, size, stride and weight of its windows,
# alignment, index memory, discrepancy and shots. Test images are encoded once for all runs on the same windows.
# Stopped or repeated, it goes on where it was: what is finished is skipped.
#   SEEDS="14 15 16 17 18" SHOTS="1 2 4" KINDS="nam lfe shots" bash ablations.sh [MODEL DEVICE [backbone flags...]]
# Other values: SIZES, STRIDES, WEIGHTS. Other settings: TRAIN_ARGS and TEST_ARGS, for instance TEST_ARGS="--pictures 0".
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/shell.sh"

ALL_KINDS="nam lfe size stride weight alignment index discrepancy shots"
USAGE_ARGUMENTS='[MODEL DEVICE [backbone flags...]]
  MODEL   name of the checkpoints and results folder (default fdsl)
  DEVICE  auto, cpu, cuda, mps or a GPU'"'"'s number (default auto)
  environment: SEEDS="14 15 16 17 18" SHOTS="1 2 4" MVTEC_PATH VISA_PATH TRAIN_ARGS TEST_ARGS
               KINDS="'"$ALL_KINDS"'"
               SIZES="13 9 17" STRIDES="2 4 8" WEIGHTS="0.5 0.1 0.3 0.7 0.9" (of windows; the first is every table'"'"'s)'

model_and_device "$@"
KINDS=${KINDS:-$ALL_KINDS} SIZES=${SIZES:-13 9 17} STRIDES=${STRIDES:-2 4 8} WEIGHTS=${WEIGHTS:-0.5 0.1 0.3 0.7 0.9}
read -ra kinds <<< "$KINDS"
for kind in "${kinds[@]}"; do
    [[ " $ALL_KINDS " == *" $kind "* ]] || wrong_argument "KINDS must be some of $ALL_KINDS, not '$kind'"
done
[[ "$SIZES $STRIDES" =~ ^[1-9][0-9]*( [1-9][0-9]*)*$ ]] || wrong_argument "SIZES and STRIDES must be numbers from 1"
[[ $WEIGHTS =~ ^[0-9.]+( [0-9.]+)*$ ]] || wrong_argument "WEIGHTS must be numbers from 0 to 1, not '$WEIGHTS'"
both_datasets
set_up_python requirements.txt
checkpoints=$(given_value --checkpoints checkpoints) results=$(given_value --results results)

wanted() { [[ " ${kinds[*]} " == *" $1 "* ]]; }
first() { echo "${1%% *}"; }
with_commas() { echo "${1// /,}"; }

# train_both NAME [flags...]: heads under this name, trained on each dataset.
train_both() {
    COMMON_FLAGS=(--model-name "$1" --device "$device" --use-nam 1 "${@:2}" ${flags[@]+"${flags[@]}"})
    train_on mvtec "$MVTEC"
    train_on visa "$VISA"
}

# ask_for KIND NAME=V1,V2: one more table of the next command.
ask_for() {
    wanted "$1" || return 0
    TABLES+=("$1")
    ABLATE+=(--ablate "$2")
}

# test_with DATASET FOLDER [flags...]: the runs that these flags ask for, all else as in the first row of every table.
test_with() {
    COMMON_FLAGS=(--model-name "$model" --device "$device" --use-nam 1 ${flags[@]+"${flags[@]}"})
    TEST_FLAGS=(--winmode mul --win-size "$(first "$SIZES")" --win-stride "$(first "$STRIDES")"
                --win-weight "$(first "$WEIGHTS")" --seed "${seeds[@]}" "${@:3}")
    test_on "$1" "$2"
}

# ablate_on DATASET FOLDER HEADS: every table of one dataset, with the heads that were trained on the other.
ablate_on() {
    ABLATE=() TABLES=()
    ask_for nam use-nam=1,0
    ask_for lfe winmode=mul,nan,onlywin
    ask_for size win-size="$(with_commas "$SIZES")"
    ask_for stride win-stride="$(with_commas "$STRIDES")"
    ask_for weight win-weight="$(with_commas "$WEIGHTS")"
    ask_for alignment align=mulmax,diff2
    ask_for index index-memory=0,1,window
    if [ "${#TABLES[@]}" -gt 0 ]; then
        test_with "$1" "$2" --k-shot "${shots[0]}" "${ABLATE[@]}" --table "${TABLES[@]}"
    fi
    if wanted discrepancy; then
        TEST_ARGS=$(words_without "${TEST_ARGS-}" --checkpoints) \
            test_with "$1" "$2" --k-shot "${shots[0]}" --table discrepancy --checkpoint \
            "$checkpoints/$model/$3" "$checkpoints/$model-signed/$3" "$checkpoints/$model-none/$3"
    fi
    if wanted shots; then
        test_with "$1" "$2" --k-shot "${shots[@]}" --table shots
    fi
}

train_both "$model"
if wanted discrepancy; then  # it is what heads are trained on
    train_both "$model-signed" --fd signed
    TRAIN_ARGS=$(words_without "${TRAIN_ARGS-}" --k-shot --align) train_both "$model-none" --fd none
fi
ablate_on visa "$VISA" mvtec.safetensors
ablate_on mvtec "$MVTEC" visa.safetensors
echo "the tables: $results/$model/visa/*.md and $results/$model/mvtec/*.md" >&2
