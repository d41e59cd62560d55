"""The report of one run or several: pictures and tables as files, and one page that holds them all.

    Subject of each run -> sections -> FOLDER/report.html
                                       FOLDER/pictures/*.png
                                       FOLDER/paper/*.pdf, *.tex, *.md     what a paper takes as it is

What cannot be shown is said where it would stand, with the reason, and the rest is there.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from reid.report import album, plates, tables
from reid.report.album import Found
from reid.report.page import Section, columns, document, element, figure, note, paragraph, table, tiles
from reid.report.plates import Picture
from reid.report.rendering import write as write_figure
from reid.report.sheets import Seen
from reid.report.tables import Table, percent, title_of
from reid.tracking import names
from reid.tracking.names import Param, Tag
from reid.tracking.runs import Summary
from reid.types import Direction

PAGE = "report.html"
NOTHING = "-"
SYNTHETIC = (
    "These people were drawn by a program. The numbers say that everything works, not how good the method is."
)

log = logging.getLogger(__name__)


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


@dataclass
class Folder:
    """Where a report goes. Writes every picture as files, and numbers them as they come."""

    path: Path
    _names: set[str] = field(default_factory=set)

    def figure(self, picture: Picture) -> Element:
        """Write a picture, and return it for the page."""
        name, count = picture.name, 2
        while name in self._names:
            name, count = f"{picture.name}_{count}", count + 1
        self._names.add(name)
        files = [
            Path("pictures") / f"{name}.png",
            *([Path("paper") / f"{name}.pdf"] if picture.is_chart else []),
        ]
        for file in files:
            write_figure(picture.draw, self.path / file)
        log.info("%s", self.path / files[0])
        return figure(picture, len(self._names), ", ".join(map(str, files)))

    def tables(self, name: str, given: Sequence[Table]) -> None:
        """Write tables for Markdown and for LaTeX."""
        paper = self.path / "paper"
        paper.mkdir(parents=True, exist_ok=True)
        (paper / f"{name}.md").write_text("\n".join(one.markdown() for one in given))
        (paper / f"{name}.tex").write_text("\n".join(one.latex() for one in given))


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


def write(subjects: Sequence[Subject], path: Path) -> Path:
    """Write the report of runs, whose names differ, into a folder. Returns the page."""
    folder = Folder(path)
    path.mkdir(parents=True, exist_ok=True)
    sections = [
        Section("results", "Results", [*_results(subjects, folder)]),
        Section("runs", "What was run", [columns(_facts(subjects), element("div", *_differences(subjects)))]),
        Section("training", "Training", [*_curves(subjects, folder)]),
        Section("batch", "What the network was shown", [*_batches(subjects, folder)]),
        *_pictures(subjects, folder),
    ]
    warning = SYNTHETIC if any(subject.synthetic for subject in subjects) else ""
    page = path / PAGE
    text = document(_title(subjects), _lead(subjects), sections, warning)
    page.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return page


def _title(subjects: Sequence[Subject]) -> str:
    if len(subjects) == 1:
        return f"Report on {subjects[0].name}"
    return f"{len(subjects)} runs compared: {', '.join(subject.name for subject in subjects)}"


def _lead(subjects: Sequence[Subject]) -> str:
    experiments = ", ".join(dict.fromkeys(subject.summary.experiment for subject in subjects))
    return f"Experiment {experiments}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by reid report."


def _results(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    """Headline numbers, tables, protocols, and what is missing."""
    scored = {subject.name: subject.found for subject in subjects if subject.found}
    for subject in subjects:
        if not subject.found:
            label = f"{subject.name}: scores are those of its journal, and pictures of retrieval are missing."
            yield note(label, subject.unscored)
    if len(subjects) == 1 and scored:
        (found,) = scored.values()
        yield tiles([*_headlines(found)])
        protocol = found.protocol.describe(found.manifest)
        made = [
            tables.results(found.evaluation.results, protocol=protocol, synthetic=found.manifest.synthetic)
        ]
    else:
        made = [_side_by_side(subjects, direction) for direction in Direction]
    yield from map(table, made)
    folder.tables("results", made)
    if len(subjects) > 1:
        protocols: dict[str, list[str]] = {}
        for name, found in scored.items():
            protocols.setdefault(found.protocol.describe(found.manifest), []).append(name)
        for protocol, runs in protocols.items():
            yield paragraph(f"Protocol of {', '.join(runs)}: {protocol}.")
    if len(album.comparable(scored)) > 1:
        yield note(
            "Not all comparable.", "These runs were not scored on the same tracklets of the same data set."
        )


def _headlines(found: Found) -> Iterator[tuple[str, str, str]]:
    results = found.evaluation.results
    for direction, result in results.items():
        chance = percent(float(result.chance.cmc[0]))
        yield (
            f"Rank-1, {title_of(direction).lower()}",
            f"{percent(result.rank(1))} %",
            f"by chance {chance} %",
        )
    mean, chance = (
        percent(sum(each.map for each in of) / len(results))
        for of in (results.values(), [result.chance for result in results.values()])
    )
    yield "mAP, mean of both directions", f"{mean} %", f"by chance {chance} %"


def _side_by_side(subjects: Sequence[Subject], direction: Direction) -> Table:
    """A row a run; a run without weights or data set has the newest scores of its journal."""
    rows, chance, notes = {}, None, []
    for subject in subjects:
        if subject.found:
            result = subject.found.evaluation.results[direction]
            rows[subject.name], chance = tables.fractions(result), tables.fractions(result.chance)
        else:
            keys = {
                **{f"rank{k}": names.rank(direction, k) for k in names.RANKS},
                "map": names.mean_average_precision(direction),
                "minp": names.mean_inverse_penalty(direction),
            }
            measured = subject.summary.metrics
            rows[subject.name] = {name: measured[key] for name, key in keys.items() if key in measured}
            notes.append(f"{subject.name}: from its journal.")
    synthetic = any(subject.synthetic for subject in subjects)
    return tables.side_by_side(direction, rows, chance, notes=tuple(notes), synthetic=synthetic)


def _facts(subjects: Sequence[Subject]) -> Element:
    """What the journals say, a column a run; what no run says is left out."""
    facts = {subject.name: _facts_of(subject.summary) for subject in subjects}
    labels = list(dict.fromkeys(label for said in facts.values() for label in said))
    rows = [(label, *(said.get(label, NOTHING) for said in facts.values())) for label in labels]
    return table(Table("The runs" if len(facts) > 1 else "The run", ("", *facts), tuple(rows)), "words")


def _facts_of(run: Summary) -> dict[str, str]:
    minutes = (run.updated - run.started) / 60
    dirty = " with uncommitted changes" if run.tags.get(Tag.DIRTY) == "True" else ""
    said = {
        "status": run.status,
        "variant": run.params.get(Param.VARIANT),
        "backbone, weights": _both(run, Param.BACKBONE, Param.WEIGHTS),
        "data set": _both(run, Param.DATASET, Param.DATASET_DIGEST),
        "P identities x K tracklets": _both(
            run, Param.IDENTITIES_PER_BATCH, Param.TRACKLETS_PER_IDENTITY, " x "
        ),
        "T frames, size": _both(run, Param.FRAMES_PER_CLIP, Param.SIZE),
        "seed": run.params.get(Param.SEED),
        "steps": f"{max(run.step, 0):,} of {int(run.params.get(Param.STEPS, 0)):,}",
        "precision, processes": _both(run, Param.PRECISION, Param.WORLD_SIZE),
        "began": f"{datetime.fromtimestamp(run.started, UTC):%Y-%m-%d %H:%M} UTC",
        "lasted": f"{minutes:,.0f} min in {run.num_starts} start(s)",
        "code": commit[:12] + dirty if (commit := run.tags.get(Tag.COMMIT)) else None,
        "checkpoint": run.tags.get(Tag.LAST_CHECKPOINT, "").partition("(")[2].rstrip(")"),
        "MLflow run": run.uid,
    }
    return {label: value for label, value in said.items() if value}


def _both(run: Summary, one: Param, other: Param, between: str = ", ") -> str | None:
    return f"{run.params[one]}{between}{run.params[other]}" if {one, other} <= set(run.params) else None


def _differences(subjects: Sequence[Subject]) -> Iterator[Element]:
    """Keys of the configuration that are not the paper's, a column a run; where runs differ, in bold."""
    known = {subject.name: subject.difference for subject in subjects if subject.difference is not None}
    for subject in subjects:
        if subject.difference is None:
            yield note(f"{subject.name}:", "it left no configuration.")
    paper = {key: old for changes in known.values() for key, (old, _) in changes.items()}
    if not paper:
        if known:
            yield paragraph("Configured as the paper is.")
        return
    values = [[changes.get(key, (old, old))[1] for changes in known.values()] for key, old in paper.items()]
    rows = [
        (key, _shown(old), *map(_shown, of_runs))
        for (key, old), of_runs in zip(paper.items(), values, strict=True)
    ]
    bold = frozenset(
        (i, j)
        for i, of_runs in enumerate(values)
        for j, value in enumerate(of_runs, start=2)
        if any(value != other for other in of_runs)
    )
    notes = ("In bold: where the runs differ from each other.",) if len(known) > 1 else ()
    title = "Difference from the paper"
    yield table(Table(title, ("key", "the paper", *known), tuple(rows), notes, bold=bold), "words")


