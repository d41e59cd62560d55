"""The official index files: every layout, every mistake named with file and line, and thousands of mutations."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.options import Mixed
from preprocess.tree import BadTreeError, Tree
from preprocess.vcm import find_layout, read
from preprocess.vcm_index import INDEX_FILES
from reid.types import Modality, Role, Split


def facts(tree: Tree) -> list[tuple[object, ...]]:
    return [
        (each.split, each.role, each.identity, each.modality, each.camera, each.tracklet, len(each.frames))
        for each in tree.tracklets
    ]


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("flat", "identities and index files in the root"),
        ("info", "identities in the root, index files in info/"),
        ("split", "Train/, Test/ and info/"),
        ("nested", "Train/Train, Test/Test and info/"),
    ],
)
def test_every_layout_in_the_wild_is_recognised_and_gives_the_same_tracklets(
    tmp_path, write_tree, layout, name
):
    root = write_tree(tmp_path / layout, layout)
    tree = read(root)
    assert tree.layout == name
    assert facts(tree) == facts(read(write_tree(tmp_path / "reference")))
    assert all((root / frame).is_file() for each in tree.tracklets for frame in each.frames)


def test_a_row_becomes_the_tracklet_it_describes(raw):
    tracklets = read(raw).tracklets
    assert len(tracklets) == 20
    first = tracklets[0]
    assert (first.split, first.role, first.identity) == (Split.TRAIN, Role.TRAIN, 1)
    assert (first.modality, first.camera, first.tracklet) == (Modality.INFRARED, 2, 1)
    assert (first.source, first.row) == ("track_train_info.txt", 1)
    assert first.frames == tuple(f"0001/ir/D2/{frame}.jpg" for frame in range(1, 15))
    assert tracklets[1].frames == tuple(f"0001/ir/D2/{frame}.jpg" for frame in range(15, 20))


def test_queries_are_the_listed_rows_and_the_gallery_is_every_other_test_row(raw):
    test = [each for each in read(raw).tracklets if each.split is Split.TEST]
    assert {each.modality for each in test if each.role is Role.QUERY} == {Modality.INFRARED}
    assert {each.modality for each in test if each.role is Role.GALLERY} == {Modality.VISIBLE}
    assert len(test) == 8


def test_an_infrared_row_that_is_no_query_joins_the_gallery_and_is_noted(raw):
    (raw / "query_IDX.txt").write_text("1\n2 5\n")
    tree = read(raw)
    assert [each.row for each in tree.tracklets if each.role is Role.QUERY] == [1, 2, 5]
    assert any("1 infrared rows" in note and "row 6" in note for note in tree.notes)


@pytest.mark.parametrize("end", ["\r\n", "\n\n\n", ""])
def test_line_ends_byte_order_marks_and_missing_last_line_ends_change_nothing(raw, end):
    expected = read(raw).tracklets
    for name in INDEX_FILES:
        path = raw / name
        lines = path.read_text().splitlines()
        separator = "\r\n" if end == "\r\n" else "\n"
        path.write_bytes(b"\xef\xbb\xbf" + (separator.join(lines) + end).encode())
    assert read(raw).tracklets == expected


def test_a_blank_before_the_first_name_changes_nothing(raw):
    expected = read(raw).tracklets
    path = raw / "train_name.txt"
    path.write_text(" \t" + path.read_text())
    assert read(raw).tracklets == expected


def test_a_layout_of_which_one_half_is_a_folder_is_not_called_by_the_name_of_another(write_tree, tmp_path):
    root = write_tree(tmp_path / "raw", "split")
    for folder in (root / "Test").iterdir():
        folder.rename(root / folder.name)
    assert read(root).layout == "train in Train, test in ., index files in info"


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("train_name.txt", 3, "0001M3D2T1F3.jpg", r"train_name\.txt:3: expected a frame name"),
        ("train_name.txt", 3, "../../etc/passwd", r"train_name\.txt:3: expected a frame name"),
        ("train_name.txt", 3, "0001M1D2T1F3.jpg/../../x.jpg", r"train_name\.txt:3: expected a frame name"),
        ("train_name.txt", 3, "0001M1D2T1F٣.jpg", r"train_name\.txt:3: expected a frame name"),
        ("train_name.txt", 3, "", r"train_name\.txt:3: expected a frame name"),
        ("train_name.txt", 3, "0001M1D2T1F2.jpg", r"train_name\.txt:3: .* of line 2 again"),
        ("track_train_info.txt", 2, "1 15 19 0001", r"track_train_info\.txt:2: expected `modality"),
        ("track_train_info.txt", 2, "1.0 15.0 19.0 1.0 2.0", r"track_train_info\.txt:2: expected `modality"),
        ("track_train_info.txt", 2, "3 15 19 0001 2", r"track_train_info\.txt:2: expected `modality"),
        ("track_train_info.txt", 2, "1 -15 19 0001 2", r"track_train_info\.txt:2: expected `modality"),
        ("track_train_info.txt", 2, f"1 15 {10**30} 0001 2", r"track_train_info\.txt:2: expected `modality"),
        (
            "track_train_info.txt",
            2,
            "1 15 999 0001 2",
            r"track_train_info\.txt:2: the range 15 to 999 is not",
        ),
        (
            "track_train_info.txt",
            1,
            "1 0 13 0001 2",
            r"track_train_info\.txt:1: the range 0 to 13 is not within",
        ),
        ("track_train_info.txt", 2, "1 19 15 0001 2", r"track_train_info\.txt:2: the range 19 to 15"),
        (
            "track_train_info.txt",
            2,
            "1 14 19 0001 2",
            r"track_train_info\.txt:2: line 14 .* belongs to row 1",
        ),
        ("track_train_info.txt", 2, "1 15 19 0002 2", r"track_train_info\.txt:2: is about identity 2"),
        (
            "track_train_info.txt",
            2,
            "2 15 19 0001 2",
            r"track_train_info\.txt:2: is about identity 1, visible",
        ),
        (
            "track_test_info.txt",
            1,
            "1 1 14 0001 2",
            r"track_test_info\.txt:1: identity 1 is also in the training",
        ),
        ("query_IDX.txt", 1, "1 2 5 6 9", r"query_IDX\.txt:1: row 9 is not one of the 8"),
        ("query_IDX.txt", 1, "0 2 5 6", r"query_IDX\.txt:1: row 0 is not"),
        ("query_IDX.txt", 1, "1 2 3", r"query_IDX\.txt:1: row 3 is visible"),
        ("query_IDX.txt", 1, "1 2 2", r"query_IDX\.txt:1: row 2 is listed twice"),
        ("query_IDX.txt", 1, "1 two", r"query_IDX\.txt:1: expected integers, found 'two'"),
    ],
)
def test_a_mistake_in_an_index_file_is_named_with_file_and_line(raw, edit, name, line, text, message):
    edit(raw / name, line, text)
    with pytest.raises(BadTreeError, match=message):
        read(raw)


def test_several_mistakes_are_told_at_once(raw, edit):
    edit(raw / "track_train_info.txt", 2, "1 15 999 0001 2")
    edit(raw / "track_test_info.txt", 2, "1 15 999 0003 2")
    with pytest.raises(BadTreeError, match=r"(?s)track_train_info\.txt:2.*track_test_info\.txt:2"):
        read(raw)


@pytest.mark.parametrize("name", INDEX_FILES)
def test_a_missing_or_empty_index_file_is_named(raw, name):
    (raw / name).write_bytes(b"")
    with pytest.raises(BadTreeError, match=name.replace(".", r"\.")):
        read(raw)
    (raw / name).unlink()
    with pytest.raises(BadTreeError, match=f"{name} missing"):
        find_layout(raw)


def test_a_binary_index_file_is_no_text(raw):
    with (raw / "train_name.txt").open("ab") as file:
        file.write(b"\xff\xfe\x00")
    with pytest.raises(BadTreeError, match=r"train_name\.txt:115: not a text file"):
        read(raw)


def test_names_whose_folder_is_nowhere_are_told_with_the_places_looked_at(raw):
    (raw / "0001").rename(raw / "elsewhere")
    with pytest.raises(BadTreeError, match=r"train_name\.txt:1: no folder .*Train/0001"):
        read(raw)


@pytest.fixture
def mixed(raw, edit) -> Path:
    """Row 1 of the training split, of 14 frames, has four frames of another source in its middle."""
    for line in range(6, 10):
        (raw / f"0001/ir/D2/{line + 100}.jpg").write_bytes((raw / f"0001/ir/D2/{line}.jpg").read_bytes())
        edit(raw / "train_name.txt", line, f"0001M1D2T9F{line + 100}.jpg")
    return raw


def test_a_mixed_row_is_kept_and_noted_by_default(mixed):
    tree = read(mixed)
    assert len(tree.tracklets[0].frames) == 14
    assert tree.num_mixed == {Split.TRAIN: 1, Split.TEST: 0}
    assert "track_train_info.txt:1 (train): mixes frames of 3 sources" in tree.notes[0]


def test_a_mixed_row_can_be_split_at_its_sources(mixed):
    tree = read(mixed, Mixed.SPLIT)
    assert [(each.tracklet, len(each.frames)) for each in tree.tracklets[:3]] == [(1, 5), (9, 4), (1, 5)]
    assert len(tree.tracklets) == 22
    assert tree.notes[1] == (
        "track_train_info.txt:1 (train): its 14 frames became tracklets of 5 and 4 and 5; left out: none"
    )


def test_a_mixed_row_can_be_dropped(mixed):
    tree = read(mixed, Mixed.DROP)
    assert tree.tracklets[0].row == 2
    assert len(tree.tracklets) == 19


def test_splitting_never_moves_a_frame_to_another_identity(raw, edit):
    edit(raw / "train_name.txt", 7, "0002M1D2T9F77.jpg")
    tree = read(raw, Mixed.SPLIT)
    assert [(each.identity, len(each.frames)) for each in tree.tracklets[:2]] == [(1, 6), (1, 7)]
    assert tree.notes[1].endswith("its 14 frames became tracklets of 6 and 7; left out: 0002/ir/D2/77.jpg")


def test_frames_out_of_order_are_noted(raw, edit):
    names = (raw / "train_name.txt").read_text().splitlines()
    edit(raw / "train_name.txt", 2, names[2])
    edit(raw / "train_name.txt", 3, names[1])
    assert read(raw).notes == [
        "track_train_info.txt: 1 rows list frames in another order than their numbers, the first is row 1"
    ]


def test_lines_that_no_row_uses_are_noted(raw, edit):
    edit(raw / "track_train_info.txt", 2, "1 16 19 0001 2")
    assert read(raw).notes == [
        "train_name.txt: 1 lines belong to no row of track_train_info.txt, the first is line 15"
    ]


PAYLOADS = [
    *(
        b"\r\n",
        b"\n",
        b"\n\n",
        b"\xef\xbb\xbf",
        b"1.0",
        b"-1",
        b" ",
        b"0",
        b"1",
        b"9" * 40,
        b"\x00",
        b"\t",
        b"e5",
        b",",
    ),
    *(b"0002", b"M2", b"D1", b"T2", b"F1.jpg", b"../", b"1 1 14 0001 2\n", b"0001M1D2T1F3.jpg\n"),
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One of the ways in which files go wrong: bytes changed, added, removed; lines doubled, swapped; a file cut."""
    place = draw.randrange(len(data) + 1)
    payload = draw.choice(PAYLOADS) if draw.random() < 0.7 else draw.randbytes(draw.randint(1, 3))
    lines = data.splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            return data[:place] + payload + data[place + len(payload) :]
        case 1:
            return data[:place] + payload + data[place:]
        case 2:
            return data[:place] + data[place + len(payload) :]
        case 3:
            return data[:place]
        case 4:
            return b"".join([*lines[: one + 1], *lines[one:]])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
            return b"".join(lines)


