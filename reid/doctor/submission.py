"""What `sbatch` would be given, and what would go wrong with it.

    the words of a call of sbatch -> Call -> effective options, each with its source -> checks -> Findings

The scripts are those of the folder slurm/; what they need stands in their first page.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from reid.doctor import dataset, services, storage
from reid.doctor.checkup import Check
from reid.doctor.finding import Finding, Subject, failure, ok, warning
from reid.tracking import names
from reid.tracking.runs import series

SHORT = dict(
    zip("ANncptJoaGqwd", (
        "account", "nodes", "ntasks", "cpus-per-task", "partition", "time", "job-name", "output", "array", "gpus", "qos",
        "nodelist", "dependency",
    ), strict=True)
)  # fmt: skip
ENVIRONMENT = {"timelimit": "time", "array-inx": "array"}  # SBATCH_TIMELIMIT is --time
SHARED_FILE_SYSTEMS = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "virtiofs", "afs", "panfs", "wekafs",
    "orangefs", "glusterfs", "fhgfs",
}  # fmt: skip
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
HIGHEST_PORT = 29_999  # that slurm/job.sh takes


class Option(NamedTuple):
    """An option of sbatch: its value, and who says so."""

    value: str
    source: str


@dataclass(frozen=True)
class Call:
    """`sbatch OPTIONS SCRIPT ARGUMENTS`."""

    options: tuple[str, ...]
    script: Path
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Raises ValueError if no word is a batch script."""
        for i, word in enumerate(words):
            if word.endswith((".sbatch", ".sh")):
                return cls(tuple(words[:i]), Path(word), tuple(words[i + 1 :]))
        raise ValueError(
            f"expected the words of a call of sbatch, with a script such as slurm/train.sbatch, found: {shlex.join(words)}"
        )

    @property
    def rendered(self) -> str:
        return shlex.join(["sbatch", *self.options, str(self.script), *self.arguments])

    def trains(self) -> bool:
        """Whether the job trains. Without an array, ablation.sbatch only writes what the tasks of one have shown."""
        name = self.script.name
        return name == "train.sbatch" or (name == "ablation.sbatch" and "array" in self.effective())

    def effective(self, environment: Mapping[str, str] = os.environ) -> dict[str, Option]:
        """What holds in the end: the command line before SBATCH_... before the lines of the script."""
        found = {name: Option(value, str(self.script)) for name, value in _directives(self.script)}
        for name, value in environment.items():
            if name.startswith("SBATCH_"):
                plain = name.removeprefix("SBATCH_").lower().replace("_", "-")
                found[ENVIRONMENT.get(plain, plain)] = Option(value, name)
        return found | {name: Option(value, "command line") for name, value in _given(self.options)}


def checks(call: Call) -> tuple[tuple[str, Check], ...]:
    """What to look at before `call` is made; those of the data only where the script trains."""
    every = (
        ("script", partial(_script, call)),
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
        ("time limit", partial(_time_limit, call)),
        ("ports", _ports),
        ("MLflow", services.mlflow),
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


def _shared(subject: Subject) -> Finding:
    """Whether the places of the run lie where other machines can see them, as far as the file system tells."""
    root = subject.config.data.root
    places = {"--run": subject.folder, "the checkout": Path.cwd()}
    if root is not None and "://" not in root:
        places["--data.root"] = Path(root)
    kinds = {name: _file_system(place) for name, place in places.items()}
    local = [f"{name} on {kind}" for name, kind in kinds.items() if kind not in SHARED_FILE_SYSTEMS]
    if local:
        return warning(
            f"{', '.join(local)}: no network file system, as far as its name tells",
            "All nodes of the job must see these places under the same name",
        )
    return ok(", ".join(f"{name} on {kind}" for name, kind in kinds.items()))


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
            f"the kernel hands out ports from {lowest}, jobs take 20000 to {HIGHEST_PORT}",
            "A job may find its port taken now and then; it goes back into the queue then",
        )
    return ok(f"jobs take 20000 to {HIGHEST_PORT}, the kernel from {lowest}")


def seconds_of(limit: str) -> float:
    """What Slurm reads as minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises ValueError for anything else.
    """
    if limit.upper() in {"INFINITE", "UNLIMITED"}:
        return float("inf")
    days, dash, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        raise ValueError(f"--time: expected a time such as 24:00:00 or 1-12, found {limit!r}")
    weights = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    clock_seconds = sum(int(part) * weight for part, weight in zip(parts, weights, strict=False))
    return 86_400.0 * int(days or 0) + clock_seconds


def _directives(script: Path) -> list[tuple[str, str]]:
    """Options of the #SBATCH lines before the first command."""
    found: list[tuple[str, str]] = []
    for line in script.read_text().splitlines() if script.is_file() else []:
        if line.startswith("#SBATCH"):
            found += _given(shlex.split(line.removeprefix("#SBATCH"), comments=True))
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _given(words: Sequence[str]) -> list[tuple[str, str]]:
    """`--name=value`, `--name value`, `-N value`, `-Nvalue` and flags -> names and values."""
    found: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found.append((name, value))
        elif word.startswith("-") and word[1:2] in SHORT:
            found.append((SHORT[word[1]], word[2:].removeprefix("=")))
        elif found and not found[-1][1]:
            found[-1] = (found[-1][0], word)
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
