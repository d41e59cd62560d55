"""A procedural data set in the official layout of HITSZ-VCM: walking figures instead of people.

    SyntheticConfig -> cast of identities -> tracklets of each identity, one task a process
                    -> OUT/PPPP/<ir|rgb>/D<d>/<f>.jpg, name files, track files, query list, synthetic.json

Identity shows in build, clothes and gait (`wardrobe.py`), which `figures.py` turns into a moving body and `cameras.py`
into frames. Everything else - camera, time of day, phase of the walk, occluder, background - is drawn for each tracklet
without looking at who walks. Every random draw has a key of its own made of the seed and numbers, so the bytes on disk
do not depend on the number of processes. Everything is written beside OUT and published by one rename.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocess import workers
from preprocess.cameras import draw_take, film, make_camera, modality_of
from preprocess.figures import joints, parts
from preprocess.progress import Progress, silent
from preprocess.publish import destination, is_free
from preprocess.synthetic_options import Cues, SyntheticConfig
from preprocess.vcm import SYNTHETIC_FILE
from preprocess.vcm_index import NAME_FILES, QUERY_FILE, TRACK_FILES
from preprocess.wardrobe import Appearance, Array, Gait, draw_appearance, draw_gait
from reid.types import Modality, Split

GENERATOR_VERSION = 1
JPEG_QUALITY = 90
SHORTEST, FIRST_FULL, LONGEST = 4, 12, 24  # frames of a tracklet


class _Stream(IntEnum):
    """The first word after the seed of every random key. Camera keys (1) belong to `cameras.py`."""

    APPEARANCE = 2
    GAIT = 3
    TAKE = 4
    SCHEDULE = 5


class SyntheticTracklet(NamedTuple):
    """A tracklet on disk; its frames are numbered from `first_frame` among those of the same folder."""

    identity: int
    modality: Modality
    camera: int
    tracklet: int
    first_frame: int
    num_frames: int

    def names(self) -> list[str]:
        """Frame names as in the name files, PPPPMmDdTtFf.jpg."""
        stem = f"{self.identity:04d}M{self.modality.value}D{self.camera}T{self.tracklet}"
        return [
            f"{stem}F{number}.jpg" for number in range(self.first_frame, self.first_frame + self.num_frames)
        ]

    def paths(self) -> list[Path]:
        folder = Path(f"{self.identity:04d}", self.modality.folder, f"D{self.camera}")
        return [
            folder / f"{number}.jpg" for number in range(self.first_frame, self.first_frame + self.num_frames)
        ]


@dataclass(frozen=True, slots=True)
class SyntheticSummary:
    root: Path
    train_identities: int
    test_identities: int
    tracklets: int
    short_tracklets: int
    frames: int


def synthesize(
    config: SyntheticConfig,
    out: Path,
    num_workers: int = 1,
    progress: Progress = silent,
) -> SyntheticSummary:
    """Write the data set to `out`, which must not exist or be empty; `progress` hears (identities done, of all).

    Raises ValueError when `out` is occupied. After any other exception, or Ctrl-C, nothing is left at or beside `out`.
    """
    workers.check(num_workers)
    train, test = config.train_identities(), config.test_identities()
    with _published(destination(out)) as root:
        filmed = _film_all(config, [*train, *test], root, num_workers, progress)
        _write_index(root, Split.TRAIN, filmed[: len(train)])
        _write_index(root, Split.TEST, filmed[len(train) :])
        description = {
            "generator_version": GENERATOR_VERSION,
            "seed": config.seed,
            "parameters": asdict(config),
        }
        (root / SYNTHETIC_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    lengths = [tracklet.num_frames for tracklets in filmed for tracklet in tracklets]
    short = sum(length < FIRST_FULL for length in lengths)
    return SyntheticSummary(out, len(train), len(test), len(lengths), short, sum(lengths))


def plan_identity(config: SyntheticConfig, identity: int) -> list[SyntheticTracklet]:
    """The tracklets of an identity in the order of the index files. Each modality is seen by at least two cameras."""
    planned = []
    rng = _generator(config, _Stream.SCHEDULE, identity)
    for modality in Modality:
        cameras = [number for number in range(1, config.num_cameras + 1) if modality_of(number) is modality]
        num_visits = config.tracklets_per_modality
        num_visited = max(2, min(len(cameras), (num_visits + 1) // 2))
        visited = sorted(int(camera) for camera in rng.choice(cameras, num_visited, replace=False))
        for position, camera in enumerate(visited):
            first_frame = 1
            for number in range(1, len(range(position, num_visits, num_visited)) + 1):
                num_frames = _draw_length(rng, config.short_fraction)
                planned.append(SyntheticTracklet(identity, modality, camera, number, first_frame, num_frames))
                first_frame += num_frames
    return planned


def render(config: SyntheticConfig, tracklet: SyntheticTracklet) -> NDArray[np.uint8]:
    """The frames of a tracklet, uint8 (n, H, W, 3): a pure function of its arguments."""
    appearance, gait = cast(config, tracklet)
    camera = make_camera(config.seed, tracklet.camera)
    take = draw_take(_generator(config, _Stream.TAKE, *_visit(tracklet)), camera, config.nuisance)
    cycle = take.phase + 2.0 * np.pi * gait.frequency * np.arange(tracklet.num_frames)
    phase: Array = cycle.astype(np.float32)
    body = parts(appearance, joints(appearance, gait, phase))
    return film(body, take, camera, config.height, config.width)


def cast(config: SyntheticConfig, tracklet: SyntheticTracklet) -> tuple[Appearance, Gait]:
    """The identity's own appearance and gait; what `cues` leaves out belongs to the tracklet alone."""
    always, once = (tracklet.identity,), _visit(tracklet)
    dressed = _generator(config, _Stream.APPEARANCE, *(once if config.cues == Cues.GAIT else always))
    walking = _generator(config, _Stream.GAIT, *(once if config.cues == Cues.APPEARANCE else always))
    return draw_appearance(dressed, config.gap), draw_gait(walking)


