# What the batch scripts of this folder share. They source it; it runs nothing by itself.
#
#   prepare          the checkout, the settings of the site, the command that enters the environment
#   step ARG...      srun of a command in the environment, on one node
#   train ARG...     `reid train` on all nodes and GPUs of the job, and back into the queue where that is right
#
# shellcheck shell=bash

say() { printf '[%(%F %T)T] %s\n' -1 "$*"; }
refuse() {
    printf '%s: %s\n' "${SLURM_JOB_NAME:-slurm}" "$*" >&2
    exit 2
}

# Sets checkout, cores (of each node), srun (it, with what every step needs), and
# inside (the words before a command of ours).
prepare() {
    [[ -n ${SLURM_JOB_ID:-} ]] || refuse "this is a batch script: submit it with sbatch"
    checkout=${REID_HOME:-$SLURM_SUBMIT_DIR}
    cd "$checkout" || exit 2
    if [[ -f slurm/site.sh ]]; then
        # shellcheck source=/dev/null
        source slurm/site.sh
    fi
    # A step has a single core unless it asks for more, and may ask in one way only.
    cores=$SLURM_CPUS_ON_NODE
    unset SLURM_CPUS_PER_GPU
    srun=(srun --cpus-per-task="$cores")
    inside=()
    local mounts=${REID_MOUNTS:-$checkout}
    case ${REID_ENVIRONMENT:-bare} in
    bare)
        local venv=${REID_VENV:-$checkout/.venv}
        [[ -x $venv/bin/accelerate ]] ||
            refuse "there is no environment $venv on $(hostname): run launch/environment.sh, or set REID_VENV or REID_IMAGE"
        export PATH="$venv/bin:$PATH"
        ;;
    pyxis)
        [[ -n ${REID_IMAGE:-} ]] || refuse "REID_ENVIRONMENT=pyxis needs REID_IMAGE"
        srun+=(--container-image="$REID_IMAGE" --container-workdir="$checkout" --no-container-mount-home
            --container-mounts="$(sed -E 's#([^,]+)#\1:\1#g' <<<"$mounts")")
        ;;
    apptainer)
        [[ -f ${REID_IMAGE:-} ]] || refuse "REID_IMAGE: there is no image ${REID_IMAGE:-(unset)}"
        inside=(apptainer exec --nv --no-home --bind "$mounts" --pwd "$checkout" "$REID_IMAGE")
        ;;
    *) refuse "REID_ENVIRONMENT: expected bare, pyxis or apptainer, found '$REID_ENVIRONMENT'" ;;
    esac
    export PYTHONUNBUFFERED=1
    say "job $SLURM_JOB_ID, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST"
}

step() { "${srun[@]}" --nodes=1 --ntasks=1 -- "${inside[@]}" "$@"; }

# Usage: option NAME ARG...; prints the value that `--NAME VALUE` or `--NAME=VALUE` has among ARG..., if any.
option() {
    local name=$1
    shift
    while (($#)); do
        case $1 in
        --"$name") printf '%s' "${2:-}" ;;
        --"$name"=*) printf '%s' "${1#*=}" ;;
        esac
        shift
    done
}

# The first node leads. Every node runs one launcher, which starts a process for each GPU.
launch() {
    local address port processes per_node=${REID_PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    [[ -n $address ]] || refuse "Slurm names no node in '$SLURM_JOB_NODELIST'"
    # Its own port for every job and restart, below those that the kernel hands out.
    port=$((20000 + (SLURM_JOB_ID * 7 + ${SLURM_RESTART_COUNT:-0}) % 10000))
    processes=$((SLURM_JOB_NUM_NODES * per_node))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > per_node ? cores / per_node : 1))}
    # A launcher gives its processes this long to publish a checkpoint, Slurm permitting.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
    local launcher=(--num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes"
        --main_process_ip "$address" --main_process_port "$port" --rdzv_backend static
        --mixed_precision no --dynamo_backend no)
    ((processes == 1)) || launcher+=(--multi_gpu)
    say "$processes processes on $SLURM_JOB_NUM_NODES nodes, led by $address:$port"
    "${srun[@]}" --kill-on-bad-exit=1 -- "${inside[@]}" slurm/node.sh "${launcher[@]}" -m reid train "$@" &
}

newest_checkpoint() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -n 1; }

# Usage: train ARG... of `reid train`; --resume is added. Ends the script.
train() {
    local run status=0 before after state
    run=$(option run "$@")
    [[ -n $run ]] || refuse "name the run's folder with --run, on a disk that all nodes see"
    before=$(newest_checkpoint "$run")
    # The batch script alone is told of the time limit and of `scancel --batch --signal=USR1`; it tells the processes.
    trap 'say "USR1: stopping at the next step"; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1
    trap 'say "TERM: Slurm has told the processes itself"' TERM
    launch "$@" --resume
    local job=$!
    while kill -0 "$job" 2>/dev/null; do # a signal ends `wait` early
        wait "$job" && status=0 || status=$?
    done
    after=$(newest_checkpoint "$run")
    state=$(job_state)
    if ((status == 0)); then
        say "done"
    elif [[ $state != RUNNING ]]; then # cancelled, or taken back by Slurm, which then starts it again itself
        say "Slurm is ending the job ($state)"
    elif [[ -e $run/requeue ]]; then
        again "stopped by $(<"$run/requeue")"
    elif [[ -n $after && $after != "$before" ]]; then
        again "failed (exit code $status), but got as far as $(basename "$after")"
    else
        say "failed (exit code $status) without a new checkpoint: not again"
    fi
    exit "$status"
}

job_state() { squeue --noheader --format=%T --jobs="$SLURM_JOB_ID" 2>/dev/null; }

# Usage: again REASON; back into the queue, unless that has happened often enough.
again() {
    local most=${REID_MAX_REQUEUES:-20} count=${SLURM_RESTART_COUNT:-0}
    if ((count >= most)); then
        say "$1; put back into the queue $count times already (REID_MAX_REQUEUES): not again"
        return
    fi
    say "$1; back into the queue, restart $((count + 1)) of at most $most"
    # Slurm ends this script when it takes the job back.
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
}
