#!/usr/bin/env bash
# Inspects a folder of photographs as a Slurm array: eight tasks with a GPU each, which need not run at once.
#
#     sbatch examples/slurm.sh part.safetensors photos/ inspected/
#
# Each task does every eighth block of the photographs. The one that finishes the last block joins them all. A task
# that was ended early goes on where it stopped when it is started again: scontrol requeue, or the same sbatch.
# The folders have to lie on a disk that all machines share.
#SBATCH --job-name=fdsl
#SBATCH --array=0-7
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
set -euo pipefail
[ $# = 3 ] || { echo "usage: sbatch examples/slurm.sh DETECTOR PHOTOS OUTPUT" >&2; exit 2; }

# predict.py reads the array's variables by itself; --shard "$SLURM_ARRAY_TASK_ID/8" would say the same.
python predict.py --detector "$1" --input "$2" --output "$3" --batch-size 8 --workers 8 --pictures anomalous

# Several GPUs in one allocation, whose processes can hear from each other, are torchrun's instead:
#     torchrun --standalone --nproc-per-node 8 predict.py --detector "$1" --input "$2" --output "$3"
