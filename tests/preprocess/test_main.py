"""The commands as a user calls them: results, exit codes, messages, interruptions."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preprocess.__main__ import COMMANDS, main


@pytest.fixture
def packed(raw, tmp_path) -> Path:
    assert main(["pack", str(raw), str(tmp_path / "packed")]) == 0
    return tmp_path / "packed"


def test_each_command_is_listed_with_what_it_does(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("synthesize", "pack", "verify", "inspect"))


def test_an_unknown_command_is_a_mistake_of_the_user(capsys):
    assert main(["pakc"]) == 2
    assert "there is no command 'pakc'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS]])
def test_help_loads_no_heavy_library(command):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['preprocess', *{command!r}, '--help']\n"
        "try:\n    runpy.run_module('preprocess', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'webdataset', 'pyarrow', 'numpy', 'PIL', 'simplejpeg', 'rich'} & set(sys.modules)\n"
        "print(*heavy, file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "usage" in ran.stdout
    assert ran.stderr.split() == []


def test_synthesize_pack_verify_and_inspect_follow_each_other(tmp_path, capsys):
    raw, out = str(tmp_path / "raw"), str(tmp_path / "packed")
    assert main(["synthesize", raw, "--num-identities", "4", "--tracklets-per-modality", "2", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["pack", raw, out, "--mode", "resize", "--size", "32x16", "--quality", "80", "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    assert packed["sealed"] is True
    assert packed["description"]["counts"]["frames"] == made["frames"]
    assert packed["backend"]["version"]
    assert main(["verify", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == made["frames"]
    assert main(["inspect", out, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["synthetic"] is True
    assert shown["sizes"] == {"32x16": made["tracklets"]}
    assert shown["minimum_frames"] == 12


def test_pack_says_layout_differences_and_sums(raw, tmp_path, capsys):
    assert main(["pack", str(raw), str(tmp_path / "packed")]) == 0
    said = capsys.readouterr().out
    assert "layout: identities and index files in the root" in said
    assert "train infrared tracklets: 4,919 published, 6 found" in said
    assert "5 identities, 20 tracklets, 190 frames in 2 shards" in said
    identifier = hashlib.sha256((tmp_path / "packed/dataset.json").read_bytes()).hexdigest()
    assert f"data set id {identifier}" in said
    for command in ("verify", "inspect"):
        assert main([command, str(tmp_path / "packed")]) == 0
        assert f"data set id {identifier}" in capsys.readouterr().out


def test_inspect_prints_the_camera_table(packed, capsys):
    capsys.readouterr()
    assert main(["inspect", str(packed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    assert ["1", "0", "10"] in table
    assert ["2", "10", "0"] in table
    assert ["train", "infrared", "3", "6", "3", "57"] in table


def test_pack_and_inspect_say_what_was_left_out(raw, tmp_path, capsys, edit):
    edit(raw / "track_train_info.txt", 1, "1 1 14 0001 2")
    edit(raw / "train_name.txt", 14, "0001M1D4T9F99.jpg")
    edit(raw / "train_name.txt", 13, "0002M1D2T9F99.jpg")
    (raw / "0001/ir/D4").mkdir()
    shutil.copy(raw / "0001/ir/D2/1.jpg", raw / "0001/ir/D4/99.jpg")
    for frame in range(1, 15):
        (raw / f"0003/ir/D2/{frame}.jpg").unlink()
    out = str(tmp_path / "packed")
    assert main(["pack", str(raw), out, "--mixed", "split", "--bad-frames", "skip"]) == 0
    told = capsys.readouterr().out
    assert main(["inspect", out]) == 0
    for said in (told, capsys.readouterr().out):
        assert "its 14 frames became tracklets of 12 and 1; left out: 0002/ir/D2/99.jpg" in said
        assert "0003/ir/D2/14.jpg: No such file or directory" in said
        assert "track_test_info.txt:1 (query, test/00003/infrared-c02-000001): none of its 14 frames" in said


def test_parts_are_written_and_sealed_from_the_command_line(raw, tmp_path, capsys):
    out = str(tmp_path / "packed")
    for part in ("1/2", "2/2"):
        assert main(["pack", str(raw), out, "--part", part]) == 0
        assert "not complete yet" in capsys.readouterr().out
    assert main(["pack", str(raw), out, "--seal"]) == 0
    assert main(["verify", out, "--quick"]) == 0


def test_damage_ends_in_exit_code_1_and_names_itself(packed, capsys):
    tar = next((packed / "shards").glob("*train*.tar"))
    data = bytearray(tar.read_bytes())
    data[1_200] ^= 1
    tar.write_bytes(data)
    assert main(["verify", str(packed)]) == 1
    assert f"shards/{tar.name}, tracklet train/00001/infrared-c02-000001, byte" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_damaged_description_is_damage_and_no_mistake_of_the_user(packed, capsys, command):
    data = (packed / "dataset.json").read_bytes()
    (packed / "dataset.json").write_bytes(data.replace(b"keep", b"drop"))
    assert main([command, str(packed)]) == 1
    assert "dataset.json" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "{tmp}/nowhere", "{tmp}/out"], "not a folder"),
        (["pack", "{raw}", "{tmp}"], "exists and holds something else"),
        (["pack", "{raw}", "{tmp}/out", "--part", "3/2"], "expected I/N"),
        (["pack", "{raw}", "{tmp}/out", "--part", "1/2", "--seal"], "give one of the two"),
        (["pack", "{raw}", "{tmp}/out", "--mode", "resize", "--quality", "101"], "quality must be 1 to 100"),
        (["pack", "{raw}", "{tmp}/out", "--quality", "90"], "quality has no meaning in mode `copy`"),
        (["pack", "{raw}", "{tmp}/out", "--size", "288x144"], "size has no meaning in mode `copy`"),
        (["pack", "{raw}", "{tmp}/out", "--mode", "resize", "--check", "header"], "check has no meaning"),
        (["pack", "{raw}", "{tmp}/out", "--num-workers", "0"], "The number of workers must be 1 or more"),
        (["synthesize", "{tmp}/out", "--num-workers", "-1"], "The number of workers must be 1 or more"),
        (["verify", "{tmp}", "--num-workers", "0"], "The number of workers must be 1 or more, found 0"),
        (["verify", "{tmp}", "--num-workers", "-3"], "The number of workers must be 1 or more, found -3"),
        (["pack", "{tmp}/nowhere", "/proc"], "/proc is a mount point"),
        (["synthesize", "/proc"], "/proc is a mount point"),
        (["pack", "{raw}", "{tmp}/out", "--size", "288"], "expected HxW"),
        (["pack", "{raw}"], "OUT"),
        (["pack", "{raw}", "{tmp}/out", "--mode", "shrink"], "shrink"),
        (["verify", "{tmp}"], "not a packed data set"),
        (["inspect", "{tmp}"], "not a packed data set"),
        (["synthesize", "{tmp}/out", "--num-identities", "1"], "num_identities must be"),
    ],
)
def test_a_mistake_of_the_user_is_exit_code_2_and_one_message(raw, tmp_path, capsys, arguments, message):
    filled = [argument.format(raw=raw, tmp=tmp_path) for argument in arguments]
    try:
        code = main(filled)
    except SystemExit as end:
        code = end.code
    said = "".join(capsys.readouterr())
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A file system of a given size, in KiB. Only root can mount one."""
    if os.geteuid():
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kibibytes: int) -> Path:
        option = "remount,size" if folder.is_mount() else "size"
        command = ["mount", "-t", "tmpfs", "-o", f"{option}={kibibytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_full_disk_is_told_nothing_is_half_published_and_a_rerun_finishes(
    raw, tmp_path, small_disk, capsys, num_workers
):
    disk = small_disk(160)
    arguments = ["pack", str(raw), str(disk / "packed"), "--num-workers", str(num_workers)]
    assert main(arguments) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (disk / "packed").exists()
    assert not list(disk.glob("packed.partial/shards/.tmp-*"))
    small_disk(4_096)
    assert main(arguments) == 0
    assert main(["pack", str(raw), str(tmp_path / "elsewhere")]) == 0
    files = sorted(
        path.relative_to(disk / "packed") for path in (disk / "packed").rglob("*") if path.is_file()
    )
    assert len(files) == 8
    for file in files:
        assert (disk / "packed" / file).read_bytes() == (tmp_path / "elsewhere" / file).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_synthetic_tree_that_is_interrupted_or_terminated_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "preprocess", "synthesize", str(tmp_path / "raw"), "--num-workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".raw.*/*/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_with_a_sentence_and_the_same_command_goes_on(raw, tmp_path):
    out = tmp_path / "packed"
    command = [sys.executable, "-m", "preprocess", "pack", str(raw), str(out), "--num-workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "PIL" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in {0, 130}
    assert "Traceback" not in said
    assert main(command[3:]) == 0
    assert main(["verify", str(out)]) == 0
