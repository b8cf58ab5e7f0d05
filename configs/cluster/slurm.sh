#!/bin/bash
# One search as a Slurm job: a Ray of its own on the nodes of the job, which ends with it.
#
#   sbatch configs/cluster/slurm.sh burgers1d --store s3://BUCKET/store     # what follows the script goes to `ups search`
#   scancel --signal=TERM --batch JOB                                       # end it in good order; it can be resumed
#
# Submit it from a folder that all nodes share: the STUDY folder is runs/SPACE below it. A job that is preempted or runs
# out of time is put into the queue again and resumes its study.
#SBATCH --job-name=ups
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ups-%j.log
set -euo pipefail

space=${1:?name a SPACE, such as burgers1d}
study=runs/$(basename "$space" .yaml)
source "${UPS_VENV:-.venv}/bin/activate"

# a token of this job alone: in the environment of its processes, in no file
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
# reduced data on each node's own disk
export UPS_CACHE=${TMPDIR:-/tmp}/ups-$USER

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000))
cpus=$SLURM_CPUS_PER_TASK
# no function: of one in the background, `$!` would be a shell that hands no signal on
one=(srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --overlap)
head=("${one[@]}" --nodelist="${nodes[0]}")

address=$("${head[@]}" hostname --ip-address | awk '{print $1}')
"${head[@]}" ray start --head --block --node-ip-address="$address" --port="$port" \
  --num-cpus="$cpus" --dashboard-host=127.0.0.1 &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT    # ends Ray on every node
for node in "${nodes[@]:1}"; do
  "${one[@]}" --nodelist="$node" ray start --block --address="$address:$port" --num-cpus="$cpus" &
done

# until all nodes are there
for _ in $(seq 60); do
  alive=$("${head[@]}" python -c "import ray; ray.init('$address:$port', log_to_driver=False); print(len(ray.nodes()))" || true)
  [ "${alive:-0}" = "${#nodes[@]}" ] && break
  sleep 5
done
"${head[@]}" ups doctor --address "$address:$port"

resume=()
[ -f "$study/study.yaml" ] && resume=(--resume)
"${head[@]}" ups search "$@" --address "$address:$port" --out "$study" --quiet "${resume[@]}" &
search=$!
# a first TERM is the scheduler's: the search saves what it has, and the job is queued again
trap 'kill -TERM $search; wait $search || true; scontrol requeue "$SLURM_JOB_ID"; exit 0' TERM
wait $search
