"""`dataset.json`: every byte of it counts, and every field."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from reid.data.description import DESCRIPTION, FORMAT, TABLES, VERSION, read_description, sealed, unsealed
from reid.data.manifest import Manifest


@pytest.fixture
def copy(painted_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(painted_root, tmp_path / "copy"))


@pytest.mark.parametrize("indent", [None, 2])
def test_what_was_sealed_comes_back_and_no_bit_of_it_can_change(indent):
    fields = {"name": "Zo\u00eb", "counts": {"of": [1, 2, {}]}, "synthetic": True, "none": None}
    whole = sealed(json.dumps(fields, indent=indent))
    assert unsealed(whole) == unsealed(whole + b"\n") == fields
    assert json.loads(whole).keys() == {*fields, "digest"}
    flipped = [
        whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        for place in range(len(whole))
        for bit in range(8)
    ]
    cut = [whole[:length] for length in range(len(whole) - 1)]
    for damaged in [*flipped, *cut, whole + b"{}", whole + whole]:
        with pytest.raises(ValueError, match="the digest at its end is not that of its content"):
            unsealed(damaged)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1, "version": 2}',
        pickle.dumps({"format": FORMAT}),
    ],
)
def test_a_description_that_is_none_is_refused(copy, content):
    (copy / DESCRIPTION).write_bytes(content)
    with pytest.raises(ValueError, match=r"dataset\.json"):
        Manifest.open(copy)


def change(root: Path, fields: dict[str, object]) -> None:
    """Write another description, with its digest made right."""
    (root / DESCRIPTION).write_bytes(sealed(json.dumps(fields)))


def test_another_version_is_refused_with_both_numbers(copy):
    change(copy, unsealed((copy / DESCRIPTION).read_bytes()) | {"version": VERSION + 1})
    with pytest.raises(ValueError, match=rf"version {VERSION}, found .* version {VERSION + 1}"):
        Manifest.open(copy)


def test_a_changed_description_is_refused_though_it_is_still_one(copy):
    data = (copy / DESCRIPTION).read_bytes()
    (copy / DESCRIPTION).write_bytes(data.replace(b'"synthetic": false', b'"synthetic": true'))
    with pytest.raises(ValueError, match=r"dataset\.json: the digest at its end is not that of its content"):
        Manifest.open(copy)


WRONG = {
    ("name",): 7,
    ("synthetic",): 1,
    ("plan",): "x",
    ("pictures",): None,
    ("protocol",): [],
    ("protocol", "minimum_frames"): True,
    ("protocol", "mixed"): 1,
    ("options",): "x",
    ("counts",): None,
    ("source",): {},
    ("source", "notes"): [7],
    ("source", "skipped_frames"): ["x"],
    ("source", "lost_tracklets"): "x",
    ("files",): [],
    ("files", TABLES[1]): None,
    ("files", TABLES[1], "nbytes"): 7.5,
    ("files", TABLES[1], "sha256"): "A" * 64,
}


@pytest.mark.parametrize("place", WRONG, ids=".".join)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_field_that_is_missing_or_of_another_kind_is_named(copy, place, is_there):
    fields = unsealed((copy / DESCRIPTION).read_bytes())
    *folders, last = place
    parent = fields
    for folder in folders:
        parent = parent[folder]
    del parent[last]
    if is_there:
        parent[last] = WRONG[place]
    change(copy, fields)
    with pytest.raises(ValueError, match=rf"dataset\.json: .*{'.'.join(place)}"):
        read_description(copy)
