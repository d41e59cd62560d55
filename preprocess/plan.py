"""What to pack, before anything is written: keys, labels, order, and which tracklets share a shard.

    Tree, Options -> planned tracklets in canonical order -> sizes of their files -> cut -> Plan

Everything that decides a byte of the result is in `Plan.id`, so processes that share no more than a folder can tell
whether they work on the same pack. The cut is kept in `plan.json`: the first process makes it, all others read it.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.images import fingerprint
from preprocess.options import BadFrames, Mode, Options, Order
from preprocess.publish import write_whole
from preprocess.tree import BadTreeError, Tree
from reid.data.manifest import VERSION
from reid.data.shards import LARGEST_FRAME, sample_json
from reid.data.ustar import BLOCK, archive_size, padded
from reid.types import Split, Tracklet

PLAN_FILE = "plan.json"
BYTES_PER_PIXEL = 0.4  # what a resized frame is expected to take; only decides where shards are cut
STAT_THREADS = 16
STAT_AT_ONCE = 32  # tracklets


class PlannedTracklet(NamedTuple):
    """A tracklet with its key in the shards, and its label: 0..M-1 in the training split, -1 outside it."""

    key: str
    label: int
    tracklet: Tracklet

    def description(self, num_frames: int) -> bytes:
        """The first member of the tracklet's sample."""
        tracklet = self.tracklet
        return sample_json(
            split=tracklet.split,
            role=tracklet.role,
            identity=tracklet.identity,
            label=self.label,
            modality=tracklet.modality,
            camera=tracklet.camera,
            tracklet=tracklet.tracklet,
            num_frames=num_frames,
        )


class PlannedShard(NamedTuple):
    """A shard: tracklets [first, stop) of the plan. `nbytes` is its size where that is known before writing."""

    name: str
    first: int
    stop: int
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    id: str
    dataset: str
    options: Options
    root: Path
    tracklets: list[PlannedTracklet]
    shards: list[PlannedShard]

    def tracklets_of(self, shard: PlannedShard) -> list[PlannedTracklet]:
        return self.tracklets[shard.first : shard.stop]

    def num_frames_of(self, shard: PlannedShard) -> int:
        return sum(len(planned.tracklet.frames) for planned in self.tracklets_of(shard))


def decisive(options: Options) -> dict[str, Any]:
    """What the bytes of a shard depend on, besides the tracklets, which say themselves whether they are generated.

    `copy` depends neither on size and quality nor on any library.
    """
    fields = asdict(options)
    del fields["fake_infrared"]
    if options.mode is Mode.COPY:
        return {name: value for name, value in fields.items() if name not in {"size", "quality"}}
    return fields | {"libraries": fingerprint()}


def identify(tree: Tree, options: Options) -> str:
    """The id of the plan that `make_plan` would make. No picture is looked at."""
    return _identifier(tree.dataset, options, _planned(tree.tracklets, options.order))


def make_plan(tree: Tree, options: Options, saved: Path) -> Plan:
    """The plan of a pack. The cut is read from `saved` if it is there, else made and written there.

    Raises BadTreeError if a file is missing, and ValueError if `saved` is the plan of another pack.
    """
    tracklets = _planned(tree.tracklets, options.order)
    identifier = _identifier(tree.dataset, options, tracklets)
    cut = _load(saved, identifier)
    if cut is None:
        cut = _cut(tree.dataset, options, tracklets, _sizes(tree.root, tracklets))
        _save(saved, identifier, cut)
    return Plan(identifier, tree.dataset, options, tree.root, tracklets, cut)


def _planned(tracklets: list[Tracklet], order: Order) -> list[PlannedTracklet]:
    """Tracklets with keys and labels, the training split first."""
    train = sorted({tracklet.identity for tracklet in tracklets if tracklet.split is Split.TRAIN})
    labels = {identity: label for label, identity in enumerate(train)}
    taken: Counter[str] = Counter()
    planned = []
    for tracklet in sorted(tracklets, key=_canonical):
        key = (
            f"{tracklet.split}/{tracklet.identity:05d}/"
            f"{tracklet.modality.name.lower()}-c{tracklet.camera:02d}-{tracklet.tracklet:06d}"
        )
        taken[key] += 1
        label = labels[tracklet.identity] if tracklet.split is Split.TRAIN else -1
        planned.append(PlannedTracklet(key if taken[key] == 1 else f"{key}-{taken[key]}", label, tracklet))
    if order is Order.HASH:
        planned.sort(key=lambda each: (list(Split).index(each.tracklet.split), _hash(each.key)))
    return planned


