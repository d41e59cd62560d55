"""The commands as a user calls them: results, exit codes, messages, interruptions."""

import json
import os
import signal
import subprocess
import sys
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
        "heavy = {'torch', 'webdataset', 'pyarrow'} & set(sys.modules)\n"
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


def test_inspect_prints_the_camera_table(packed, capsys):
    capsys.readouterr()
    assert main(["inspect", str(packed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    assert ["1", "0", "10"] in table
    assert ["2", "10", "0"] in table
    assert ["train", "infrared", "3", "6", "3", "57"] in table


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "{tmp}/nowhere", "{tmp}/out"], "not a folder"),
        (["pack", "{raw}", "{tmp}"], "exists and holds something else"),
        (["pack", "{raw}", "{tmp}/out", "--part", "3/2"], "expected I/N"),
        (["pack", "{raw}", "{tmp}/out", "--part", "1/2", "--seal"], "give one of the two"),
        (["pack", "{raw}", "{tmp}/out", "--quality", "101"], "quality must be 1 to 100"),
        (["pack", "{raw}", "{tmp}/out", "--num-workers", "0"], "number of workers"),
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
