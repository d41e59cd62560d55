"""What the pictures of scored runs show: picks from vectors, shards and the batch plan, always the same ones.

    Found of each run -> comparable      runs that answered the same queries from the same gallery
                      -> answered        some queries, and what each run answered            -> sheets.Panel
                      -> failed          the queries whose first right answer came last      -> sheets.Panel
                      -> attended        clips of some people, and where each run looks      -> [sheets.Attended]
                      -> mapped          clips as points in the plane                        -> charts.Map
                      -> distances       of positive and negative pairs
    Batch, PairedClips -> seen           a batch of training                                 -> sheets.Seen

The clips shown are the ones that were embedded: T frames at the size of the network.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from reid.data.augmentation import Augmentation
from reid.data.batches import Batch
from reid.data.clips import ClipReader, ClipShape, PairedClips, as_tensor, normalise
from reid.data.manifest import Manifest
from reid.evaluation.attention import attention
from reid.evaluation.metrics import Labels, first_answers
from reid.evaluation.retrieval import Embedded, Found
from reid.report.charts import Map, Numbers, Pairs
from reid.report.projection import tsne
from reid.report.sheets import NOBODY, Attended, Panel, Photographs, Ranking, Seen
from reid.report.tables import title_of
from reid.types import Direction, Modality

NUM_QUERIES, NUM_ANSWERS, NUM_FAILED_ANSWERS, MOST_ROWS = 5, 10, 8, 12
NUM_ATTENDED, NUM_COLOURED, NUM_MAPPED = 3, 8, 24  # people
MAX_MAPPED = 12  # clips of a person in one light, in the plane
MAX_CLIPS = 800  # of one modality, for the distances between all pairs

Rows = NDArray[np.int64]
Runs = Mapping[str, Found]  # by the name that a picture shows; those of one mapping are comparable


def comparable(runs: Runs) -> list[dict[str, Found]]:
    """The runs, put together where they searched the same tracklets of the same data set, in their order."""
    groups: dict[tuple[object, ...], dict[str, Found]] = {}
    for name, found in runs.items():
        sides = (found.evaluation.query.rows.tobytes(), found.evaluation.gallery.rows.tobytes())
        key = (found.manifest.digest, found.protocol.drop_same_camera, *sides)
        groups.setdefault(key, {})[name] = found
    return list(groups.values())


def answered(runs: Runs, direction: Direction) -> Panel:
    """Some queries of a direction, drawn at random and always the same, with the first answers of each run."""
    first = next(iter(runs.values()))
    counted = np.flatnonzero(first.evaluation.results[direction].first_hit >= 0)
    count = min(_num_queries(runs), len(counted))
    chosen = np.sort(np.random.default_rng(0).choice(counted, count, replace=False))
    rankings = [_ranking(name, found, direction, chosen) for name, found in runs.items()]
    title = f"What was found first, {title_of(direction).lower()}"
    return _panel(title, first, direction, chosen, rankings)


def failed(runs: Runs, direction: Direction) -> Panel | None:
    """The queries whose first right answer comes last, in the mean over runs; hardest first.

    The last answer shown of each is that first right one. None if no run ever has a wrong answer first.
    """
    first = next(iter(runs.values()))
    first_hits = np.stack([found.evaluation.results[direction].first_hit for found in runs.values()])
    hardest = np.argsort(-first_hits.mean(axis=0), kind="stable")[: _num_queries(runs)]
    chosen = hardest[(first_hits[:, hardest] > 0).any(axis=0)]
    if not len(chosen):
        return None
    rankings = []
    for (name, found), first_hit in zip(runs.items(), first_hits[:, chosen], strict=True):
        columns = np.tile(np.arange(NUM_FAILED_ANSWERS), (len(chosen), 1))
        columns[:, -1] = first_hit
        rankings.append(_ranking(name, found, direction, chosen, columns))
    title = f"Hardest failures, {title_of(direction).lower()}"
    return _panel(title, first, direction, chosen, rankings)._replace(ends_right=True)


def attended(runs: Runs) -> list[Attended]:
    """A visible and an infrared clip of some people, and what in it makes it like their clips in the other light."""
    first = next(iter(runs.values()))
    manifest, (query, gallery) = first.manifest, (first.evaluation.query, first.evaluation.gallery)
    shown = []
    for person in _spread(_in_both_lights(first), NUM_ATTENDED):
        for side in (gallery, query):
            row = side.rows[manifest.identity[side.rows] == person][:1]
            (clip,) = clips_of(manifest, row, first.protocol.shape)
            light = Modality(int(manifest.modality[row[0]])).name.lower()
            title = f"person {person}, {light}, camera {manifest.camera[row[0]]}"
            looks = {name: _attention(found, row, int(person)) for name, found in runs.items()}
            shown.append(Attended(title, clip, looks))
    return shown


def mapped(found: Found) -> tuple[Map, list[int]]:
    """Clips of some people in the plane, and which of the people to colour."""
    manifest, evaluation = found.manifest, found.evaluation
    people = _spread(_in_both_lights(found), NUM_MAPPED)
    sides = [_some_of_each(side, manifest, people) for side in (evaluation.gallery, evaluation.query)]
    rows = np.concatenate([side.rows for side in sides])
    points = tsne(torch.cat([side.vectors for side in sides]).numpy())
    is_visible = manifest.modality[rows] == Modality.VISIBLE
    return Map(points, manifest.identity[rows], is_visible), _spread(people, NUM_COLOURED).tolist()


def distances(found: Found) -> Pairs:
    """Cosine distances of positive and negative pairs, within each modality and across.

    Pairs of one person in one camera are left out, as they would be easy; so is a panel without any pair. At most
    `MAX_CLIPS` a modality, evenly spaced.
    """
    infrared, visible = (
        _at(side, slice(None, None, -(-len(side.rows) // MAX_CLIPS)))
        for side in (found.evaluation.query, found.evaluation.gallery)
    )
    pairs = {
        "Within visible": (visible, visible),
        "Within infrared": (infrared, infrared),
        "Across modalities": (infrared, visible),
    }
    return {
        title: both
        for title, sides in pairs.items()
        if len((both := _pair_distances(*sides, found.manifest))[0]) and len(both[1])
    }


def seen(step: int, batch: Batch, clips: PairedClips, manifest: Manifest, augmentation: Augmentation) -> Seen:
    """The first frame of every clip of a batch of training, as the network gets it after `augmentation`."""
    visible, infrared = (side[:, 0].movedim(1, -1).numpy() for side in (clips.visible, clips.infrared))
    runs = np.flatnonzero(np.diff(batch.identity)) + 1
    return Seen(
        step,
        visible,
        infrared,
        manifest.identity[batch.visible],
        manifest.camera[batch.visible],
        manifest.camera[batch.infrared],
        num_tracklets=int(runs[0]) if len(runs) else len(batch.identity),
        augmentation=_sentence(augmentation),
    )


def _sentence(augmentation: Augmentation) -> str:
    """What an augmentation does to clips."""
    done = [f"moves each by up to {augmentation.padding} pixels"] if augmentation.padding else []
    done += [
        words.format(f"{100 * chance:.3g} %")
        for words, chance in (
            ("mirrors {} of them", augmentation.flip_probability),
            ("turns {} of the visible ones grey", augmentation.grey_probability),
            ("shows {} of the visible ones by a single channel", augmentation.exchange_probability),
            ("paints over a part of {} of them", augmentation.erasing_probability),
        )
        if chance
    ]
    if not done:
        return "Clips are not augmented."
    return f"Augmentation {', '.join(done)}, {'frame by frame' if augmentation.per_frame else 'all frames of a clip alike'}."


def clips_of(manifest: Manifest, rows: Rows, shape: ClipShape) -> Photographs:
    """The clips (N, T, H, W, 3) that are embedded for tracklets."""
    clips = np.zeros((len(rows), *shape, 3), dtype=np.uint8)
    reader = ClipReader(manifest, shape)
    reader.read_for_test(rows, clips)
    reader.close()
    return clips


def _num_queries(runs: Runs) -> int:
    """Fewer where each takes many rows."""
    return max(1, min(NUM_QUERIES, MOST_ROWS // len(runs)))


def _ranking(
    name: str, found: Found, direction: Direction, chosen: Rows, columns: Rows | None = None
) -> Ranking:
    """What a run answers to the queries `chosen`, at the ranks `columns` from 0, by default the first ones."""
    if columns is None:
        columns = np.tile(np.arange(NUM_ANSWERS), (len(chosen), 1))
    manifest, (query, gallery) = found.manifest, found.evaluation.sides(direction)
    labels = Labels(manifest.identity[gallery.rows], manifest.camera[gallery.rows])
    similarity = np.stack([*found.evaluation.similarities(direction, chosen)])
    answers = np.full(columns.shape, NOBODY)
    for i, row in enumerate(query.rows[chosen]):
        ranked = first_answers(
            similarity[i],
            int(manifest.identity[row]),
            int(manifest.camera[row]),
            labels,
            len(labels.identity),
            remove_same_camera=found.protocol.drop_same_camera,
        )
        is_there = columns[i] < len(ranked)
        answers[i, is_there] = ranked[columns[i, is_there]]
    is_there = answers != NOBODY
    shape = found.protocol.shape
    shown = np.zeros((*answers.shape, shape.height, shape.width, 3), dtype=np.uint8)
    middle = clips_of(manifest, gallery.rows[answers[is_there]], shape)[:, shape.frames // 2]
    shown[is_there] = middle
    return Ranking(
        name,
        shown,
        np.where(is_there, labels.identity[answers], NOBODY),
        np.where(is_there, np.take_along_axis(similarity, answers, axis=1), np.nan),
        columns + 1,
    )


def _panel(title: str, found: Found, direction: Direction, chosen: Rows, rankings: list[Ranking]) -> Panel:
    rows = found.evaluation.sides(direction)[0].rows[chosen]
    clips = clips_of(found.manifest, rows, found.protocol.shape)
    return Panel(title, clips, found.manifest.identity[rows], rankings)


def _attention(found: Found, row: Rows, person: int) -> Numbers:
    """Of one clip (T, h, w), for its likeness to the mean of the person's clips in the other light."""
    manifest, evaluator = found.manifest, found.evaluator
    modality = Modality(int(manifest.modality[row[0]]))
    other = found.evaluation.query if modality is Modality.VISIBLE else found.evaluation.gallery
    mean = other.vectors[torch.from_numpy(manifest.identity[other.rows] == person)].mean(0, keepdim=True)
    target = torch.nn.functional.normalize(mean, dim=1)
    device, dtype = evaluator.runtime.device, evaluator.runtime.dtype
    pixels = normalise(as_tensor(clips_of(manifest, row, found.protocol.shape)).to(device)).to(dtype)
    looks = attention(evaluator.network, pixels, modality, target.to(device, dtype), found.protocol.embedding)
    return looks[0].cpu().numpy()


