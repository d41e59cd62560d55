"""What would go wrong with a job that `sbatch` is about to be given.

    Call -> checks -> Findings

The scripts are those of the folder slurm/; what they need stands in their first page.
"""

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

from reid.doctor import dataset, services, storage
from reid.doctor.checkup import Check
from reid.doctor.finding import Finding, Status, Subject, failure, ok, warning
from reid.doctor.sbatch import Call, gpus_per_node, number, seconds_of
from reid.tracking import names
from reid.tracking.runs import series
from reid.tracking.tracker import tracking_uri_of

SITE = Path("slurm/site.sh")
SHARED_FILE_SYSTEMS = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "virtiofs", "afs", "panfs", "wekafs",
    "orangefs", "glusterfs", "fhgfs",
}  # fmt: skip
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
HIGHEST_PORT = 29_999  # that slurm/job.sh takes


def checks(call: Call) -> tuple[tuple[str, Check], ...]:
    """What to look at before `call` is made; those of the data only where the script trains."""
    every = (
        ("script", partial(_script, call)),
        ("site", _site),
        ("Slurm", partial(_accepted, call)),
        ("environment", _environment),
    )
    if not call.trains():
        return every
    return (
        *every,
        ("data set", dataset.opens),
        ("shards", dataset.complete),
        ("output", storage.writable),
        ("disk space", storage.space),
        ("shared disks", _shared),
        ("mounts", _mounts),
        ("GPUs", partial(_gpus, call)),
        ("cores", partial(_cores, call)),
        ("time limit", partial(_time_limit, call)),
        ("ports", _ports),
        ("MLflow", _mlflow),
    )


def _script(call: Call, _: Subject) -> Finding:
    home = Path(os.environ.get("REID_HOME", "."))
    if not call.script.is_file():
        return failure(f"{call.script} does not exist", "Name a script of slurm/, from the checkout")
    if not (home / "slurm" / "job.sh").is_file():
        return failure(
            f"{home.resolve()} is no checkout: slurm/job.sh is not there",
            "Submit from the checkout, or name it in REID_HOME",
        )
    return ok(f"{call.script} in {home.resolve()}")


def _site(_: Subject) -> Finding:
    """A job reads slurm/site.sh itself, but sbatch does not."""
    if not SITE.is_file():
        return ok(f"no {SITE}: nothing but the scripts and the command line sets options")
    exported = re.findall(r"(?m)^\s*export\s+(\w+)=", SITE.read_text())
    if missing := [name for name in exported if name not in os.environ]:
        return warning(
            f"{SITE} exports what is not in the environment: {', '.join(missing)}",
            f"source {SITE}, in the shell that calls sbatch",
        )
    return ok(f"{SITE} has been sourced")


def _accepted(call: Call, _: Subject) -> Finding:
    """Whether Slurm would take the job, by its own word."""
    if shutil.which("sbatch") is None:
        return failure("sbatch is not installed here", "Submit from a machine of the cluster")
    command = ["sbatch", "--test-only", *call.options, str(call.script), *call.arguments]
    try:
        done = subprocess.run(  # noqa: S603 - what the user would call himself
            command, capture_output=True, text=True, timeout=7, check=False
        )
    except subprocess.TimeoutExpired:
        return failure("sbatch gives no answer", "Look at `scontrol ping`")
    told = " ".join(line.removeprefix("sbatch: ") for line in done.stderr.strip().splitlines())
    if done.returncode:
        return failure(told, "Change the options of sbatch, or slurm/site.sh")
    return ok(told)


def _environment(_: Subject) -> Finding:
    """What slurm/job.sh will enter on the nodes."""
    kind, image = os.environ.get("REID_ENVIRONMENT", "bare"), os.environ.get("REID_IMAGE", "")
    if kind == "bare":
        venv = Path(os.environ.get("REID_VENV", ".venv"))
        if not (venv / "bin" / "accelerate").is_file():
            return failure(
                f"there is no environment {venv}", "Run launch/environment.sh, or set REID_VENV or REID_IMAGE"
            )
        return ok(f"bare: {venv.resolve()}")
    if kind not in {"pyxis", "apptainer"}:
        return failure(f"REID_ENVIRONMENT={kind}", "Set it to bare, pyxis or apptainer")
    if Path(image).is_file():
        return ok(f"{kind}: {image}")
    if kind == "pyxis" and image and not image.startswith(("/", ".")):
        return warning(
            f"pyxis: {image} is no file", "It is fetched by every node: import it once with enroot"
        )
    return failure(
        f"{kind}: there is no image {image or '(REID_IMAGE is not set)'}", "Build it: docker/README.md"
    )


def _places(subject: Subject) -> dict[str, Path]:
    """What every node of the job must find."""
    root = subject.config.data.root
    places = {"--run": subject.folder, "the checkout": Path.cwd()}
    if root is not None and "://" not in root:
        places["--data.root"] = Path(root)
    return {name: place.absolute() for name, place in places.items()}


