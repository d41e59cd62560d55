"""The folder in which a pack grows: one sealer at a time, and never beside a writer."""

import fcntl
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from preprocess import seal
from preprocess.options import Options
from preprocess.pack import Part, pack
from preprocess.progress import Progress, Show
from preprocess.verify import verify
from reid.data.description import sealed

SMALL_SHARDS = Options(shard_mebibytes=1)
FORK = multiprocessing.get_context("fork")


def run(work: Callable[[], object]) -> multiprocessing.context.ForkProcess:
    process = FORK.Process(target=work)
    process.start()
    return process


def waiting_at(unit: str, arrived: Path, go_on: Path) -> Show:
    """Progress that stands still, once, until a file is there."""

    def show(title: str, its_unit: str) -> AbstractContextManager[Progress]:
        def progress(done: int, total: int) -> None:
            if its_unit == unit and not arrived.exists():
                arrived.touch()
                wait_for(go_on)

        return nullcontext(progress)

    return show


def wait_for(file: Path) -> None:
    give_up = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def ended(process: multiprocessing.context.ForkProcess) -> int | None:
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("seal_only", [False, True])
def test_who_comes_while_another_one_seals_waits_and_finds_it_done(
    heavy, reference, contents, tmp_path, seal_only
):
    out, arrived, go_on = tmp_path / "packed", tmp_path / "arrived", tmp_path / "go-on"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    first = run(
        lambda: pack(heavy, out, SMALL_SHARDS, seal_only=True, show=waiting_at("shards", arrived, go_on))
    )
    wait_for(arrived)
    second = run(lambda: pack(heavy, out, SMALL_SHARDS, seal_only=seal_only))
    time.sleep(1)
    assert second.is_alive()
    go_on.touch()
    assert [ended(first), ended(second)] == [0, 0]
    assert contents(out) == reference
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_packs_and_seals_that_begin_at_once_all_end_well_with_one_sound_data_set(
    heavy, reference, contents, tmp_path
):
    for turn in range(10):
        out = tmp_path / str(turn)
        if turn % 2:
            pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
        start = FORK.Barrier(3)

        def work(out: Path = out, turn: int = turn, start: object = start) -> None:
            start.wait()
            pack(heavy, out, SMALL_SHARDS, seal_only=bool(turn % 2))

        assert [ended(process) for process in [run(work) for _ in range(3)]] == [0, 0, 0]
        assert contents(out) == reference
        assert verify(out).damages == []
    assert not list(tmp_path.glob("*.partial"))


def test_a_seal_that_comes_too_early_disturbs_no_part(heavy, reference, contents, tmp_path):
    out, arrived, go_on = tmp_path / "packed", tmp_path / "arrived", tmp_path / "go-on"
    part = run(
        lambda: pack(heavy, out, SMALL_SHARDS, part=Part(1, 2), show=waiting_at("frames", arrived, go_on))
    )
    wait_for(arrived)
    under_way = list((tmp_path / "packed.partial").rglob(".tmp-*"))
    assert under_way
    with pytest.raises(ValueError, match="are not written yet"):
        pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert all(path.exists() for path in under_way)
    go_on.touch()
    assert ended(part) == 0
    pack(heavy, out, SMALL_SHARDS, part=Part(2, 2))
    pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert contents(out) == reference