def _pair_distances(one: Embedded, other: Embedded, manifest: Manifest) -> tuple[Numbers, Numbers]:
    distance = 1 - (one.vectors @ other.vectors.T).numpy()
    same_person = manifest.identity[one.rows][:, None] == manifest.identity[other.rows]
    same_camera = manifest.camera[one.rows][:, None] == manifest.camera[other.rows]
    once = np.triu(np.ones_like(same_person), 1) if one is other else np.ones_like(same_person)
    return distance[same_person & ~same_camera & once], distance[~same_person & once]


def _in_both_lights(found: Found) -> Rows:
    """People with clips on both sides, by number: at least one, or nothing could have been scored."""
    query, gallery = (
        found.manifest.identity[side.rows] for side in found.evaluation.sides(Direction.INFRARED_TO_VISIBLE)
    )
    return np.intersect1d(query, gallery)


def _spread(people: Rows, most: int) -> Rows:
    """At most so many, evenly spaced, from the middle of the first part to that of the last."""
    count = min(most, len(people))
    chosen: Rows = people[(2 * np.arange(count) + 1) * len(people) // (2 * count or 1)]
    return chosen


def _some_of_each(side: Embedded, manifest: Manifest, people: Rows) -> Embedded:
    """The first clips of each of the people."""
    identity = manifest.identity[side.rows]
    return _at(side, np.concatenate([np.flatnonzero(identity == person)[:MAX_MAPPED] for person in people]))


def _at(side: Embedded, places: slice | Rows) -> Embedded:
    return Embedded(side.rows[places], side.vectors[places])
