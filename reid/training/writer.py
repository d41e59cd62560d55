"""Publishes checkpoints beside the training.

    begin(snapshot, told) -> a thread: checkpoint.publish, checkpoint.prune -> settle(): told(path), where settle is called

One snapshot is on its way at most: the next one, and the end, wait for it.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from reid.training import checkpoint
from reid.training.checkpoint import Snapshot

log = logging.getLogger(__name__)


class Writer:
    """Writes snapshots below `folder` and keeps the newest `keep`. Use it in a `with`, whose end waits for the last.

    Every method raises what went wrong with a snapshot begun before: OSError for a disk that is full or broken.
    `published_at` is when the newest checkpoint was found to be published, in seconds since 1970.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: _Pending | None = None
        self.published_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        except OSError as failure:
            if kind is None:
                raise
            log.error("%s", failure)  # noqa: TRY400  (what ended the block is told after it)
        finally:
            self._pool.shutdown()

    def begin(self, snapshot: Snapshot, told: Callable[[Path], None]) -> None:
        """Copy a snapshot and write it. `told` is called by a later `settle` or `finish`, once it is published."""
        self.finish()
        self._pending = _Pending(self._pool.submit(self._publish, snapshot.copied()), told)

    def settle(self) -> None:
        """Tell of the snapshot that was begun, if it is published by now. Never waits."""
        if self._pending is not None and self._pending.path.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the snapshot that was begun, if any, and tell of it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            path = pending.path.result()
            self.published_at = time.time()
            pending.told(path)

    def _publish(self, snapshot: Snapshot) -> Path:
        path = checkpoint.publish(self._folder, snapshot)
        checkpoint.prune(self._folder, self._keep)
        return path


class _Pending(NamedTuple):
    path: Future[Path]
    told: Callable[[Path], None]
