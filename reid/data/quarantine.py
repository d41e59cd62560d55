"""Damaged frames that a training run has met and gone on without: each told, and no more than it was allowed.

    ClipReader   the nearest sound frame of the tracklet stands in for a damaged one -> damage
    Stream       Quarantine.admit, when the batch is asked for: known, or told and counted, or one too many and raised
    Engine       Quarantine.unite, with what other processes and the run before a restart have met

What stands in for a frame follows from the bytes of its tracklet, never from what is known here. So a batch is the same
for any number of workers and processes and after any restart, and a frame that is drawn a hundred times counts once.
"""

import logging
from collections.abc import Iterable
from typing import Any

from reid.data.shards import DamagedFrameError

log = logging.getLogger(__name__)


class Quarantine:
    """The damaged frames of a run, at most `most` of them. With 0, the first one is raised as it is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[tuple[str, int], DamagedFrameError] = {}

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, damage: Iterable[DamagedFrameError]) -> None:
        """Take in what was met while a batch was made. Raises the DamagedFrameError that is one too many."""
        for each in damage:
            if self._take_in(each):
                log.error("%s The sound frame next to it is used. Damaged frames: %d", each, len(self))

    def state(self) -> list[Any]:
        """The frames in quarantine, as JSON types."""
        return [[str(each.shard), *each.args[1:]] for each in self._known.values()]

    def unite(self, states: Iterable[list[Any]]) -> None:
        """Take in what others have met and told, by their `state`. Raises the DamagedFrameError that is one too many."""
        for state in states:
            for each in state:
                self._take_in(DamagedFrameError(*each))

    def _take_in(self, damage: DamagedFrameError) -> bool:
        """Whether the frame was not known before."""
        frame = damage.key, damage.offset
        if frame in self._known:
            return False
        if len(self) >= self._most:
            raise damage if self._most == 0 else self._one_too_many(damage)
        self._known[frame] = damage
        return True

    def _one_too_many(self, damage: DamagedFrameError) -> DamagedFrameError:
        reason = f"{damage.reason}; {self._most} other damaged frames are in quarantine, and data.quarantine_frames allows no more"
        return DamagedFrameError(damage.shard, damage.key, damage.offset, reason, damage.remedy)
