"""reid/tracking/journal.py: what was written is read again, and what was not is never believed."""

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.tracking.journal import (
    FILE_NAME,
    DamagedJournalError,
    Journal,
    JournalInUseError,
    Kind,
    Record,
    Tail,
    decode,
    encode,
    header,
    read,
)

texts = st.text(max_size=20)
records = st.one_of(
    st.builds(
        Record,
        sequence=st.integers(0, 10**9),
        time=st.floats(0, 4e9),
        kind=st.just(Kind.METRICS),
        step=st.integers(0, 10**9),
        data=st.dictionaries(texts, st.floats(), max_size=4),
    ),
    st.builds(
        Record,
        sequence=st.integers(0, 10**9),
        time=st.floats(0, 4e9),
        kind=st.sampled_from([Kind.PARAMS, Kind.TAGS, Kind.FINISH]),
        step=st.none(),
        data=st.dictionaries(texts, texts, max_size=4),
    ),
)


def write_steps(run_folder: Path, steps: range) -> None:
    with Journal.open(run_folder) as journal:
        for step in steps:
            journal.append(Kind.METRICS, {"train/loss": 1 / (step + 1)}, step)


def steps_of(run_folder: Path) -> list[int | None]:
    return [record.step for record in read(run_folder)]


@given(records)
def test_a_record_survives_its_line(record):
    line = encode(record)
    assert line.count(b"\n") == 1
    found = decode(line[:-1])
    assert repr(found) == repr(record)  # repr, as NaN differs from itself


@given(records, st.data())
def test_a_changed_bit_is_noticed_anywhere(record, data):
    line = bytearray(encode(record)[:-1])
    position = data.draw(st.integers(0, len(line) - 1))
    line[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode(bytes(line))
    except ValueError:
        return
    assert repr(found) == repr(record)


@given(records, st.data())
def test_a_cut_line_is_never_a_record(record, data):
    line = encode(record)[:-1]
    with pytest.raises(ValueError, match="checksum"):
        decode(line[: data.draw(st.integers(0, len(line) - 1))])


def test_numbers_come_back_exactly(tmp_path):
    values = {"a": 0.1 + 0.2, "b": math.inf, "c": -math.inf, "d": 5e-324, "e": -0.0, "f": math.nan}
    with Journal.open(tmp_path) as journal:
        journal.append(Kind.METRICS, values, 7)
    (record,) = read(tmp_path)
    assert str(record.data) == str(values)
    assert (record.step, record.sequence) == (7, 0)


def test_a_journal_cut_at_any_byte_keeps_what_was_whole_and_goes_on(tmp_path):
    write_steps(tmp_path / "whole", range(4))
    whole = (tmp_path / "whole" / FILE_NAME).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        run = tmp_path / str(size)
        run.mkdir()
        (run / FILE_NAME).write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        write_steps(run, range(kept, 6))
        assert steps_of(run) == list(range(6))
        assert [record.sequence for record in read(run)] == list(range(6))


def test_damage_before_the_end_is_an_error_that_says_where(tmp_path):
    write_steps(tmp_path, range(4))
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"0.5", b"0.6")
    path.write_bytes(b"".join(lines))
    with pytest.raises(
        DamagedJournalError, match=rf"damaged at byte {len(lines[0])} \(checksum .* record 2 behind it"
    ):
        Journal.open(tmp_path)


def test_a_missing_line_is_an_error(tmp_path):
    write_steps(tmp_path, range(4))
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(DamagedJournalError, match=r"record 1 expected .* 2 found"):
        Journal.open(tmp_path)


def test_a_reopened_journal_knows_its_points_and_parameters(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.append(Kind.START, {})
        journal.append(Kind.PARAMS, {"seed": "3"})
    write_steps(tmp_path, range(5))
    with Journal.open(tmp_path) as journal:
        assert journal.last_step == 4
        assert journal.points["train/loss", 3].value == 0.25
        assert (journal.params, journal.num_starts) == ({"seed": "3"}, 1)


def test_a_tail_sees_a_line_only_when_it_is_whole(tmp_path):
    line = encode(Record(0, 1.0, Kind.TAGS, None, {"a": "b"}))
    path = tmp_path / FILE_NAME
    path.write_bytes(line[:-5])
    tail = Tail(path)
    assert list(tail.poll()) == []
    path.write_bytes(line)
    assert [record.data for record in tail.poll()] == [{"a": "b"}]
    assert tail.offset == len(line)
    assert list(tail.poll()) == []


def test_only_one_process_writes(tmp_path):
    code = "import sys; from pathlib import Path; from reid.tracking.journal import Journal; Journal.open(Path(sys.argv[1]))"
    with Journal.open(tmp_path):
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path.cwd(),
        )
    assert other.returncode == 1
    assert JournalInUseError.__name__ in other.stderr
    assert "another process writes this run" in other.stderr
    with Journal.open(tmp_path) as journal:
        assert journal.last_step == -1


def test_what_was_appended_survives_a_death_without_warning(tmp_path):
    pid = os.fork()
    if pid == 0:
        journal = Journal.open(tmp_path)
        for step in range(10):
            journal.append(Kind.METRICS, {"train/loss": 0.5}, step)
        os._exit(9)
    os.waitpid(pid, 0)
    assert steps_of(tmp_path) == list(range(10))


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path):
    """A limit on the size of files stands for the disk: the write is cut short in the same way."""
    write_steps(tmp_path, range(3))
    pid = os.fork()
    if pid == 0:
        size = (tmp_path / FILE_NAME).stat().st_size
        journal = Journal.open(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
        try:
            journal.append(Kind.TAGS, {"a": "b"})
        except OSError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            journal.append(Kind.TAGS, {"c": "d"})
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [record.data for record in read(tmp_path)][3:] == [{"c": "d"}]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        header(tmp_path)
