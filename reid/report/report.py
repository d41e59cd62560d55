"""The report of one run, of several, or of an experiment: pictures and tables as files, and one page that holds them all.

    Subject of each run, Results -> sections -> FOLDER/report.html
                                                FOLDER/pictures/*.png
                                                FOLDER/paper/*.pdf, *.tex, *.md     what a paper takes as it is

What cannot be shown is said where it would stand, with the reason, and the rest is there.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import Element

from reid.report import album, overview, plates
from reid.report.experiment import Results
from reid.report.page import Section, columns, document, figure, note, paragraph, table
from reid.report.plates import Picture
from reid.report.rendering import write as write_figure
from reid.report.sheets import Seen
from reid.report.subject import Subject
from reid.report.tables import Table

PAGE = "report.html"
SYNTHETIC = (
    "These people were drawn by a program. The numbers say that everything works, not how good the method is."
)

log = logging.getLogger(__name__)


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


def write(subjects: Sequence[Subject], path: Path, experiment: Results | None = None) -> Path:
    """Write the report of runs, whose names differ, into a folder. Returns the page.

    What an `experiment` has shown comes first; the runs are then some of its trials, or none.
    """
    path.mkdir(parents=True, exist_ok=True)
    folder = Folder(path)
    sections = []
    if experiment is not None:
        sections.append(Section("experiment", experiment.title, [*_experiment(experiment, folder)]))
    if subjects:
        heading = "Results" if experiment is None else "Results of single trials"
        sections += [
            Section("results", heading, [*_results(subjects, folder)]),
            Section(
                "runs", "What was run", [columns(overview.facts(subjects), overview.differences(subjects))]
            ),
            Section("training", "Training", [*_curves(subjects, folder)]),
            Section("batch", "What the network was shown", [*_batches(subjects, folder)]),
            *_pictures(subjects, folder),
        ]
    synthetic = any(subject.synthetic for subject in subjects) or (
        experiment is not None and experiment.synthetic
    )
    page = path / PAGE
    title = _title(subjects) if experiment is None else experiment.title
    text = document(title, _lead(subjects), sections, SYNTHETIC if synthetic else "")
    page.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return page


def _title(subjects: Sequence[Subject]) -> str:
    if len(subjects) == 1:
        return f"Report on {subjects[0].name}"
    return f"{len(subjects)} runs compared: {', '.join(subject.name for subject in subjects)}"


def _lead(subjects: Sequence[Subject]) -> str:
    names = ", ".join(dict.fromkeys(subject.summary.experiment for subject in subjects))
    of = f"Experiment {names}. " if names else ""
    return f"{of}Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by reid report."


def _experiment(experiment: Results, folder: Folder) -> Iterator[Element]:
    made = experiment.tables()
    folder.tables(experiment.name, made)
    yield from (folder.figure(picture) for picture in experiment.pictures())
    yield from map(table, made)


def _results(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    yield from overview.remarks(subjects)
    if len(subjects) == 1:
        yield from overview.headlines(subjects[0])
    made = overview.score_tables(subjects)
    folder.tables("results", made)
    yield from map(table, made)
    if len(subjects) > 1:
        yield from overview.protocols(subjects)


def _curves(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    for subject in subjects:
        picture = plates.curves(subject.summary.folder, subject.name, synthetic=subject.synthetic)
        yield folder.figure(picture)


def _batches(subjects: Sequence[Subject], folder: Folder) -> Iterator[Element]:
    """A picture for all runs that were shown the same."""
    shown: dict[tuple[bytes, str], tuple[Seen, list[Subject]]] = {}
    for subject in subjects:
        if subject.seen is None:
            yield note(f"{subject.name}: missing.", subject.unseen)
        else:
            clips = subject.seen.visible.tobytes() + subject.seen.infrared.tobytes()
            shown.setdefault((clips, subject.seen.augmentation), (subject.seen, []))[1].append(subject)
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
