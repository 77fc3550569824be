#!/usr/bin/env bash
# Inspects a folder of photographs as a Slurm job of eight GPUs on one machine, shared out by torchrun.
#
#     sbatch examples/slurm.sh part.safetensors photos/ inspected/
#
# A job that was ended early goes on where it stopped when it is started again: scontrol requeue, or the same sbatch.
#SBATCH --job-name=fdsl
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
set -euo pipefail
[ $# = 3 ] || { echo "usage: sbatch examples/slurm.sh DETECTOR PHOTOS OUTPUT" >&2; exit 2; }

torchrun --standalone --nproc-per-node 8 predict.py --detector "$1" --input "$2" --output "$3" --resume \
    --batch-size 8 --workers 8 --pictures anomalous