def is_honest(root: Path, tree: Tree, intact: Tree) -> bool:
    """Whether all that a reader made of a damaged index is true, or noted, or about a picture that is not there."""
    true = {(each.split, each.role, each.identity, each.modality, each.frames) for each in intact.tracklets}
    said = [(each.split, each.role, each.identity, each.modality, each.frames) for each in tree.tracklets]
    frames = (frame for each in tree.tracklets for frame in each.frames)
    return (
        bool(tree.notes)
        or sorted(said) == sorted(true)
        or any(not (root / frame).is_file() for frame in frames)
    )


@pytest.mark.slow
def test_no_damaged_index_ends_in_a_traceback_or_in_a_silently_shifted_tracklet(raw):
    intact = read(raw)
    originals = {name: (raw / name).read_bytes() for name in INDEX_FILES}
    draw = random.Random(0)
    refused = 0
    for _ in range(5_000):
        touched = [draw.choice(INDEX_FILES) for _ in range(draw.choice([1, 1, 1, 2]))]
        for name in touched:
            (raw / name).write_bytes(mutated((raw / name).read_bytes() or b"\n", draw))
        message = None
        try:
            assert is_honest(raw, read(raw), intact)
        except BadTreeError as error:
            message = str(error)
            refused += 1
        assert message is None or any(name in message for name in INDEX_FILES)
        for name in touched:
            (raw / name).write_bytes(originals[name])
    assert refused > 2_500


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(*[st.integers(-2, 130)] * 5).map(lambda row: " ".join(map(str, row)))
        | st.text(max_size=12),
        max_size=8,
    ),
    end=st.sampled_from(["\n", "\r\n", ""]),
)
def test_any_track_file_is_refused_by_line_or_read_truly(raw, rows, end):
    path = raw / "track_train_info.txt"
    original = path.read_bytes()
    intact = read(raw)
    path.write_bytes((end or "\n").join(rows).encode("utf-8", "surrogatepass") + end.encode())
    message = "track_train_info.txt"
    try:
        assert is_honest(raw, read(raw), intact)
    except BadTreeError as error:
        message = str(error)
    path.write_bytes(original)
    assert "track_train_info.txt" in message