def _shared(subject: Subject) -> Finding:
    """Whether the places of the run lie where other machines can see them, as far as the file system tells."""
    kinds = {name: _file_system(place) for name, place in _places(subject).items()}
    local = [f"{name} on {kind}" for name, kind in kinds.items() if kind not in SHARED_FILE_SYSTEMS]
    if local:
        return warning(
            f"{', '.join(local)}: no network file system, as far as its name tells",
            "All nodes of the job must see these places under the same name",
        )
    return ok(", ".join(f"{name} on {kind}" for name, kind in kinds.items()))


def _mounts(subject: Subject) -> Finding:
    """Whether a container sees the places of the run: slurm/job.sh mounts REID_MOUNTS and the checkout."""
    if (kind := os.environ.get("REID_ENVIRONMENT", "bare")) == "bare":
        return ok("no container")
    mounts = [Path(word) for word in os.environ.get("REID_MOUNTS", "").split(",") if word]
    seen = [*mounts, Path.cwd()]
    hidden = [
        f"{name} {place}"
        for name, place in _places(subject).items()
        if not any(Path(os.path.normpath(place)).is_relative_to(mount) for mount in seen)
    ]
    told = ", ".join(map(str, seen))
    if hidden:
        return failure(
            f"{kind}: the container sees {told}, not {', '.join(hidden)}",
            "Name a folder above it in REID_MOUNTS",
        )
    return ok(f"{kind}: the container sees {told}")


def _gpus(call: Call, subject: Subject) -> Finding:
    options = call.effective()
    gpus = gpus_per_node(options)
    nodes = options["nodes"].value if "nodes" in options else "1"
    found = f"{gpus} on each of {nodes} nodes"
    if gpus == 0 and subject.config.engine.device != "cpu":
        return warning(
            f"{found}, though the job trains", "Give sbatch --gpus-per-node, or --engine.device cpu"
        )
    return ok(found)


def _cores(call: Call, subject: Subject) -> Finding:
    """A core for each process and for each of its loader workers."""
    options = call.effective()
    if "exclusive" in options:
        return ok("all of each node")
    gpus = gpus_per_node(options)
    processes = int(os.environ.get("REID_PROCESSES_PER_NODE") or max(1, gpus))
    cores = max(
        gpus * number(options, "cpus-per-gpu", 0),
        number(options, "cpus-per-task", 1) * number(options, "ntasks-per-node", 1),
        number(options, "mincpus", 1),
    )
    workers = subject.config.data.num_workers
    found = f"{cores} of each node; processes on it: {processes}, loader workers of each: {workers}"
    if cores < processes * (workers + 1):
        option = f"--cpus-per-gpu={workers + 1}" if gpus else f"--mincpus={processes * (workers + 1)}"
        return warning(found, f"Give sbatch {option} or more, or fewer workers with --data.num-workers")
    return ok(found)


def _time_limit(call: Call, subject: Subject) -> Finding:
    """Whether the job publishes more than once before its time is over, by the speed of the run so far."""
    options = call.effective()
    if "signal" not in options:
        return failure("nothing tells the job before its time is over", "Give sbatch --signal=B:USR1@120")
    if "time" not in options:
        return warning("no time limit is named, the partition's holds", "Give sbatch --time")
    limit = seconds_of(options["time"].value)
    measured = series(subject.folder).get(names.Metric.STEP_MS) if subject.folder.is_dir() else None
    if measured is None:
        return ok(f"{options['time'].value}; the run's speed is not known yet")
    interval = float(measured[1][-1]) / 1000 * subject.config.engine.checkpoint_every_steps
    found = f"{options['time'].value}, a checkpoint every {interval / 60:.1f} min at the run's last speed"
    if limit < 2 * interval:
        return warning(found, "Give more time, or a smaller --engine.checkpoint-every-steps")
    return ok(found)


def _ports(_: Subject) -> Finding:
    """slurm/job.sh takes a port that the kernel must not hand out to others."""
    lowest = int(LOCAL_PORTS.read_text().split()[0])
    if lowest <= HIGHEST_PORT:
        return warning(
            f"jobs take 20000 to {HIGHEST_PORT}, which the kernel hands out to others from {lowest} on",
            "A job passes over a port that is taken when it begins. One that is taken in the moments until its processes "
            "listen there ends it: submit it again",
        )
    return ok(f"jobs take 20000 to {HIGHEST_PORT}, the kernel from {lowest}")


def _mlflow(subject: Subject) -> Finding:
    """As for a run on one machine, but the jobs of a cluster share what they write to."""
    found = services.mlflow(subject)
    uri = tracking_uri_of(subject.folder, subject.config.tracking.uri)
    if found.status is Status.OK and uri.startswith(services.SQLITE):
        return warning(
            f"{found.found}: an SQLite file, and several jobs would write to it over the network",
            "Set MLFLOW_TRACKING_URI to a server (slurm/mlflow.sbatch runs one), or give --tracking.uri offline and call "
            "`reid runs sync` later",
        )
    return found


def _file_system(place: Path) -> str:
    """Type of the file system that `place`, or what of it exists, lies on."""
    place = place.resolve()
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, found = Path(line.split()[4]), line.partition(" - ")[2].split()[0]
        if place.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, found
    return kind
