"""Copies of shards: made once a machine, checked, safe with several processes and kills."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from reid.data import cache as cache_module
from reid.data.cache import BadCopyError, ShardCache
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader


@pytest.fixture
def remote(painted_root, tmp_path) -> Manifest:
    """A copy of the data set that plays the shared disk."""
    manifest = Manifest.open(Path(shutil.copytree(painted_root, tmp_path / "remote")))
    for shard in manifest.shards:
        shard.path.chmod(0o644)
    return manifest


def test_frames_come_from_the_copy_once_it_is_there(remote, tmp_path):
    reader = ShardReader(remote, ShardCache(tmp_path / "local"))
    expected = ShardReader(remote).read(0, range(12))
    assert reader.read(0, range(12)) == expected
    reader.close()
    for shard in remote.shards:
        shard.path.unlink()
    assert reader.read(0, range(12)) == expected
    assert [path.name for path in (tmp_path / "local").glob("*.tar")] == [f"{remote.shards[0].sha256}.tar"]
    reader.close()


def test_a_damaged_source_is_never_published_in_the_cache(remote, tmp_path):
    data = bytearray(remote.shards[0].path.read_bytes())
    data[5_000] ^= 1
    remote.shards[0].path.write_bytes(data)
    with pytest.raises(BadCopyError, match="its sha256 is not the one in the manifest"):
        ShardCache(tmp_path / "local").local(remote.shards[0])
    assert not list((tmp_path / "local").glob("*.tar"))
    assert not list((tmp_path / "local").glob("*.partial"))


def test_a_copy_that_was_cut_or_removed_is_made_again(remote, tmp_path):
    cache = ShardCache(tmp_path / "local")
    copy = cache.local(remote.shards[0])
    copy.write_bytes(copy.read_bytes()[:1_000])
    assert cache.local(remote.shards[0]).read_bytes() == remote.shards[0].path.read_bytes()
    copy.unlink()
    assert cache.local(remote.shards[0]).read_bytes() == remote.shards[0].path.read_bytes()


def ask(remote: Manifest, folder: Path, queue: "multiprocessing.SimpleQueue[int]") -> None:
    before = cache_module._copy
    copies = 0

    def counted(*arguments: object) -> None:
        nonlocal copies
        copies += 1
        time.sleep(0.2)
        before(*arguments)

    cache_module._copy = counted
    for shard in remote.shards:
        assert ShardCache(folder).local(shard).stat().st_size == shard.nbytes
    queue.put(copies)


def test_processes_that_ask_at_once_copy_each_shard_once(remote, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=ask, args=(remote, tmp_path / "local", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    assert sum(queue.get() for _ in processes) == len(remote.shards)
    for process in processes:
        process.join()


def die_while_copying(remote: Manifest, folder: Path) -> None:
    cache_module.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    ShardCache(folder).local(remote.shards[0])


def test_a_process_killed_while_it_copies_holds_nobody_up(remote, tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=die_while_copying, args=(remote, tmp_path / "local")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list((tmp_path / "local").glob("*.tar"))
    copy = ShardCache(tmp_path / "local").local(remote.shards[0])
    assert copy.read_bytes() == remote.shards[0].path.read_bytes()
    assert not list((tmp_path / "local").glob("*.partial"))
