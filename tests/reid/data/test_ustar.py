"""Our headers and archives are, byte for byte, those of `tarfile` and of webdataset."""

import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.data.ustar import BLOCK, archive_size, member_header, padded

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100)


@given(NAMES, st.integers(0, 8**11 - 1))
def test_a_header_is_the_one_that_tarfile_makes(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def test_an_archive_is_the_one_that_webdataset_writes(tmp_path):
    from webdataset import TarWriter  # imports torch, which spawned workers need not wait for

    with (tmp_path / "x.tar").open("wb") as file:
        writer = TarWriter(file, user="", group="", mode=0o444, mtime=0, encoder=False, compress=False)
        writer.write({"__key__": "train/00001/visible-c01-000001", "007.jpg": b"x" * 700})
        writer.close()
    member = member_header("train/00001/visible-c01-000001.007.jpg", 700) + (b"x" * 700).ljust(
        padded(700), b"\0"
    )
    assert (tmp_path / "x.tar").read_bytes() == member.ljust(archive_size(len(member)), b"\0")


@pytest.mark.parametrize(
    ("name", "size"), [("x" * 101, 1), ("na\u00efve", 1), ("x", 8**11), ("x", -(8**10)), ("x" * 101, -1)]
)
def test_what_a_plain_header_cannot_express_is_refused(name, size):
    with pytest.raises(ValueError, match=r"no plain tar header can express|can't encode"):
        member_header(name, size)


def test_payloads_end_at_blocks_and_archives_at_records():
    assert [padded(size) for size in (0, 1, 511, 512, 513)] == [0, BLOCK, BLOCK, BLOCK, 2 * BLOCK]
    assert [archive_size(content) for content in (0, 9_216, 9_217)] == [10_240, 10_240, 20_480]
