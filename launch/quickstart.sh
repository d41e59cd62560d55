#!/usr/bin/env bash
# The whole product on two CPU cores, in minutes: environment, a synthetic VCM, shards, both stages of training on two
# processes, retrieval in both directions, and where to look.
#
#   launch/quickstart.sh [FOLDER] [--seed N]        FOLDER is runs/quickstart (here) unless given
#
# FOLDER/raw (pictures and index files) -> FOLDER/shards (tars and manifest) -> FOLDER/run (checkpoints, journal)
# and FOLDER/mlflow.db. Called again with the same FOLDER, it continues where it stopped.
# Exit codes: 0 done, 1 a phase failed or was stopped, 2 something about the call or the machine must be changed first.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

stop() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 2
}

folder=""
seed=0
while (($#)); do
    case $1 in
    -h | --help)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --seed) seed=${2:-} && shift ;;
    --seed=*) seed=${1#--seed=} ;;
    -*) stop "there is no option $1; expected: [FOLDER] [--seed N]" ;;
    *)
        [[ -z $folder ]] || stop "one FOLDER is expected, found $folder and $1"
        folder=$1
        ;;
    esac
    shift || stop "--seed needs a number"
done
[[ $seed =~ ^[0-9]+$ ]] || stop "--seed: expected a whole number from 0, found '$seed'"
folder=${folder:-runs/quickstart}

# Usage: phase "WHAT IT DOES" COMMAND...
phase() {
    local title=$1 began=$SECONDS
    shift
    printf '\n== %s\n   %s\n\n' "$title" "$*"
    "$@" || {
        local status=$?
        printf '\nquickstart: failed after %d s (exit code %d): %s\n' $((SECONDS - began)) "$status" "$title" >&2
        printf 'quickstart: call it again to continue; remove %s to start afresh.\n' "$folder" >&2
        exit "$status"
    }
    printf '\n-- %d s\n' $((SECONDS - began))
}

# A folder belongs to one seed: its data set and its run would otherwise contradict each other.
claim_folder() {
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    if [[ -f $folder/seed ]]; then
        [[ $(<"$folder/seed") == "$seed" ]] ||
            stop "$folder was made with --seed $(<"$folder/seed"), not $seed. Name another FOLDER, or remove this one."
        echo "quickstart: continuing in $folder"
    else
        [[ -z $(ls -A "$folder") ]] || stop "$folder holds something else. Name an empty or a new FOLDER."
        echo "$seed" >"$folder/seed"
    fi
}

claim_folder
store=${MLFLOW_TRACKING_URI:-sqlite:///$folder/mlflow.db}
shown_store=$(sed -E 's#(://)[^/]*@#\1#' <<<"$store") # without user and password
phase "environment" "$root/launch/environment.sh"
export PATH="$root/.venv/bin:$PATH"
cd "$root"

if [[ ! -f $folder/raw/synthetic.json ]]; then
    phase "a synthetic VCM: walking figures, seen by visible and infrared cameras" \
        python -m preprocess synthesize "$folder/raw" --seed "$seed"
fi
phase "pictures into shards with a manifest" \
    python -m preprocess pack "$folder/raw" "$folder/shards" --mode copy
phase "training: both stages of Algorithm 1, on two processes" \
    accelerate launch --config_file launch/accelerate/cpu.yaml -m reid train \
    --config launch/experiments/demo.yaml --data.root "$folder/shards" --seed "$seed" --run "$folder/run" --resume
phase "evaluation: identities that were never trained on" \
    reid evaluate --checkpoint "$folder/run"
phase "report: pictures, and one page that holds everything" \
    reid report "$folder/run"

cat <<END

Done in $SECONDS s. The data is synthetic: these numbers say that everything works, not how good the method is.
  data set      $folder/shards
  run           $folder/run
  checkpoints   $folder/run/checkpoints
  pictures      $folder/run/pictures
  report        $folder/run/report/report.html
  MLflow        $shown_store

END
case $store in
http://* | https://*) echo "Look at the run in a browser: open $shown_store" ;;
*) printf 'Look at the run in a browser:\n  %s\n' "$root/.venv/bin/mlflow ui --backend-store-uri $shown_store" ;;
esac