def test_a_seal_of_nothing_leaves_nothing(heavy, tmp_path):
    with pytest.raises(ValueError, match="are not written yet"):
        pack(heavy, tmp_path / "packed", SMALL_SHARDS, seal_only=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_packed_before", [False, True])
def test_a_folder_of_that_name_that_is_somebody_elses_is_refused_and_never_removed(
    heavy, tmp_path, is_packed_before
):
    out, theirs = tmp_path / "packed", tmp_path / "packed.partial/thesis.txt"
    if is_packed_before:
        pack(heavy, out, SMALL_SHARDS)
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    if is_packed_before:
        assert pack(heavy, out, SMALL_SHARDS).shards_written == 0
    else:
        with pytest.raises(
            ValueError, match=r"packed\.partial, where .* holds 'thesis\.txt', which no pack made"
        ):
            pack(heavy, out, SMALL_SHARDS)
    assert theirs.read_text() == "years of work"
    assert list(theirs.parent.iterdir()) == [theirs]


def test_a_tree_is_not_removed_because_it_is_called_like_an_unfinished_pack(raw, tmp_path):
    source = raw.rename(tmp_path / "packed.partial")
    before = sorted(source.rglob("*"))
    with pytest.raises(ValueError, match="which no pack made"):
        pack(source, tmp_path / "packed", SMALL_SHARDS)
    assert sorted(source.rglob("*")) == before


@pytest.mark.parametrize("place", ["notes.txt", "shards/notes.txt", "manifest/notes.txt", "more/notes.txt"])
def test_what_no_pack_made_is_neither_published_nor_removed(heavy, reference, contents, tmp_path, place):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    theirs = tmp_path / "packed.partial/packed" / place
    theirs.parent.mkdir(exist_ok=True)
    theirs.touch()
    with pytest.raises(ValueError, match=f"{theirs}: no pack made this"):
        pack(heavy, out, SMALL_SHARDS, seal_only=True)
    theirs.rename(tmp_path / "notes.txt")
    pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert contents(out) == reference


def test_a_description_that_no_reader_would_open_is_not_published(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "LARGEST_DESCRIPTION", 100)
    with pytest.raises(
        ValueError, match=r"dataset\.json would have .* bytes, and more than 100 are never read"
    ):
        pack(raw, tmp_path / "packed", SMALL_SHARDS)
    assert not (tmp_path / "packed").exists()


def test_shards_of_an_earlier_cut_are_removed(heavy, reference, contents, tmp_path):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    for suffix in ("tar", "json"):
        (tmp_path / f"packed.partial/packed/shards/vcm-train-000000-of-000099.{suffix}").touch()
    pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert contents(out) == reference


def test_what_killed_writers_left_is_not_sealed(heavy, reference, contents, tmp_path):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    for folder in ("shards", "manifest"):
        lost = tmp_path / "packed.partial/packed" / folder / ".tmp-host-17-lost"
        lost.parent.mkdir(exist_ok=True)
        lost.touch()
    pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert contents(out) == reference


def test_a_disk_without_locks_is_told_and_used(heavy, reference, contents, tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        pack(heavy, tmp_path / "packed", SMALL_SHARDS)
    assert (
        "this disk has no locks (No locks available). See to it that no part is being written" in caplog.text
    )
    assert contents(tmp_path / "packed") == reference


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", sealed(json.dumps({"id": 7}))[:-9]])
def test_a_damaged_plan_is_named_with_the_remedy_which_keeps_what_is_finished(
    heavy, reference, contents, tmp_path, content
):
    out, plan = tmp_path / "packed", tmp_path / "packed.partial/plan.json"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 2))
    plan.write_bytes(content)
    with pytest.raises(ValueError, match=f"{plan}: does not say which pack this is .* Remove it"):
        pack(heavy, out, SMALL_SHARDS)
    plan.unlink()
    assert pack(heavy, out, SMALL_SHARDS).shards_kept >= 2
    assert contents(out) == reference


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "no object", "more"])
def test_a_shard_whose_sidecar_is_damaged_is_written_anew(heavy, reference, contents, tmp_path, damage):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    sidecar = min((tmp_path / "packed.partial/packed/shards").glob("*.json"))
    data = sidecar.read_bytes()
    sidecar.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "changed": data.replace(b'"camera":2', b'"camera":3', 1),
            "no object": sealed("[1]"),
            "more": data + b"{}",
        }[damage]
    )
    assert pack(heavy, out, SMALL_SHARDS).shards_written == 1
    assert contents(out) == reference
