"""Copies of shards on this machine: whole or absent, made once, bounded, and never in the way."""

import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reid.data import cache
from reid.data.cache import GIGABYTE, CachedSource, ShardCache
from reid.data.dataset import open_dataset
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError, ShardReader
from reid.data.sources import LocalFolder, SourceError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def remote(painted_root, tmp_path) -> Manifest:
    """A copy of the data set that plays the shared disk."""
    manifest = Manifest.open(Path(shutil.copytree(painted_root, tmp_path / "remote")))
    for shard in manifest.shards:
        shard.path.chmod(0o644)
    return manifest


@pytest.fixture
def local(tmp_path) -> Path:
    return tmp_path / "local"


def cached(remote: Manifest, folder: Path, gigabytes: float = 1.0) -> ShardReader:
    return ShardReader(open_dataset(str(remote.root), folder, gigabytes))


def copies(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.tar")}


def room_for(*numbers: int, manifest: Manifest) -> float:
    """Gigabytes that hold these shards, and not one more."""
    return (sum(manifest.shards[number].nbytes for number in numbers) + 512) / GIGABYTE


def fetch(remote: Manifest, folder: Path, number: int = 0, source: LocalFolder | None = None) -> Path:
    shard = remote.shards[number]
    copy = ShardCache(folder, 1.0).open(
        f"shards/{shard.path.name}", shard.nbytes, shard.sha256, source or LocalFolder(remote.root)
    )
    assert copy is not None
    copy.close()
    return copy.place


def test_frames_come_from_the_copy_once_it_is_there(remote, local):
    reader = cached(remote, local)
    expected = ShardReader(remote).read(0, range(12))
    assert reader.read(0, range(12)) == expected
    reader.close()
    for shard in remote.shards:
        shard.path.unlink()
    assert reader.read(0, range(12)) == expected
    assert copies(local) == {remote.shards[0].sha256}
    reader.close()


def test_a_damaged_source_is_never_published_in_the_cache(remote, local):
    data = bytearray(remote.shards[0].path.read_bytes())
    data[5_000] ^= 1
    remote.shards[0].path.write_bytes(data)
    with pytest.raises(
        DamagedShardError, match=f"{remote.shards[0].path}: .* sha256 is not the recorded one"
    ):
        cached(remote, local).read(0, [0])
    assert [path.name for path in local.iterdir()] == ["lock"]


def test_a_source_that_grew_is_not_copied_to_its_end(remote, local):
    with remote.shards[0].path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedShardError, match="but the file goes on"):
        cached(remote, local).read(0, [0])


def test_a_copy_that_was_cut_or_removed_is_made_again(remote, local):
    copy = fetch(remote, local)
    copy.write_bytes(copy.read_bytes()[:1_000])
    assert fetch(remote, local).read_bytes() == remote.shards[0].path.read_bytes()
    copy.unlink()
    assert fetch(remote, local).read_bytes() == remote.shards[0].path.read_bytes()


def test_a_copy_whose_bytes_changed_is_named_with_what_to_do(remote, local):
    copy = fetch(remote, local)
    data = bytearray(copy.read_bytes())
    place = int(remote.frames(0).offset[0]) + 300
    data[place] ^= 1
    copy.write_bytes(data)
    with pytest.raises(DamagedShardError, match=f"{copy}: .*checksum of frame 0 .* It is a copy: remove it"):
        cached(remote, local).read(0, [0])


class Counted(LocalFolder):
    """Notes each copy in a file that processes share, and takes its time."""

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        with (self.place / "copied").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        return super().pieces(name, most)


def test_processes_that_ask_at_once_copy_each_shard_once(remote, local):
    def ask() -> None:
        for number in range(len(remote.shards)):
            fetch(remote, local, number, Counted(remote.root))

    assert run_in_processes(ask, 4) == [0] * 4
    assert (remote.root / "copied").read_text() == "x" * len(remote.shards)


