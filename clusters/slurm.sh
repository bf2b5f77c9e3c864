#!/bin/bash
# One verb on the nodes of a SLURM allocation: a head on the first node, a Ray node on each of the others,
# and the verb on the head. Everything it reads and writes must be on a file system or in a bucket that
# all nodes reach.
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 clusters/slurm.sh \
#       pretrain fast_itpn_base --data DATA --out OUT --run base --gpus --workers 8..32
# Submitted again, it goes on where it was interrupted. Two minutes before the time limit SLURM sends
# SIGTERM: the run saves a checkpoint and ends, and is queued again.
#SBATCH --job-name=itpn-ray
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "slurm.sh: no verb; write sbatch clusters/slurm.sh pretrain nano ..." >&2
    exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "slurm.sh: this is no SLURM job; send it with sbatch" >&2
    exit 2
fi

# ITPN_RAY_BIN: where ray and itpn-ray are, such as a virtual environment's bin.
export PATH="${ITPN_RAY_BIN:-$PWD/.venv/bin}:$PATH"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ] && [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    echo "slurm.sh: $RAY_AUTH_TOKEN_PATH holds no token; make one: ray get-auth-token --generate" >&2
    exit 2
fi

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
# Jobs of one user may share a node: each has its own port.
PORT=$((20000 + SLURM_JOB_ID % 20000))
ADDRESS=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --all-ip-addresses)
ADDRESS=${ADDRESS%% *} # the first that is no loopback, which `hostname --ip-address` may be
# Labels by which a run counts its costs: ITPN_RAY_LABELS=instance-type=p5.48xlarge,market=on-demand
LABELS=(${ITPN_RAY_LABELS:+--labels="$ITPN_RAY_LABELS"})
CPUS=(${SLURM_CPUS_PER_TASK:+--num-cpus="$SLURM_CPUS_PER_TASK"})
GPUS=(${SLURM_GPUS_ON_NODE:+--num-gpus="$SLURM_GPUS_ON_NODE"})

RAY_PIDS=()
stop_ray() {
    kill "${RAY_PIDS[@]}" 2> /dev/null || true
    wait "${RAY_PIDS[@]}" 2> /dev/null || true
}
trap stop_ray EXIT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
    ray start --head --block --node-ip-address="$ADDRESS" --port="$PORT" \
    --include-dashboard=false --disable-usage-stats "${CPUS[@]}" "${GPUS[@]}" "${LABELS[@]}" &
RAY_PIDS+=($!)

OTHERS=$((${#NODES[@]} - 1))
if [ "$OTHERS" -gt 0 ]; then
    # Each tries until the head is there.
    srun --overlap --nodes="$OTHERS" --ntasks="$OTHERS" --exclude="$HEAD" \
        bash -c 'for _ in $(seq 60); do
            "$@" && exit 0
            sleep 5
        done; exit 1' node \
        ray start --block --address="$ADDRESS:$PORT" --disable-usage-stats \
        "${CPUS[@]}" "${GPUS[@]}" "${LABELS[@]}" &
    RAY_PIDS+=($!)
fi

for _ in $(seq 60); do
    timeout 30 ray status --address="$ADDRESS:$PORT" > /dev/null 2>&1 && break
    if ! kill -0 "${RAY_PIDS[0]}" 2> /dev/null; then
        echo "slurm.sh: the head did not start" >&2
        exit 1
    fi
    sleep 2
done

RAY_ADDRESS="$ADDRESS:$PORT" itpn-ray "$@" &
RUN=$!
trap 'kill -TERM $RUN' TERM
CODE=0
wait $RUN || CODE=$?
while kill -0 $RUN 2> /dev/null; do # a signal ends wait, and not what it waits for
    CODE=0
    wait $RUN || CODE=$?
done
if [ "$CODE" -eq 143 ]; then # SIGTERM, before the time limit: go on in another allocation
    scontrol requeue "$SLURM_JOB_ID" || echo "slurm.sh: not queued again; submit it again" >&2
fi
exit "$CODE"