def _shown(value: object) -> str:
    return NOTHING if value is None else str(value)


def _curves(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    for subject in subjects:
        picture = plates.curves(subject.summary.folder, subject.name, synthetic=subject.synthetic)
        yield folder.figure(picture)


def _batches(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    """A picture for all runs that were shown the same."""
    shown: dict[bytes, tuple[Seen, list[Subject]]] = {}
    for subject in subjects:
        if subject.seen is None:
            yield note(f"{subject.name}: missing.", subject.unseen)
        else:
            key = subject.seen.visible.tobytes() + subject.seen.infrared.tobytes()
            shown.setdefault(key, (subject.seen, []))[1].append(subject)
    for seen, viewers in shown.values():
        if len(subjects) > 1:
            yield paragraph(f"Shown to {', '.join(subject.name for subject in viewers)}:")
        yield folder.figure(plates.batch(seen, synthetic=viewers[0].synthetic))


def _pictures(subjects: Sequence[Subject], folder: Folder) -> Iterator[Section]:
    """What needs weights and data set, for each group of comparable runs."""
    groups = album.comparable({subject.name: subject.found for subject in subjects if subject.found})
    for anchor, title, draw in (
        ("retrieval", "What was found first", plates.retrieval),
        ("failures", "Hardest failures", plates.failures),
        ("matching", "Matching curves", plates.matching),
        ("distances", "Distances", plates.distances),
        ("embeddings", "Embeddings", plates.embeddings),
        ("attention", "Where the networks look", plates.attention),
    ):
        if pictures := [folder.figure(picture) for runs in groups for picture in draw(runs)]:
            yield Section(anchor, title, pictures)
