#!/usr/bin/env bash
# Trains with all that this machine has: a process for each GPU, or without one a process for each CPU core, two at most.
# Prints the command that it runs. Arguments go to `reid train`; --resume is added.
#
#   launch/train.sh --config launch/experiments/vcm.yaml --data.root DATA --run RUN
#
# CUDA_VISIBLE_DEVICES chooses among the GPUs. Several machines: slurm/train.sbatch, or launch/accelerate/multi_node.yaml.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

count_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -cv -e '^-' -e '^$' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus | grep -c '^GPU' || true
    else
        echo 0
    fi
}

"$root/launch/environment.sh"
export PATH="$root/.venv/bin:$PATH"
gpus=$(count_gpus)
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which would take their word for it
case $gpus in
0) chosen=(cpu.yaml --num_processes $((cores < 2 ? 1 : 2))) ;;
1) chosen=(one_gpu.yaml) ;;
*) chosen=(one_node.yaml --num_processes "$gpus") ;;
esac
command=(accelerate launch --config_file "$root/launch/accelerate/${chosen[0]}" "${chosen[@]:1}" -m reid train "$@" --resume)
printf '%d GPUs, %d cores:\n  %s\n' "$gpus" "$cores" "${command[*]@Q}"
exec "${command[@]}"
