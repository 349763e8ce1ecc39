#!/bin/bash
# GenAC on two machines of eight GPUs under Slurm: sbatch examples/cluster/slurm.sh RECIPE
# Never run on a cluster. The folder from which it is submitted has to be shared by all machines,
# and hold .venv with genac[ray].
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):6379"

# Ray starts on every machine, the command on the first only, and all of it ends with the command.
# What a requeued job had saved is there: the same command goes on from its last checkpoint.
srun .venv/bin/ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" \
  --num-gpus=8 --num-cpus=64 -- \
  .venv/bin/genac train "$1" \
  --hardware.cluster auto --hardware.device cuda --hardware.processes $((8 * SLURM_NNODES))
