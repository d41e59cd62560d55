"""reid/commands/search.py: the table, the JSON and the picture of answers, and mistakes in one message."""

import json

import pytest
from PIL import Image

from reid.cli import main
from reid.data.manifest import Manifest
from reid.types import Modality, Role
from tests.reid.deployment.drawing import draw_frames, draw_people, draw_run


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return draw_run(tiny(), tmp_path_factory.mktemp("searched") / "run")


@pytest.fixture
def search(run, tmp_path):
    """Runs the command with an index of this test."""

    def with_arguments(*words):
        return main(
            ["search", *map(str, words), "--checkpoint", str(run), "--index", str(tmp_path / "index")]
        )

    return with_arguments


def test_a_packed_data_set_answers_with_who_and_where_and_a_picture(search, packed, tmp_path, capsys):
    manifest = Manifest.open(packed)
    row = int(manifest.rows(Role.QUERY)[0])
    sheet = tmp_path / "new" / "sheet.png"
    assert search(packed, manifest.key(row), "--top", "3", "--json", "--sheet", sheet) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"]["identity"] == int(manifest.identity[row])
    assert told["synthetic"] is True
    assert [answer["rank"] for answer in told["answers"]] == [1, 2, 3]
    keys = {manifest.key(r): r for r in manifest.rows(Role.GALLERY, Modality.VISIBLE)}
    for answer in told["answers"]:
        assert answer["modality"] == "visible"
        assert answer["identity"] == manifest.identity[keys[answer["tracklet"]]]
    with Image.open(sheet) as picture:
        assert picture.width > picture.height > 100
    assert search(packed, manifest.key(row), "--top", "3") == 0
    printed = capsys.readouterr()
    assert "SYNTHETIC" in printed.out
    assert all(answer["tracklet"] in printed.out for answer in told["answers"])
    assert ("right" in printed.out) or ("wrong" in printed.out)
    assert "made again" not in printed.err


def test_plain_folders_answer_by_name_and_nobody_is_called_right_or_wrong(search, tmp_path, capsys):
    people = draw_people(tmp_path / "people")
    beside = draw_frames(tmp_path / "walk", 5, 1)
    assert search(people, beside, "--modality", "infrared", "--sheet", tmp_path / "sheet.jpg") == 0
    printed = capsys.readouterr().out
    assert sorted(word for word in printed.split() if word.startswith("rgb/")) == [
        "rgb/ann",
        "rgb/bob",
        "rgb/cat",
    ]
    assert not {"camera", "right", "wrong"} & set(printed.split())
    assert (tmp_path / "sheet.jpg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["PEOPLE", "rgb/dan"], "rgb/dan: neither a tracklet of"),
        (["PEOPLE", "rgb/ann", "--modality", "infrared"], "--modality says infrared, but it is visible"),
        (["PEOPLE", "rgb/ann", "--top", "0"], "--top: expected 1 or more"),
        (["PEOPLE", "rgb/ann", "--sheet", "sheet.gif"], "--sheet: expected a name that ends in"),
        (["nowhere", "rgb/ann"], "nowhere: no tracklets here"),
    ],
)
def test_a_mistake_is_told_in_one_message(search, tmp_path, capsys, words, told):
    people = draw_people(tmp_path / "people")
    assert search(*(people if word == "PEOPLE" else word for word in words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("reid search: ")]) == 1
    assert told in error[-1]
    assert not (tmp_path / "index").exists()


def test_a_broken_picture_is_told_in_one_message(search, tmp_path, capsys):
    people = draw_people(tmp_path / "people")
    (people / "rgb" / "bob" / "0.jpg").write_bytes(b"no picture")
    assert search(people, "ir/night-9") == 2
    assert "bob/0.jpg: not an intact JPEG" in capsys.readouterr().err
