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

# Sets checkout, job (its name for scancel and scontrol), cores (of each node), srun (it, with what every step needs), and
# inside (the words before a command of ours).
prepare() {
    [[ -n ${SLURM_JOB_ID:-} ]] || refuse "this is a batch script: submit it with sbatch"
    checkout=${REID_HOME:-$SLURM_SUBMIT_DIR}
    cd "$checkout" || exit 2
    if [[ -f slurm/site.sh ]]; then
        set +u # what a site sources in there may be less strict
        # shellcheck source=/dev/null
        source slurm/site.sh
        set -u
    fi
    # The plain number of an array's last task is that of the whole array.
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    job=${job:-$SLURM_JOB_ID}
    # A step has a single core unless it asks for more, and may ask in one way only.
    cores=$SLURM_CPUS_ON_NODE
    unset SLURM_CPUS_PER_GPU
    srun=(srun --export=ALL --cpus-per-task="$cores")
    inside=()
    local mounts=${REID_MOUNTS:+$REID_MOUNTS,}$checkout
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
    # The image has no git that could say which commit of the checkout is mounted.
    REID_CHECKOUT_REVISION=$(git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null)
    export REID_CHECKOUT_REVISION PYTHONUNBUFFERED=1
    say "job $job, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST"
}

step() { "${srun[@]}" --nodes=1 --ntasks=1 -- "${inside[@]}" "$@"; }

# Usage: option NAME ARG...; prints the value that the last `--NAME VALUE` or `--NAME=VALUE` among ARG... has, if any.
option() {
    local name=$1 value=
    shift
    while (($#)); do
        case $1 in
        --"$name") value=${2:-} ;;
        --"$name"=*) value=${1#*=} ;;
        esac
        shift
    done
    printf '%s' "$value"
}

# Whether a program of this machine listens on a port: a line of the kernel's table with state 0A.
is_taken() { grep -qsE ":$(printf '%04X' "$1") [0-9A-F]+:0000 0A " /proc/net/tcp /proc/net/tcp6; }

# A port below those that the kernel hands out, where each job and restart starts at a number of its own. It must be free
# on the node that leads, and this script runs there.
free_port() {
    local port=$((20000 + (SLURM_JOB_ID * 31 + ${SLURM_RESTART_COUNT:-0}) % 10000))
    while is_taken "$port"; do
        port=$((20000 + (port + 1) % 10000))
    done
    printf '%s' "$port"
}

# The first node leads. Every node runs one launcher, which starts a process for each GPU.
launch() {
    local address port processes way=one_gpu per_node=${REID_PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
    address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    [[ -n $address ]] || refuse "Slurm names no node in '$SLURM_JOB_NODELIST'"
    port=$(free_port)
    processes=$((SLURM_JOB_NUM_NODES * per_node))
    ((processes == 1)) || way=one_node
    ((SLURM_JOB_NUM_NODES == 1)) || way=multi_node
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > per_node ? cores / per_node : 1))}
    # A launcher gives its processes this long to publish a checkpoint, Slurm permitting.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
    say "$processes processes on $SLURM_JOB_NUM_NODES nodes, led by $address:$port"
    "${srun[@]}" --kill-on-bad-exit=1 -- "${inside[@]}" slurm/node.sh \
        --config_file "launch/accelerate/$way.yaml" --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes" \
        --main_process_ip "$address" --main_process_port "$port" -m reid train "$@" &
}

newest_checkpoint() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -n 1; }

# Usage: train ARG... of `reid train`; --resume is added. Ends the script.
train() {
    local folder status=0 before after state
    folder=$(option run "$@")
    [[ -n $folder ]] || refuse "name the run's folder with --run, on a disk that all nodes see"
    rm -f -- "$folder/requeue" # what an earlier job asked for
    before=$(newest_checkpoint "$folder")
    # The batch script alone is told of the time limit and of `scancel --batch --signal=USR1`; it tells the processes.
    trap 'say "USR1: stopping at the next step"; scancel --signal=USR1 "$job"' USR1
    trap 'say "TERM: Slurm has told the processes itself"' TERM
    launch "$@" --resume
    local launched=$!
    while kill -0 "$launched" 2>/dev/null; do # a signal ends `wait` early
        wait "$launched" && status=0 || status=$?
    done
    after=$(newest_checkpoint "$folder")
    state=$(job_state)
    if ((status == 0)); then
        say "done"
    elif [[ $state != RUNNING && $state != unknown ]]; then # cancelled, or taken back by Slurm, which then starts it again
        say "Slurm is ending the job ($state)"
    elif [[ -e $folder/requeue ]]; then
        again "$folder" "stopped by $(<"$folder/requeue")"
    elif [[ -n $after && $after != "$before" ]]; then
        again "$folder" "failed (exit code $status), but got as far as $(basename "$after")"
    else
        say "failed (exit code $status) without a new checkpoint: not again"
    fi
    exit "$status"
}

job_state() {
    local state
    state=$(squeue --noheader --format=%T --jobs="$job" 2>/dev/null)
    printf '%s' "${state:-unknown}"
}

# Usage: again FOLDER REASON; back into the queue, unless this job has asked for that often enough. FOLDER/requeues has a
# line for each time; that Slurm may have taken the job back itself does not count.
again() {
    local most=${REID_MAX_REQUEUES:-20} count
    count=$(grep -csF " job $job: " "$1/requeues")
    count=${count:-0}
    if ((count >= most)); then
        say "$2; put back into the queue $count times already (REID_MAX_REQUEUES): not again"
        return
    fi
    say "$2; back into the queue, time $((count + 1)) of at most $most"
    printf '%(%F %T)T job %s: %s\n' -1 "$job" "$2" >>"$1/requeues"
    # Slurm ends this script when it takes the job back.
    if scontrol requeue "$job"; then
        sleep 60
    else
        say "Slurm did not take the job back: submit it again"
    fi
}
