"""What a report says before it shows anything: scores, what was run, and how that differs from the paper.

Subject of each run -> remarks       what is missing or cannot be compared
                    -> headlines     the numbers to remember
                    -> score_tables  both directions, a row a run
                    -> facts         what the journals say, a column a run
                    -> differences   the configurations beside the paper's
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from xml.etree.ElementTree import Element

from reid.report import album, tables
from reid.report.page import element, note, paragraph, table, tiles
from reid.report.subject import Subject
from reid.report.tables import Table, percent, title_of
from reid.terminal import duration
from reid.tracking import names
from reid.tracking.names import Param, Tag
from reid.tracking.runs import Summary
from reid.tracking.target import servers
from reid.types import Direction

NOTHING = "-"


def remarks(subjects: Sequence[Subject]) -> Iterator[Element]:
    """What a reader must know before the numbers."""
    for subject in subjects:
        if not subject.found:
            label = (
                f"{subject.name}: its scores are those of its journal, its pictures of retrieval are missing."
            )
            yield note(label, subject.unscored)
    if _num_groups(subjects) > 1:
        yield note("Not all can be compared.", "These runs were scored on different tracklets.")


def headlines(subject: Subject) -> Iterator[Element]:
    """Rank-1 of both directions and the mean of mAP, if there are scores."""
    if not subject.found:
        return
    results = subject.found.evaluation.results
    numbers = [
        (f"Rank-1, {title_of(direction).lower()}", result.rank(1), float(result.chance.cmc[0]))
        for direction, result in results.items()
    ]
    mean, chance = (
        sum(each.map for each in of) / len(results)
        for of in (results.values(), [result.chance for result in results.values()])
    )
    numbers.append(("mAP, mean of both directions", mean, chance))
    yield tiles([(name, f"{percent(n)} %", f"by chance {percent(chance)} %") for name, n, chance in numbers])


def score_tables(subjects: Sequence[Subject]) -> list[Table]:
    """One table of a run that could be scored; else one a direction, a row a run."""
    if len(subjects) > 1 or not subjects[0].found:
        return [_side_by_side(subjects, direction) for direction in Direction]
    found = subjects[0].found
    protocol = found.protocol.describe(found.manifest)
    return [tables.results(found.evaluation.results, protocol=protocol, synthetic=found.manifest.synthetic)]


def protocols(subjects: Sequence[Subject]) -> Iterator[Element]:
    """How each of several runs was scored."""
    runs: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.found:
            runs.setdefault(subject.found.protocol.describe(subject.found.manifest), []).append(subject.name)
    for protocol, labels in runs.items():
        yield paragraph(f"Protocol of {', '.join(labels)}: {protocol}.")


def facts(subjects: Sequence[Subject]) -> Element:
    """What the journals say, a column a run; what no run says is left out."""
    said = {subject.name: _facts_of(subject.summary) for subject in subjects}
    labels = list(dict.fromkeys(label for of_run in said.values() for label in of_run))
    rows = [(label, *(of_run.get(label, NOTHING) for of_run in said.values())) for label in labels]
    return table(Table("The runs" if len(said) > 1 else "The run", ("", *said), tuple(rows)), "words")


def differences(subjects: Sequence[Subject]) -> Element:
    """Keys of the configuration that are not the paper's, a column a run; where the runs differ, in bold."""
    known = {subject.name: subject.difference for subject in subjects if subject.difference is not None}
    lost = [
        note(f"{subject.name}:", "it left no configuration.")
        for subject in subjects
        if subject.name not in known
    ]
    paper = {key: old for changes in known.values() for key, (old, _) in changes.items()}
    if not paper:
        return element("div", *lost, *([paragraph("Configured as the paper is.")] if known else []))
    values = {
        key: [changes.get(key, (old, old))[1] for changes in known.values()] for key, old in paper.items()
    }
    rows = [(key, _shown(old), *map(_shown, values[key])) for key, old in paper.items()]
    bold = frozenset(
        (i, j)
        for i, of_runs in enumerate(values.values())
        for j in range(2, 2 + len(of_runs))
        if any(value != of_runs[0] for value in of_runs)
    )
    notes = ("In bold: where the runs differ.",) if len(known) > 1 else ()
    shown = Table("Difference from the paper", ("key", "the paper", *known), tuple(rows), notes, bold=bold)
    return element("div", *lost, table(shown, "words"))


def _num_groups(subjects: Sequence[Subject]) -> int:
    return len(album.comparable({subject.name: subject.found for subject in subjects if subject.found}))


def _side_by_side(subjects: Sequence[Subject], direction: Direction) -> Table:
    """A row a run; one without weights or data set has the newest scores of its journal."""
    rows, chance, notes = {}, None, []
    for subject in subjects:
        if subject.found:
            result = subject.found.evaluation.results[direction]
            rows[subject.name], chance = tables.fractions(result), tables.fractions(result.chance)
        else:
            rows[subject.name] = _remembered(subject.summary, direction)
            notes.append(f"{subject.name}: from its journal.")
    return tables.side_by_side(
        direction,
        rows,
        chance if _num_groups(subjects) == 1 else None,
        notes=tuple(notes),
        synthetic=any(subject.synthetic for subject in subjects),
    )


def _remembered(run: Summary, direction: Direction) -> dict[str, float]:
    """The newest scores in a journal, by the names of `tables.SCORES`."""
    keys = {
        **{f"rank{k}": names.rank(direction, k) for k in names.RANKS},
        "map": names.mean_average_precision(direction),
        "minp": names.mean_inverse_penalty(direction),
    }
    return {name: run.metrics[key] for name, key in keys.items() if key in run.metrics}


def _facts_of(run: Summary) -> dict[str, str]:
    ids = dict.fromkeys(found.run_id for found in servers(run.folder).values())
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
        "lasted": f"{duration(run.seconds)} in {run.num_starts} start(s)",
        "code": commit[:12] + dirty if (commit := run.tags.get(Tag.COMMIT)) else None,
        "checkpoint": run.tags.get(Tag.LAST_CHECKPOINT, "").partition("(")[2].rstrip(")"),
        ("MLflow run" if ids else "run uid"): ", ".join(ids) or run.uid,
    }
    return {label: value for label, value in said.items() if value}


def _both(run: Summary, one: Param, other: Param, between: str = ", ") -> str | None:
    return f"{run.params[one]}{between}{run.params[other]}" if {one, other} <= set(run.params) else None


def _shown(value: object) -> str:
    return NOTHING if value is None else str(value)
