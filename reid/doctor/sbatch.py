"""A call of sbatch, taken apart: which options hold, and who says so.

the words -> Call -> effective options: the command line before SBATCH_... before the lines of the script
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

SHORT = dict(
    zip("ANncptJoaGqwd", (
        "account", "nodes", "ntasks", "cpus-per-task", "partition", "time", "job-name", "output", "array", "gpus", "qos",
        "nodelist", "dependency",
    ), strict=True)
)  # fmt: skip
# Variables that sbatch reads, by the end of their names; most are called as the option is, SBATCH_JOB_NAME is --job-name.
ENVIRONMENT = {
    word: word.lower().replace("_", "-")
    for word in (
        "ACCOUNT", "ACCTG_FREQ", "BATCH", "BURST_BUFFER", "CLUSTERS", "CLUSTER_CONSTRAINT", "CONSTRAINT", "CONTAINER",
        "CORE_SPEC", "CPUS_PER_GPU", "DELAY_BOOT", "DISTRIBUTION", "ERROR", "EXCLUSIVE", "EXPORT", "GET_USER_ENV", "GPUS",
        "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK", "GPU_BIND", "GPU_FREQ", "GRES", "GRES_FLAGS", "HINT",
        "IGNORE_PBS", "INPUT", "JOB_NAME", "MEM_BIND", "MEM_PER_CPU", "MEM_PER_GPU", "NETWORK", "NO_KILL", "NO_REQUEUE",
        "OPEN_MODE", "OUTPUT", "OVERCOMMIT", "PARTITION", "POWER", "PROFILE", "QOS", "REQUEUE", "RESERVATION", "SIGNAL",
        "SPREAD_JOB", "THREADS_PER_CORE", "THREAD_SPEC", "USE_MIN_NODES", "WAIT", "WAIT_ALL_NODES", "WCKEY",
    )
} | {
    "ARRAY_INX": "array", "CPU_FREQ_REQ": "cpu-freq", "DEBUG": "verbose", "MEM_PER_NODE": "mem", "REQ_SWITCH": "switches",
    "TIMELIMIT": "time",
}  # fmt: skip


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
        for word, option in ENVIRONMENT.items():
            if (value := environment.get(f"SBATCH_{word}")) is not None:
                found[option] = Option(value, f"SBATCH_{word}")
        return found | {name: Option(value, "command line") for name, value in _given(self.options)}


def gpus_per_node(options: Mapping[str, Option]) -> int:
    """What --gpus-per-node, --gpus-per-task, --gres or --gpus ask for: `4`, `a100:4`, `gpu:a100:4`, or several with commas."""
    counts = [0]
    for name in ("gpus-per-node", "gpus-per-task", "gres", "gpus"):
        words = options[name].value.split(",") if name in options else []
        asked = [word.split(":")[-1] for word in words if name != "gres" or word.split(":")[0] == "gpu"]
        count = sum(int(last) if last.isdigit() else 1 for last in asked)
        counts.append(count // number(options, "nodes", 1) if name == "gpus" else count)
    return max(counts)


def number(options: Mapping[str, Option], name: str, default: int) -> int:
    """The number that the value of an option begins with."""
    found = re.match(r"\d+", options[name].value) if name in options else None
    return int(found[0]) if found else default


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