def _visit(tracklet: SyntheticTracklet) -> tuple[int, int, int]:
    return (tracklet.identity, tracklet.camera, tracklet.tracklet)


def _generator(config: SyntheticConfig, stream: _Stream, *key: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, stream.value, *key))


def _draw_length(rng: np.random.Generator, short_fraction: float) -> int:
    """Half of the tracklets that are not short are full, as the official cut into 24 frames leaves them."""
    if rng.random() < short_fraction:
        return int(rng.integers(SHORTEST, FIRST_FULL))
    return LONGEST if rng.random() < 0.5 else int(rng.integers(FIRST_FULL, LONGEST))


def _film_identity(
    config: SyntheticConfig, root: Path, identity: int, advance: workers.Report
) -> list[SyntheticTracklet]:
    tracklets = plan_identity(config, identity)
    for tracklet in tracklets:
        paths = [root / path for path in tracklet.paths()]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, frame in zip(paths, render(config, tracklet), strict=True):
            Image.fromarray(frame).save(path, "JPEG", quality=JPEG_QUALITY)
    advance(1)
    return tracklets


def _film_all(
    config: SyntheticConfig, identities: list[int], root: Path, num_workers: int, progress: Progress
) -> list[list[SyntheticTracklet]]:
    """Film every identity; their tracklets in the order of `identities`, which rises."""
    film_one = partial(_film_identity, config, root)
    with closing(
        workers.run(film_one, identities, num_workers, lambda done: progress(done, len(identities)))
    ) as films:
        return sorted(films, key=lambda tracklets: tracklets[0].identity)


def _write_index(root: Path, split: Split, filmed: list[list[SyntheticTracklet]]) -> None:
    """The name file and the track file of a split; for the test split also the query list, its infrared rows."""
    names: list[str] = []
    rows: list[str] = []
    queries: list[str] = []
    for tracklet in (tracklet for tracklets in filmed for tracklet in tracklets):
        start = len(names) + 1
        names += tracklet.names()
        modality, identity, camera = tracklet.modality.value, tracklet.identity, tracklet.camera
        rows.append(f"{modality} {start} {len(names)} {identity:04d} {camera}")
        if tracklet.modality is Modality.INFRARED:
            queries.append(str(len(rows)))
    _write_lines(root / NAME_FILES[split], names)
    _write_lines(root / TRACK_FILES[split], rows)
    if split is Split.TEST:
        _write_lines(root / QUERY_FILE, [" ".join(queries)])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that becomes `out` when the block ends well, and is removed when it does not."""
    if not is_free(out):
        raise ValueError(f"{out} exists and is not an empty folder; name another folder, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        hidden.chmod(0o755)
        yield hidden
        hidden.rename(out)
    except BaseException:
        shutil.rmtree(hidden)
        raise
