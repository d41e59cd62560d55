"""The choices of a pack. Imports nothing heavy, because the command line reads it to show its help."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Mode(StrEnum):
    """`copy` keeps the bytes of every JPEG. `resize` decodes, resizes and encodes once what has another size."""

    COPY = "copy"
    RESIZE = "resize"


class Check(StrEnum):
    """How far a picture is checked while it is copied: its header only, or every pixel of it."""

    HEADER = "header"
    DECODE = "decode"


class Mixed(StrEnum):
    """What to do with a range of names that do not all belong to one tracklet."""

    KEEP = "keep"
    SPLIT = "split"
    DROP = "drop"


class Order(StrEnum):
    """`identity` keeps an identity together, which caches well. `hash` mixes, for readers that stream whole shards."""

    IDENTITY = "identity"
    HASH = "hash"


class BadFrames(StrEnum):
    """What a picture that is missing or damaged does: end the pack, or be left out and recorded in dataset.json with the
    reason, as are tracklets that it costs. Nothing is copied aside: the raw tree is not ours to change, and has them all.
    """

    FAIL = "fail"
    SKIP = "skip"


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


PAPER_SIZE = Size(288, 144)
QUALITY = 92


@dataclass(frozen=True, slots=True)
class Options:
    """How to pack. Raises ValueError for numbers out of range, and for what the mode has no use for.

    `check` is None in mode `resize`, `size` and `quality` are None in mode `copy`; what is left out of the others is
    filled in.
    """

    mode: Mode = Mode.COPY
    """`copy` keeps the bytes of every JPEG; `resize` encodes once what has another size."""
    size: Size | None = None
    """Of `resize`: height and width of the pictures, HxW, 288x144 if left out."""
    quality: int | None = None
    """Of `resize`: JPEG quality, 92 if left out."""
    check: Check | None = None
    """Of `copy`: how far pictures are checked, `decode` if left out. `header` is five times faster, and finds damage only
    when somebody reads it."""
    mixed: Mixed = Mixed.KEEP
    """What to do with rows that mix frames of several sources."""
    fake_infrared: bool = False
    """BUPTCampus only: train on its FakeIR too, infrared pictures that were generated from the visible ones."""
    minimum_frames: int = 12
    """Recorded for readers, which leave shorter tracklets out. All tracklets are packed."""
    order: Order = Order.IDENTITY
    """Order of tracklets in the shards: `hash` mixes them, for readers that stream."""
    bad_frames: BadFrames = BadFrames.FAIL
    """What a missing or damaged picture does: end the pack, or be left out and recorded, with the tracklets it costs."""
    shard_mebibytes: int = 256
    """Shards grow up to this size; in `resize` up to about this size."""

    def __post_init__(self) -> None:
        if self.mode is Mode.COPY:
            useless: dict[str, object] = {"size": self.size, "quality": self.quality}
            defaults: dict[str, object] = {"check": Check.DECODE}
        else:
            useless = {"check": self.check}
            defaults = {"size": PAPER_SIZE, "quality": QUALITY}
        wrong = [
            f"{name} has no meaning in mode `{self.mode}`"
            for name, value in useless.items()
            if value is not None
        ]
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        limits = {
            "quality": (self.quality, 1, 100),
            "height": (self.size and self.size.height, 1, 4096),
            "width": (self.size and self.size.width, 1, 4096),
            "minimum_frames": (self.minimum_frames, 1, 1_000_000),
            "shard_mebibytes": (self.shard_mebibytes, 1, 65_536),
        }
        wrong += [
            f"{name} must be {low} to {high}, found {value}"
            for name, (value, low, high) in limits.items()
            if value is not None and not low <= value <= high
        ]
        if wrong:
            raise ValueError("Nothing can be packed like this: " + "; ".join(wrong) + ".")

    @property
    def resizing(self) -> tuple[Size, int]:
        """Size and quality, in mode `resize`."""
        assert self.size is not None
        assert self.quality is not None
        return self.size, self.quality
