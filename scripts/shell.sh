# Shared by every script: finds or makes the Python environment, and checks the nine positional arguments.
# Source it from a script in the project's root; it changes to the root and defines $PYTHON.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

say_error() { echo "error: $*" >&2; }

# environment_has FILE PYTHON: whether PYTHON has every package that FILE asks for (any version: yours may differ).
environment_has() {
    "$2" - "$1" <<'PY' >/dev/null 2>&1
import re, sys
from importlib.metadata import version
assert sys.version_info >= (3, 11)
def needed(file):
    for line in open(file):
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from needed(line[3:].strip())
        elif line:
            yield re.split(r"[=<>!~\[; ]", line)[0]
for name in needed(sys.argv[1]):
    version(name)
PY
}

# set_up_python FILE: the active environment if it has what FILE lists, else .venv, made and filled when needed.
set_up_python() {
    local wanted=$1 candidate base=""
    for candidate in python python3 .venv/bin/python; do
        if command -v "$candidate" >/dev/null 2>&1 && environment_has "$wanted" "$candidate"; then
            PYTHON=$candidate
            return 0
        fi
    done
    for candidate in python3 python python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 \
                && "$candidate" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
            base=$candidate
            break
        fi
    done
    if [ -z "$base" ]; then
        say_error "no Python 3.11 or newer was found; install one, then run this again."
        return 2
    fi
    echo "Setting up .venv from $wanted (once; several GB with CUDA, README: CPU-only install)" >&2
    if ! { [ -x .venv/bin/python ] || "$base" -m venv .venv; } \
            || ! .venv/bin/python -m pip install --disable-pip-version-check -r "$wanted"; then
        say_error "the packages of $wanted could not be installed into .venv; the lines above say why."
        return 2
    fi
    PYTHON=.venv/bin/python
}

USAGE_ARGUMENTS="MODEL DEVICE useNAM winmode win-size win-stride win-weight seed kshots [backbone flags...]
  MODEL       name of the checkpoints and results folder, for instance fdsl
  DEVICE      auto, cpu, cuda, mps or a GPU's number, for instance 0
  useNAM      1 or 0: neighbour aggregation
  winmode     nan (no windows), mul (windows and whole image) or onlywin
  win-size    window side in patches, for instance 13
  win-stride  window step in patches, for instance 2
  win-weight  share of the windows in mul, 0 to 1, for instance 0.5
  seed        samples the references, for instance 14
  kshots      references of each category: 1, 2, 4, ..."

# check_arguments "$@": refuses a wrong one of the nine with the usage and which one it was (exit 2).
check_arguments() {
    local names=(MODEL DEVICE useNAM winmode win-size win-stride win-weight seed kshots)
    local patterns=('[A-Za-z0-9][A-Za-z0-9._-]*' 'auto|cpu|cuda(:[0-9]+)?|mps|[0-9]+' '[01]' 'nan|mul|onlywin'
                    '[1-9][0-9]*' '[1-9][0-9]*' '0|1|0?\.[0-9]+|0\.[0-9]+|1\.0*' '[0-9]+' '[0-9]+')
    local values=("$@") index
    for index in "${!names[@]}"; do
        if [ "$index" -ge "$#" ]; then
            wrong_argument "argument $((index + 1)), ${names[$index]}, is missing"
        elif ! [[ "${values[$index]}" =~ ^(${patterns[$index]})$ ]]; then
            wrong_argument "argument $((index + 1)), ${names[$index]}, cannot be '${values[$index]}'"
        fi
    done
    if [ "${values[3]}" != nan ] && [ "${values[5]}" -gt "${values[4]}" ]; then
        wrong_argument "argument 6, win-stride ${values[5]}, is larger than win-size ${values[4]}: patches would be missed"
    fi
    if [ "$#" -gt 9 ] && [[ "${values[9]}" != --* ]]; then
        wrong_argument "what follows the ninth argument must be flags, not '${values[9]}'"
    fi
}

wrong_argument() {
    say_error "$1."
    echo "usage: bash $(basename "$0") $USAGE_ARGUMENTS" >&2
    exit 2
}

