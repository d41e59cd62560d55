"""Tables and numbers of disturbed queries, beside those of the same queries clean.

    Robustness, clean scores -> results(...)    -> a table of corruptions a direction, and one of attacks
                             -> as_numbers(...) -> JSON

Every title and every key says that the queries were disturbed: none of these numbers can be taken for a clean one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reid.evaluation.corruptions import LADDERS, SEVERITIES, Corruption
from reid.evaluation.metrics import Retrieval
from reid.evaluation.robustness import Attack, Robustness, Scores
from reid.report.tables import SCORES, Table, fractions, labelled, percent, title_of
from reid.types import Direction

COMPARED = ("rank1", "map")
CLEAN_GALLERY = "The asking side is disturbed, the gallery is clean."
NO_BRANCH = "This variant has no ASAM, so there is no attack of ASAM's own."

Results = Mapping[Direction, Retrieval]
Pair = tuple[float, ...]  # Rank-1 and mAP


def results(found: Robustness, clean: Results, *, protocol: str, synthetic: bool) -> list[Table]:
    """Rank-1 / mAP of the corruptions by severity, their means and what they cost; all scores of the attacks."""
    tables = []
    if found.corruptions:
        tables += [_corruptions(found, direction, clean[direction], synthetic) for direction in clean]
    if found.attacks:
        tables.append(_attacks(found, clean, protocol, synthetic))
    return tables


def as_numbers(found: Robustness, clean: dict[str, Any]) -> dict[str, Any]:
    """The same as fractions, for JSON, with the `clean` numbers of an undisturbed evaluation below a key of that name."""
    attack = found.conditions.attack
    numbers: dict[str, Any] = {"synthetic": clean["synthetic"], "disturbed": "queries", "clean": clean}
    if found.corruptions:
        kinds = {str(corruption): _ladder(corruption, of) for corruption, of in found.corruptions.items()}
        numbers["corruptions"] = {"seed": found.conditions.seed, "kinds": kinds}
    if attack is not None:
        numbers["attacks"] = {
            "metric": {
                "epsilon": attack.epsilon / 255,
                "steps": attack.steps,
                "step_size": attack.step_size / 255,
                "goal": str(attack.goal),
                "seed": attack.seed,
                "directions": _numbers(found.attacks[Attack.METRIC]),
            },
            "self": {"directions": _numbers(found.attacks[Attack.SELF])}
            if Attack.SELF in found.attacks
            else {"missing": NO_BRANCH},
        }
    return numbers


def _ladder(corruption: Corruption, by_severity: Sequence[Scores]) -> dict[str, Any]:
    ladder = LADDERS[corruption]
    steps = zip(SEVERITIES, ladder.amounts, by_severity, strict=True)
    return {
        "unit": ladder.unit,
        "severities": [
            {"severity": severity, "amount": amount, "directions": _numbers(scores)}
            for severity, amount, scores in steps
        ],
    }


def _corruptions(found: Robustness, direction: Direction, clean: Retrieval, synthetic: bool) -> Table:
    rows = []
    for by_severity in found.corruptions.values():
        pairs = [_pair(scores[direction].retrieval) for scores in by_severity]
        rows.append([*pairs, _mean(pairs), _drop(clean, by_severity, direction)])
    means = [_mean([row[column] for row in rows]) for column in range(len(rows[0]))]
    names = [corruption.replace("_", " ") for corruption in found.corruptions]
    units = "; ".join(_told(corruption) for corruption in found.corruptions)
    cells = [(name, *map(_cell, row)) for name, row in zip([*names, "Mean"], [*rows, means], strict=True)]
    return Table(
        labelled(f"CORRUPTED queries: {title_of(direction).lower()}", synthetic),
        ("Rank-1/mAP", *(str(severity) for severity in SEVERITIES), "Mean", "Lost"),
        (("clean", *("-" for _ in SEVERITIES), _cell(_pair(clean)), "-"), *cells),
        (
            f"Percent, by severity. {CLEAN_GALLERY} Lost: clean less mean. Seed {found.conditions.seed}.",
            f"Severities: {units}.",
        ),
    )


def _attacks(found: Robustness, clean: Results, protocol: str, synthetic: bool) -> Table:
    names = {Attack.METRIC: "  metric attack", Attack.SELF: "  ASAM's own"}
    blank = [""] * (len(SCORES) + 1)
    rows: list[tuple[str, ...]] = []
    for direction, result in clean.items():
        rows.append((title_of(direction), *blank))
        rows.append(("  clean", *map(percent, fractions(result).values()), "1.00"))
        for attack, scores in found.attacks.items():
            scored = scores[direction]
            attacked = map(percent, fractions(scored.retrieval).values())
            rows.append((names[attack], *attacked, f"{scored.cosine:.2f}"))
    assert found.conditions.attack is not None
    own = "ASAM's own: the defence sees what IMSA makes of the stem's features (Eq. 2) in place of them."
    return Table(
        labelled("Queries UNDER ATTACK", synthetic),
        ("", *SCORES.values(), "Cosine"),
        tuple(rows),
        (
            f"Percent. {CLEAN_GALLERY} Cosine: mean, of the queries' vectors with their clean ones.",
            f"Metric attack: {found.conditions.attack.describe()}.",
            own if Attack.SELF in found.attacks else NO_BRANCH,
            f"Protocol: {protocol}.",
        ),
    )


def _told(corruption: Corruption) -> str:
    amounts = ", ".join(f"{amount:.2g}" for amount in LADDERS[corruption].amounts)
    return f"{corruption.replace('_', ' ')} {amounts} ({LADDERS[corruption].unit})"


def _pair(result: Retrieval) -> Pair:
    scores = fractions(result)
    return tuple(scores[name] for name in COMPARED)


def _mean(pairs: Sequence[Pair]) -> Pair:
    return tuple(sum(column) / len(column) for column in zip(*pairs, strict=True))


def _drop(clean: Retrieval, by_severity: Sequence[Scores], direction: Direction) -> Pair:
    mean = _mean([_pair(scores[direction].retrieval) for scores in by_severity])
    return tuple(before - after for before, after in zip(_pair(clean), mean, strict=True))


def _cell(pair: Pair) -> str:
    return "/".join(map(percent, pair))


def _named(pair: Pair) -> dict[str, float]:
    return dict(zip(COMPARED, pair, strict=True))


def _numbers(scores: Scores) -> dict[str, Any]:
    return {
        str(direction): {**fractions(scored.retrieval), "cosine_with_clean": scored.cosine}
        for direction, scored in scores.items()
    }
