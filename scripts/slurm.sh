#!/bin/bash
# Train under Slurm, on one GPU or on many; what follows the script's name goes to scripts/train.py:
#   sbatch scripts/slurm.sh --data data --out runs/small --model_size small
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm.sh --data data --out runs/base --model_size base
#SBATCH --job-name meloformer
#SBATCH --nodes 1
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 1
#SBATCH --cpus-per-task 16
#SBATCH --time 24:00:00
#SBATCH --output slurm-%j.log
# SIGTERM two minutes before the end, so that a checkpoint is written; the job then queues again and goes on from it
#SBATCH --signal TERM@120
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. "${VENV:-.venv}/bin/activate"
export OMP_NUM_THREADS=1

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:29500" scripts/train.py "$@"
