"""What to pack, before anything is written: keys, labels, order, and which tracklets share a shard.

    Tree, Options -> planned tracklets in canonical order -> sizes of their files -> cut -> Plan

Everything that decides a byte of the result but the pictures is in `Plan.id`, so processes that share no more than a
folder can tell whether they work on the same pack. Each shard knows its pictures by their paths and sizes, so one whose
pictures have changed since it was written is written anew. The plan is a function of the tree: every process makes it.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.images import PictureError, fingerprint
from preprocess.options import BadFrames, Mode, Options, Order
from preprocess.progress import Progress, silent
from preprocess.tree import BadTreeError, Tree
from reid.data.description import VERSION
from reid.data.shards import LARGEST_FRAME, sample_json
from reid.data.ustar import BLOCK, archive_size, padded
from reid.types import Split, Tracklet

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
    """A shard: tracklets [first, stop) of the plan. `pictures` is a sha256 of the paths and sizes of its files."""

    number: int
    name: str
    first: int
    stop: int
    pictures: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A pack before it is made. `sizes` are the bytes of the files of each tracklet, 0 where one cannot be read."""

    id: str
    dataset: str
    synthetic: bool
    options: Options
    root: Path
    tracklets: list[PlannedTracklet]
    sizes: list[list[int]]
    shards: list[PlannedShard]

    @property
    def pictures(self) -> str:
        """A sha256 of the paths and sizes of all files."""
        return hashlib.sha256("".join(shard.pictures for shard in self.shards).encode()).hexdigest()

    def tracklets_of(self, shard: PlannedShard) -> list[PlannedTracklet]:
        return self.tracklets[shard.first : shard.stop]

    def files_of(self, shard: PlannedShard) -> Iterator[tuple[str, int]]:
        """Path and size of every picture of a shard, in order."""
        for planned, sizes in zip(
            self.tracklets_of(shard), self.sizes[shard.first : shard.stop], strict=True
        ):
            yield from zip(planned.tracklet.frames, sizes, strict=True)

    def num_frames_of(self, shard: PlannedShard) -> int:
        return sum(len(planned.tracklet.frames) for planned in self.tracklets_of(shard))


def decisive(options: Options) -> dict[str, Any]:
    """What the bytes of a shard depend on, besides the tracklets, which say themselves whether they are generated.

    `copy` depends on no library.
    """
    fields = {name: value for name, value in asdict(options).items() if value is not None}
    del fields["fake_infrared"]
    return fields if options.mode is Mode.COPY else fields | {"libraries": fingerprint()}


def identify(tree: Tree, options: Options) -> str:
    """The id of the plan that `make_plan` would make. No picture is looked at."""
    return _identifier(tree.dataset, options, _planned(tree.tracklets, options.order))


def make_plan(tree: Tree, options: Options, progress: Progress = silent) -> Plan:
    """The plan of a pack. `progress` hears (tracklets whose files were looked at, of all).

    Raises BadTreeError if a file is missing, unless bad frames are to be skipped.
    """
    tracklets = _planned(tree.tracklets, options.order)
    identifier = _identifier(tree.dataset, options, tracklets)
    sizes = _sizes(tree.root, options, tracklets, progress)
    shards = _cut(tree.dataset, options, tracklets, sizes)
    return Plan(
        identifier, tree.dataset, tree.synthesis is not None, options, tree.root, tracklets, sizes, shards
    )


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


def _sizes(
    root: Path, options: Options, tracklets: list[PlannedTracklet], progress: Progress
) -> list[list[int]]:
    """The bytes of every file. Raises BadTreeError that lists all files that cannot be packed, unless they may be skipped."""
    mistakes: list[str] = []

    def size_of(tracklet: Tracklet, frame: str) -> int:
        try:
            return file_size(f"{root}/{frame}")
        except PictureError as error:
            mistakes.append(f"{frame} (row {tracklet.row} of {tracklet.source}): {error}")
            return 0

    def sizes_of(first: int) -> list[list[int]]:
        return [
            [size_of(planned.tracklet, frame) for frame in planned.tracklet.frames]
            for planned in tracklets[first : first + STAT_AT_ONCE]
        ]

    sizes: list[list[int]] = []
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for piece in pool.map(sizes_of, range(0, len(tracklets), STAT_AT_ONCE)):
            sizes += piece
            progress(len(sizes), len(tracklets))
    if mistakes and options.bad_frames is BadFrames.FAIL:
        raise BadTreeError.listing(root, sorted(mistakes))
    return sizes


def file_size(path: str) -> int:
    """The bytes of a picture. Raises PictureError if it is missing, no plain file, or out of bounds."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise PictureError(str(error.strerror)) from error
    if stat.S_ISLNK(found.st_mode):
        raise PictureError("is a link; put the picture itself there")
    if not stat.S_ISREG(found.st_mode):
        raise PictureError("is not a regular file")
    if not 0 < found.st_size <= LARGEST_FRAME:
        raise PictureError(f"{found.st_size:,} bytes, expected 1 to {LARGEST_FRAME:,}")
    return found.st_size


def _cut(
    dataset: str, options: Options, tracklets: list[PlannedTracklet], sizes: list[list[int]]
) -> list[PlannedShard]:
    """Put as many tracklets into a shard as fit; a split begins a new one."""
    contents = [
        _content(options, planned, of_frames) for planned, of_frames in zip(tracklets, sizes, strict=True)
    ]
    shards: list[PlannedShard] = []
    for split in Split:
        pieces = list(_pieces(split, options.shard_mebibytes << 20, tracklets, contents))
        for number, (first, stop) in enumerate(pieces):
            name = f"{dataset}-{split}-{number:06d}-of-{len(pieces):06d}.tar"
            pictures = _fingerprint(tracklets[first:stop], sizes[first:stop])
            shards.append(PlannedShard(len(shards), name, first, stop, pictures))
    return shards


def _fingerprint(tracklets: list[PlannedTracklet], sizes: list[list[int]]) -> str:
    digest = hashlib.sha256()
    for planned, of_frames in zip(tracklets, sizes, strict=True):
        digest.update(f"{planned.key} {planned.tracklet.frames} {of_frames}\n".encode())
    return digest.hexdigest()


def _content(options: Options, planned: PlannedTracklet, sizes: list[int]) -> int:
    """The bytes that a tracklet takes in a shard, headers included."""
    if options.mode is Mode.RESIZE:
        (height, width), _ = options.resizing
        sizes = [int(BYTES_PER_PIXEL * height * width)] * len(sizes)
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
