"""The runs that a report is about: what is left of each, what to call them, and where their report goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.evaluation.retrieval import Found
from reid.report.sheets import Seen
from reid.tracking.names import Tag
from reid.tracking.runs import Summary


@dataclass(frozen=True)
class Subject:
    """A run to report on.

    `difference` is that of its configuration from the paper, None where no configuration was left. Where `found` or
    `seen` is None, `unscored` or `unseen` says why.
    """

    name: str
    summary: Summary
    difference: Mapping[str, tuple[Any, Any]] | None = None
    found: Found | None = None
    seen: Seen | None = None
    unscored: str = ""
    unseen: str = ""

    @property
    def synthetic(self) -> bool:
        return self.summary.tags.get(Tag.SYNTHETIC) == "True"


def place_of(folders: Sequence[Path], chosen: Path | None) -> Path:
    """Where the report of these runs goes. Raises ValueError if there is no run, or no place that follows from them."""
    if not folders:
        raise ValueError("no run here; a run's folder holds a journal")
    if chosen is not None:
        return chosen
    parents = {folder.resolve().parent for folder in folders}
    if len(folders) == 1:
        return folders[0] / "report"
    if len(parents) > 1:
        raise ValueError("these runs lie in different folders; say with --out where the report shall go")
    return parents.pop() / "report"


def labels(folders: Sequence[Path]) -> list[str]:
    """What to call runs: the last parts of their paths, as many as tell them apart, without what cannot be printed.

    Raises ValueError if a run is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if twice := {str(folder) for folder, its in zip(folders, parts, strict=True) if parts.count(its) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: named twice")
    depth = next(
        n for n in range(1, 1 + max(map(len, parts))) if len({its[-n:] for its in parts}) == len(parts)
    )
    return ["".join(c if c.isprintable() else "?" for c in "/".join(its[-depth:])) for its in parts]