def _canonical(tracklet: Tracklet) -> tuple[Any, ...]:
    who = (tracklet.identity, tracklet.modality, tracklet.camera, tracklet.tracklet)
    return (list(Split).index(tracklet.split), *who, tracklet.row, tracklet.source, tracklet.frames)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _identifier(dataset: str, options: Options, tracklets: list[PlannedTracklet]) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([VERSION, dataset, decisive(options)], sort_keys=True).encode())
    for planned in tracklets:
        digest.update(f"\n{planned.key} {planned.label} {planned.tracklet!r}".encode())
    return digest.hexdigest()


def _sizes(root: Path, tracklets: list[PlannedTracklet]) -> list[list[int]]:
    """The bytes of every file. Raises BadTreeError that lists all files that are missing, no files, or out of bounds."""
    mistakes: list[str] = []

    def sizes_of(first: int) -> list[list[int]]:
        return [
            [_size(root, planned.tracklet, frame, mistakes.append) for frame in planned.tracklet.frames]
            for planned in tracklets[first : first + STAT_AT_ONCE]
        ]

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        pieces = pool.map(sizes_of, range(0, len(tracklets), STAT_AT_ONCE))
        sizes = [of_frames for piece in pieces for of_frames in piece]
    if mistakes:
        raise BadTreeError.listing(root, sorted(mistakes))
    return sizes


def _size(root: Path, tracklet: Tracklet, frame: str, report: Callable[[str], None]) -> int:
    where = f"{frame} (row {tracklet.row} of {tracklet.source})"
    try:
        found = os.lstat(f"{root}/{frame}")
    except OSError as error:
        report(f"{where}: {error.strerror}")
        return 0
    if stat.S_ISLNK(found.st_mode):
        report(f"{where}: is a link; put the picture itself there")
    elif not stat.S_ISREG(found.st_mode):
        report(f"{where}: is not a regular file")
    elif not 0 < found.st_size <= LARGEST_FRAME:
        report(f"{where}: {found.st_size:,} bytes, expected 1 to {LARGEST_FRAME:,}")
    return found.st_size


def _cut(
    dataset: str, options: Options, tracklets: list[PlannedTracklet], sizes: list[list[int]]
) -> list[PlannedShard]:
    """Put as many tracklets into a shard as fit; a split begins a new one."""
    contents = [
        _content(options, planned, of_frames) for planned, of_frames in zip(tracklets, sizes, strict=True)
    ]
    shards = []
    for split in Split:
        pieces = list(_pieces(split, options.shard_mebibytes << 20, tracklets, contents))
        for number, (first, stop) in enumerate(pieces):
            name = f"{dataset}-{split}-{number:06d}-of-{len(pieces):06d}.tar"
            exact = options.mode is Mode.COPY and options.bad_frames is BadFrames.FAIL
            nbytes = archive_size(sum(contents[first:stop])) if exact else None
            shards.append(PlannedShard(name, first, stop, nbytes))
    return shards


def _content(options: Options, planned: PlannedTracklet, sizes: list[int]) -> int:
    """The bytes that a tracklet takes in a shard, headers included."""
    if options.mode is Mode.RESIZE:
        sizes = [int(BYTES_PER_PIXEL * options.size.height * options.size.width)] * len(sizes)
    members = [len(planned.description(len(sizes))), *sizes]
    return sum(BLOCK + padded(size) for size in members)


def _pieces(
    split: Split, limit: int, tracklets: list[PlannedTracklet], contents: list[int]
) -> Iterator[tuple[int, int]]:
    members = [position for position, planned in enumerate(tracklets) if planned.tracklet.split is split]
    if not members:
        return
    first, content = members[0], 0
    for position in members:
        if position > first and archive_size(content + contents[position]) > limit:
            yield first, position
            first, content = position, 0
        content += contents[position]
    yield first, members[-1] + 1


def _load(saved: Path, identifier: str) -> list[PlannedShard] | None:
    if not saved.is_file():
        return None
    fields = json.loads(saved.read_bytes())
    if fields["id"] != identifier:
        raise ValueError(
            f"{saved.parent} holds an unfinished pack of another tree, with other options or other libraries "
            f"({fields['id'][:12]}, this one is {identifier[:12]}). Finish that one, or remove {saved.parent}."
        )
    return [PlannedShard(*shard) for shard in fields["shards"]]


def _save(saved: Path, identifier: str, shards: list[PlannedShard]) -> None:
    """Publish the cut for the other processes. Whoever else does so now writes the same bytes."""
    saved.parent.mkdir(parents=True, exist_ok=True)
    write_whole(saved, json.dumps({"id": identifier, "shards": shards}).encode())