def test_different_shards_are_copied_side_by_side(remote, local):
    """Each copy waits until the other one is under way."""
    meeting = FORK.Barrier(2)

    class Meeting(LocalFolder):
        def pieces(self, name: str, most: int) -> Iterator[bytes]:
            meeting.wait(30)
            return super().pieces(name, most)

    processes = [
        FORK.Process(target=fetch, args=(remote, local, number, Meeting(remote.root))) for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert copies(local) == {shard.sha256 for shard in remote.shards}


def test_room_is_kept_for_a_copy_that_is_being_made(remote, local):
    class Other(LocalFolder):
        """Asks for another shard, for which there is no room, while this one is copied."""

        def pieces(self, name: str, most: int) -> Iterator[bytes]:
            shard = remote.shards[1]
            cache = ShardCache(local, room_for(0, manifest=remote))
            refused = cache.open(
                f"shards/{shard.path.name}", shard.nbytes, shard.sha256, LocalFolder(remote.root)
            )
            assert refused is None
            return super().pieces(name, most)

    shard = remote.shards[0]
    copy = ShardCache(local, room_for(0, manifest=remote)).open(
        f"shards/{shard.path.name}", shard.nbytes, shard.sha256, Other(remote.root)
    )
    assert copy is not None
    copy.close()
    assert copies(local) == {shard.sha256}


def test_what_is_not_a_copy_is_neither_counted_nor_removed(remote, local):
    local.mkdir(mode=0o700)
    mine = [local / "thesis.tar", local / "notes.partial"]
    for path in mine:
        path.write_bytes(bytes(1_000_000))
    fetch(remote, local)
    assert cached(remote, local, room_for(0, manifest=remote)).read(0, [0])
    assert all(path.exists() for path in mine)
    assert remote.shards[0].sha256 in copies(local)


def run_in_processes(function: Callable[..., None], number: int, *arguments: object) -> list[int | None]:
    """The exit codes of as many processes, all at once."""
    processes = [FORK.Process(target=function, args=arguments) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


class Deadly(LocalFolder):
    """Kills its process when the copy is nearly there."""

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        yield (self.place / name).read_bytes()[:1_000]
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_while_it_copies_holds_nobody_up_and_leaves_nothing(remote, local):
    assert run_in_processes(fetch, 1, remote, local, 0, Deadly(remote.root)) == [-signal.SIGKILL]
    assert [path.suffix for path in local.glob("*.*")] == [".partial"]
    assert fetch(remote, local).read_bytes() == remote.shards[0].path.read_bytes()
    assert copies(local) == {remote.shards[0].sha256}
    assert not list(local.glob("*.partial"))


def test_who_comes_while_a_copy_is_given_up_makes_it(remote, local, monkeypatch):
    """Between the opening of an unfinished copy and its lock, whoever made it fails, and removes it."""
    lock, begun = cache._lock, []

    def lock_late(descriptor: int, kind: int) -> bool:
        if kind == fcntl.LOCK_EX and not begun:
            begun.append(descriptor)
            next(local.glob("*.partial")).unlink()
        return lock(descriptor, kind)

    monkeypatch.setattr(cache, "_lock", lock_late)
    assert fetch(remote, local).read_bytes() == remote.shards[0].path.read_bytes()
    assert begun
    assert not list(local.glob("*.partial"))


def last_row(manifest: Manifest) -> int:
    """A tracklet of the last shard."""
    return len(manifest) - 1


def test_the_least_recently_used_copy_makes_room(remote, local):
    first, last = remote.shards[0], remote.shards[-1]
    assert first.sha256 != last.sha256
    gigabytes = room_for(0, manifest=remote) if first.nbytes >= last.nbytes else room_for(-1, manifest=remote)
    for row, shard in ((0, first), (last_row(remote), last), (0, first)):
        reader = cached(remote, local, gigabytes)
        assert reader.read(row, [0]) == ShardReader(remote).read(row, [0])
        reader.close()
        assert copies(local) == {shard.sha256}


@pytest.mark.parametrize("other_is_older", [True, False])
def test_of_two_copies_the_one_that_was_used_longer_ago_goes(remote, local, other_is_older):
    kept = fetch(remote, local, 1)
    other = local / f"{'0' * 64}.tar"
    other.write_bytes(bytes(remote.shards[1].nbytes))
    now = time.time()
    os.utime(other, (now, now + (-60 if other_is_older else 60)))
    reader = cached(remote, local, room_for(0, 1, manifest=remote))
    reader.read(0, [0])
    reader.close()
    assert copies(local) == {remote.shards[0].sha256, (kept if other_is_older else other).stem}


def test_what_is_in_use_stays_and_the_rest_is_read_from_its_source(remote, local, caplog):
    gigabytes = room_for(0, manifest=remote)
    reader = cached(remote, local, gigabytes)
    reader.read(0, [0])
    other = cached(remote, local, gigabytes)
    row = last_row(remote)
    assert other.read(row, [0]) == ShardReader(remote).read(row, [0])
    assert copies(local) == {remote.shards[0].sha256}
    assert f"{local}: full of shards that are in use" in caplog.text
    reader.close()
    other.close()


def test_a_shard_that_is_larger_than_the_cache_removes_nothing(remote, local):
    kept = fetch(remote, local, 1)
    assert cached(remote, local, 1e-6).read(0, [0]) == ShardReader(remote).read(0, [0])
    assert kept.exists()


@pytest.mark.slow
def test_many_processes_in_a_small_cache_read_true_bytes_and_stay_within_its_bound(remote, local):
    bound = max(shard.nbytes for shard in remote.shards) + 512
    expected = {row: ShardReader(remote).read(row, [0]) for row in (0, last_row(remote))}

    def read(seed: int) -> None:
        for turn in range(150):
            row = list(expected)[(turn + seed) % 2]
            reader = cached(remote, local, bound / GIGABYTE)
            assert reader.read(row, [0]) == expected[row]
            reader.close()

    watcher = ShardCache(local, 1.0)
    processes = [FORK.Process(target=read, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    held = []
    while any(process.is_alive() for process in processes):
        with watcher._locked():
            held.append(sum(map(size_of, local.iterdir())))
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0 < max(held) <= bound


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a copy that was given up
        return 0


def test_a_full_disk_is_an_error_that_says_so(remote, local):
    def copy_in_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(SourceError, match=r"cannot be copied to .*: File too large. Free space there"):
            fetch(remote, local)

    assert run_in_processes(copy_in_little_room, 1) == [0]
    assert copies(local) == set()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(
            ValueError, match=f"^{folder}: the folder for copies .* Name another one, on a fast disk"
        ):
            ShardCache(folder, 1.0)


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, mode):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(ValueError, match="nobody else may write to it"):
        ShardCache(tmp_path / "open", 1.0)


def test_a_cached_source_says_where_the_data_set_really_is(remote, local):
    source = CachedSource(LocalFolder(remote.root), ShardCache(local, 1.0))
    assert source.place == remote.root
    assert open_dataset(str(remote.root), local).place == remote.root
