"""Which tracklets form iteration n: a pure function of (seed, step, rank, world).

`BatchPlan` groups the training rows of a manifest by identity and modality, once. `BatchPlan.batch(step)` then draws
P identities and, for each, K visible and K infrared tracklets. There is no state between steps: a restarted run, a
worker process or another machine computes the same batch from the same integers, in O(P * K).

The global batch is drawn first and split afterwards: process `rank` of `world` takes P / world identities, all their
tracklets with them. So the number of processes never changes what is learned from in an iteration.

Identities come from a shuffled order that is cut into batches; the order is drawn anew when it is used up, so within
one order nobody appears twice, and over time all appear equally often.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.data.manifest import Manifest
from reid.types import Modality, Role

Integers = NDArray[np.int64]


class _Purpose(IntEnum):
    """What random numbers are for. Each purpose has a stream of its own, so none disturbs another."""

    IDENTITIES = 0
    TRACKLETS = 1
    CLIP = 2


def _generator(seed: int, purpose: _Purpose, step: int, position: int = 0) -> np.random.Generator:
    """A counter-based generator: no two (seed, purpose, step, position) share a number."""
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, 0, position, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def clip_generator(seed: int, step: int, position: int) -> np.random.Generator:
    """The random numbers of one clip: its frames and its augmentation.

    `position` counts the clips of the global batch, so the numbers depend neither on processes nor on workers.
    """
    return _generator(seed, _Purpose.CLIP, step, position)


class Batch(NamedTuple):
    """The pairs of tracklets that one process sees in one iteration, B of them.

    `visible` and `infrared` are rows of the manifest (B,), `identity` is 0..M-1 (B,); entry i of all three belongs
    together. Identities lie in runs of K. `first` is the place of entry 0 in the global batch.
    """

    visible: Integers
    infrared: Integers
    identity: Integers
    first: int


class BatchPlan:
    """P identities x K tracklets per modality in every iteration, for all processes together.

    `label` gives the identity 0..M-1 of every row of the manifest; `visible` and `infrared` are the rows to draw from.
    An identity without a row in both modalities can never be paired: it is listed in `left_out` and never drawn.
    K tracklets are distinct where an identity has K of them, else drawn with replacement.

    Raises ValueError if fewer than P identities can be paired, or a row has no label.
    """

    def __init__(
        self,
        label: NDArray[np.integer],
        visible: Integers,
        infrared: Integers,
        *,
        num_identities: int = 8,
        num_tracklets: int = 2,
        seed: int = 0,
    ) -> None:
        if num_identities < 1 or num_tracklets < 1:
            raise ValueError(
                f"A batch needs at least one identity and one tracklet, not {num_identities} x {num_tracklets}."
            )
        if not 0 <= seed < 2**63:
            raise ValueError(f"The seed must be in 0..2^63-1, not {seed}.")
        self.num_identities = num_identities
        self.num_tracklets = num_tracklets
        self.seed = seed
        labels = [np.asarray(label[rows], dtype=np.int64) for rows in (visible, infrared)]
        if any(of_modality.size and of_modality.min() < 0 for of_modality in labels):
            raise ValueError(
                "Only rows of the training split have a label; rows of the test split were given."
            )
        size = 1 + max((int(of_modality.max()) for of_modality in labels if of_modality.size), default=-1)
        self._groups = [
            _group(rows, of_modality, size)
            for rows, of_modality in zip((visible, infrared), labels, strict=True)
        ]
        counts = np.stack([group.counts for group in self._groups])
        paired = (counts > 0).all(axis=0)
        self.identities: Integers = np.flatnonzero(paired)
        self.left_out: Integers = np.flatnonzero(counts.any(axis=0) & ~paired)
        if self.identities.size < num_identities:
            raise ValueError(
                f"A batch takes {num_identities} identities with tracklets in both modalities, but there are "
                f"{self.identities.size} (and {self.left_out.size} with one modality only). Lower the number of "
                "identities of a batch or the minimum number of frames, or use more data."
            )
        self._order: tuple[int, Integers] = (-1, self.identities)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        num_identities: int = 8,
        num_tracklets: int = 2,
        minimum_frames: int | None = None,
        seed: int = 0,
    ) -> "BatchPlan":
        """The plan over the training rows of a packed data set that have at least `minimum_frames` frames."""
        visible, infrared = (
            manifest.rows(Role.TRAIN, modality, minimum_frames)
            for modality in (Modality.VISIBLE, Modality.INFRARED)
        )
        return cls(
            manifest.label,
            visible,
            infrared,
            num_identities=num_identities,
            num_tracklets=num_tracklets,
            seed=seed,
        )

    @property
    def num_pairs(self) -> int:
        """Pairs of clips in the global batch: P * K."""
        return self.num_identities * self.num_tracklets

    def pairs_per_process(self, world: int) -> int:
        """B, the pairs that each of `world` processes takes. ValueError if the identities cannot be split evenly."""
        if world < 1 or self.num_identities % world:
            divisors = [n for n in range(1, self.num_identities + 1) if self.num_identities % n == 0]
            raise ValueError(
                f"{self.num_identities} identities of a batch cannot be split evenly over {world} processes. Start "
                f"one of {divisors} processes, or make the number of identities a multiple of {world}."
            )
        return self.num_pairs // world

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The share of process `rank` in the global batch of iteration `step`."""
        size = self.pairs_per_process(world)
        if not 0 <= rank < world or step < 0:
            raise ValueError(f"There is no step {step} of process {rank} of {world}.")
        chosen = self._identities(step)  # (P,)
        uniform = _generator(self.seed, _Purpose.TRACKLETS, step).random((2, chosen.size, self.num_tracklets))
        mine = slice(rank * size, (rank + 1) * size)
        visible, infrared = (
            group.draw(chosen, numbers).ravel()[mine]  # (P, K) -> (P*K,) -> (B,)
            for group, numbers in zip(self._groups, uniform, strict=True)
        )
        return Batch(visible, infrared, np.repeat(chosen, self.num_tracklets)[mine], mine.start)

    def _identities(self, step: int) -> Integers:
        """The P distinct identities of a step: the next piece of a shuffled order of all.

        What remains of an order after whole batches is left for the next, differently shuffled, one.
        """
        cycle, place = divmod(step, self.identities.size // self.num_identities)
        if self._order[0] != cycle:
            shuffled = _generator(self.seed, _Purpose.IDENTITIES, cycle).permutation(self.identities)
            self._order = (cycle, shuffled)
        return self._order[1][place * self.num_identities : (place + 1) * self.num_identities]


class _Groups(NamedTuple):
    """The rows of one modality, sorted by identity: those of identity i are `rows[starts[i] : starts[i] + counts[i]]`."""

    rows: Integers
    starts: Integers
    counts: Integers

    def draw(self, identities: Integers, uniform: NDArray[np.float64]) -> Integers:
        """Rows (P, K) of the identities (P,), by uniform numbers in [0, 1) (P, K)."""
        counts = self.counts[identities]
        num_tracklets = uniform.shape[1]
        distinct = counts >= num_tracklets
        chosen = np.empty(uniform.shape, dtype=np.int64)
        for k in range(num_tracklets):
            pick = (uniform[:, k] * (counts - k * distinct)).astype(np.int64)
            for earlier in np.sort(chosen[:, :k], axis=1).T:
                pick += distinct & (pick >= earlier)  # step over what is taken, from the lowest up
            chosen[:, k] = pick
        rows: Integers = self.rows[self.starts[identities, None] + chosen]
        return rows


def _group(rows: Integers, labels: Integers, size: int) -> _Groups:
    """Group rows by label 0..size-1; within a group they keep their order."""
    counts = np.bincount(labels, minlength=size)
    order = np.argsort(labels, kind="stable")
    return _Groups(np.asarray(rows, dtype=np.int64)[order], np.cumsum(counts) - counts, counts)
