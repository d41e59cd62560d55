"""reid doctor: what would make a run fail, or be slow, before it is started."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.arguments import named_file, parse
from reid.commands import printing


@dataclass(frozen=True)
class DoctorArguments:
    """Look for what would make a run fail, or be slow, before it is started.

    --config FILE gives the configuration of that run, such as launch/experiments/vcm.yaml.
    """

    root: str | None = None
    """Packed data set, if not the one that --config names."""
    run: Path = Path("runs/doctor")
    """Folder that the run would have. Nothing is left there."""
    processes: int = 1
    """Training processes that would be started on this machine."""
    json: bool = False
    """Print the findings as JSON."""


def main(arguments: Sequence[str]) -> int:
    file, rest = named_file(arguments)
    chosen = parse(DoctorArguments, rest, "doctor")
    from reid import config as configuration

    if chosen.processes < 1:
        raise configuration.ConfigError(f"--processes: expected 1 or more, found {chosen.processes}")
    from reid.doctor.checkup import examine, is_healthy
    from reid.doctor.finding import Subject

    base = configuration.Config() if file is None else configuration.from_yaml(file)
    config = configuration.changed(base, {"data": {"root": chosen.root}})
    found = examine(Subject(config, chosen.run, chosen.processes))
    if chosen.json:
        print(json.dumps([one.as_record() for one in found], indent=2))
    else:
        printing.findings(found)
    return 0 if is_healthy(found) else 1
