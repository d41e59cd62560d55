"""The folder in which a pack grows until it is a data set, shared by all processes that write it.

    OUT.partial/plan.json   which pack is under way here
    OUT.partial/lock        held by everybody who writes, together; by whoever seals, alone
    OUT.partial/packed/     what becomes OUT, by one rename

A folder of that name that holds anything else is somebody's: it is refused, and nothing but our own files is ever removed.
The kernel takes a lock back when its process dies, and on a network disk it holds between machines. A disk that has no
locks says so, which is told: then nobody but the user keeps two sealers apart.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preprocess.publish import TEMPORARY, sync, write_whole
from reid.data.description import sealed, unsealed

log = logging.getLogger(__name__)


class Stage:
    """Where `out` is made. `content` is what it will hold."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self.content = self.folder / "packed"
        self._plan = self.folder / "plan.json"
        self._lock = self.folder / "lock"

    @contextmanager
    def shared(self) -> Iterator[None]:
        """For everybody who writes shards. Makes the folder if it is not there."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For whoever seals: waits until nobody writes."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def claim(self, identifier: str) -> None:
        """Say which pack grows here. Raises ValueError if it is another one. To be called while nobody seals."""
        if not self._plan.exists():
            write_whole(self._plan, sealed(json.dumps({"id": identifier})))
        try:
            found = str(unsealed(self._plan.read_bytes())["id"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._plan}: does not say which pack this is ({error}). Remove it: the same command makes it again, "
                "and keeps what is finished."
            ) from error
        if found != identifier:
            raise ValueError(
                f"{self.folder} holds an unfinished pack of another tree, with other options or other libraries "
                f"({found[:12]}, this one is {identifier[:12]}). Finish that one, or remove {self.folder}."
            )

    def publish(self) -> None:
        """Make the content appear as `out`. To be called alone."""
        self.content.rename(self.out)
        sync(self.out.parent)

    def discard(self) -> None:
        """Remove what is left of the folder once its content has become `out`."""
        if self.content.exists() or self._strangers():
            return
        with suppress(OSError):  # somebody has just come, who will do it
            for path in (*self.folder.glob(f"{TEMPORARY}*-{self._plan.name}"), self._plan, self._lock):
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        descriptor = self._take(kind)
        while not self._is_current(descriptor):  # whoever had it before has published all, and removed it
            os.close(descriptor)
            descriptor = self._take(kind)
        try:
            yield
        finally:
            os.close(descriptor)

    def _take(self, kind: int) -> int:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            if strangers := self._strangers():
                raise ValueError(
                    f"{self.folder}, where {self.out} would grow, holds {strangers[0]!r}, which no pack made. Move that folder, or "
                    "name another OUT."
                )
            try:
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                break
            except FileNotFoundError:  # it was published in this moment
                continue
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for others who are at work in %s", self.folder)
            fcntl.flock(descriptor, kind)
        except OSError as error:
            log.warning(
                "%s: this disk has no locks (%s). See to it that no part is being written, and nobody else seals, while "
                "this pack is sealed.",
                self._lock,
                error.strerror,
            )
        return descriptor

    def _strangers(self) -> list[str]:
        """What else lies in the folder, hidden files left aside."""
        ours = {path.name for path in (self._plan, self._lock, self.content)}
        try:
            names = {path.name for path in self.folder.iterdir()}
        except FileNotFoundError:  # it was published in this moment
            return []
        return sorted(name for name in names - ours if not name.startswith("."))

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock.stat())
        except FileNotFoundError:
            return False