# name_arguments "$@": the nine arguments as the flags of train.py and test.py.
name_arguments() {
    MODEL=$1
    COMMON_FLAGS=(--model-name "$1" --device "$2" --use-nam "$3" "${@:10}")
    TEST_FLAGS=(--winmode "$4")
    local winmode
    winmode=$(given_value --winmode "$4")
    [ "$winmode" = nan ] || TEST_FLAGS+=(--win-size "$5" --win-stride "$6")
    [ "$winmode" != mul ] || TEST_FLAGS+=(--win-weight "$7")
    TEST_FLAGS+=(--seed "$8" --k-shot "$9")
}

# model_and_device "$@": MODEL, DEVICE and backbone flags as $model, $device and $flags, and SEEDS and SHOTS of the
# environment as $seeds and $shots; refuses a wrong one.
model_and_device() {
    model=${1:-fdsl} device=${2:-auto} flags=("${@:3}")
    SEEDS=${SEEDS:-14 15 16 17 18} SHOTS=${SHOTS:-1 2 4}
    read -ra seeds <<< "${SEEDS//$'\n'/ }"
    read -ra shots <<< "${SHOTS//$'\n'/ }"
    [[ $model =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || wrong_argument "argument 1, MODEL, cannot be '$model'"
    [[ $device =~ ^(auto|cpu|cuda(:[0-9]+)?|mps|[0-9]+)$ ]] || wrong_argument "argument 2, DEVICE, cannot be '$device'"
    [[ $# -le 2 || $3 == --* ]] || wrong_argument "what follows DEVICE must be flags, not '$3'"
    [[ "${seeds[*]-}" =~ ^[0-9]+( [0-9]+)*$ ]] || wrong_argument "SEEDS must be whole numbers, not '$SEEDS'"
    [[ "${shots[*]-}" =~ ^[1-9][0-9]*( [1-9][0-9]*)*$ ]] || wrong_argument "SHOTS must be numbers from 1, not '$SHOTS'"
}

# given_value FLAG DEFAULT: the value that FLAG has in TEST_ARGS.
given_value() {
    local words index found=$2
    read -ra words <<< "${TEST_ARGS-}"
    for index in "${!words[@]}"; do
        case ${words[index]} in
            "$1") found=${words[index + 1]-$found} ;;
            "$1"=*) found=${words[index]#"$1"=} ;;
        esac
    done
    echo "$found"
}

# words_without WORDS FLAG...: the words of a command line without these flags and the value of each.
words_without() {
    local words word skip="" left=()
    read -ra words <<< "$1"
    for word in ${words[@]+"${words[@]}"}; do
        if [ -n "$skip" ]; then
            skip=""
        elif [[ " ${*:2} " == *" $word "* ]]; then
            skip=yes
        elif [[ " ${*:2} " != *" ${word%%=*} "* ]]; then
            left+=("$word")
        fi
    done
    echo "${left[*]-}"
}

# train_on DATASET FOLDER / test_on DATASET FOLDER: one run; TRAIN_ARGS and TEST_ARGS of the environment are added.
train_on() {
    # shellcheck disable=SC2086 # TRAIN_ARGS holds several words
    "$PYTHON" train.py --dataset "$1" --data-path "$2" "${COMMON_FLAGS[@]}" ${TRAIN_ARGS-}
}
test_on() {
    # shellcheck disable=SC2086 # TEST_ARGS holds several words
    "$PYTHON" test.py --dataset "$1" --data-path "$2" "${COMMON_FLAGS[@]}" "${TEST_FLAGS[@]}" ${TEST_ARGS-}
}

# both_datasets: the folders from $MVTEC_PATH and $VISA_PATH; one that is not there is said before anything runs.
both_datasets() {
    MVTEC=${MVTEC_PATH:-data/mvtec} VISA=${VISA_PATH:-data/visa}
    local pair
    for pair in "MVTec AD:$MVTEC:MVTEC_PATH" "VisA:$VISA:VISA_PATH"; do
        local folder=${pair#*:}
        if [ ! -d "${folder%:*}" ]; then
            say_error "${pair%%:*} is not at ${folder%:*}; put it there or name its folder with ${pair##*:}=DIR (README: datasets)."
            exit 2
        fi
    done
}
