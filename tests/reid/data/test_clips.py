"""Which frames make a clip, what decoding refuses, and what augmentation does."""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import normalize

from preprocess.options import Check, Options
from preprocess.pack import pack
from reid.data import clips
from reid.data.augmentation import Augmentation
from reid.data.batches import clip_generator
from reid.data.clips import ClipReader, ClipShape, PairedClips, Pixels
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError
from reid.types import Role

GENERATOR = np.random.default_rng


def photograph(height: int = 48, width: int = 32, seed: int = 0) -> Pixels:
    """Smooth colours with some noise, so that every JPEG coefficient has work to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 60 * np.sin(x / (5 + c) + seed) + 50 * np.cos(y / (7 - c)) for c in range(3)]
    return np.clip(np.stack(waves, axis=-1) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


# Which frames


@given(num_frames=st.integers(1, 300), clip_frames=st.integers(1, 12))
def test_test_indices_are_the_heads_of_the_padded_chunks(num_frames: int, clip_frames: int) -> None:
    step = -(-num_frames // clip_frames)
    padded = list(range(num_frames)) + [num_frames - 1] * (step * clip_frames - num_frames)
    expected = [padded[chunk * step] for chunk in range(clip_frames)]
    assert clips.test_indices(num_frames, clip_frames).tolist() == expected


@given(num_frames=st.integers(1, 300), clip_frames=st.integers(1, 12))
def test_the_clips_of_all_places_show_every_frame(num_frames: int, clip_frames: int) -> None:
    places = range(clips.chunk_frames(num_frames, clip_frames))
    shown = np.stack([clips.test_indices(num_frames, clip_frames, place) for place in places])
    assert set(shown.ravel().tolist()) == set(range(num_frames))
    assert (np.diff(shown, axis=0) >= 0).all()
    repeated = np.bincount(shown.ravel())[:-1]  # only the last frame stands in where frames run out
    assert (repeated == 1).all()


def test_the_clips_of_13_frames_by_hand() -> None:
    assert [clips.test_indices(13, 6, place).tolist() for place in range(clips.chunk_frames(13, 6))] == [
        [0, 3, 6, 9, 12, 12],
        [1, 4, 7, 10, 12, 12],
        [2, 5, 8, 11, 12, 12],
    ]


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (24, [0, 4, 8, 12, 16, 20]),
        (13, [0, 3, 6, 9, 12, 12]),
        (4, [0, 1, 2, 3, 3, 3]),
        (1, [0] * 6),
    ],
)
def test_test_indices_by_hand(num_frames: int, expected: list[int]) -> None:
    assert clips.test_indices(num_frames, 6).tolist() == expected


@given(num_frames=st.integers(1, 60), clip_frames=st.integers(1, 12), seed=st.integers(0, 99))
def test_training_indices_take_one_frame_of_each_padded_chunk(
    num_frames: int, clip_frames: int, seed: int
) -> None:
    step = -(-num_frames // clip_frames)
    padded = list(range(num_frames)) + [num_frames - 1] * (step * clip_frames - num_frames)
    indices = clips.training_indices(num_frames, clip_frames, GENERATOR(seed))
    for chunk, index in enumerate(indices.tolist()):
        assert index in padded[chunk * step : (chunk + 1) * step]


def test_every_frame_can_be_chosen_for_training() -> None:
    drawn = np.concatenate([clips.training_indices(21, 6, clip_generator(0, step, 0)) for step in range(400)])
    assert set(drawn.tolist()) == set(range(21))


# Decoding


def test_decoding_equals_pillow_bit_by_bit() -> None:
    jpeg = simplejpeg.encode_jpeg(photograph(), 90, colorsubsampling="420")
    picture = np.zeros((48, 32, 3), dtype=np.uint8)
    clips.decode(jpeg, picture)
    assert np.array_equal(picture, np.asarray(Image.open(io.BytesIO(jpeg), formats=("JPEG",))))


def test_a_picture_of_another_size_is_resized_without_keeping_its_ratio() -> None:
    jpeg = simplejpeg.encode_jpeg(photograph(64, 64), 90)
    picture = np.zeros((48, 32, 3), dtype=np.uint8)
    clips.decode(jpeg, picture)
    expected = Image.open(io.BytesIO(jpeg)).resize((32, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(picture, np.asarray(expected))


def test_a_grey_picture_has_three_equal_channels() -> None:
    grey = photograph()[..., :1]
    picture = np.zeros((48, 32, 3), dtype=np.uint8)
    clips.decode(simplejpeg.encode_jpeg(np.ascontiguousarray(grey), 95, colorspace="GRAY"), picture)
    assert (picture == picture[..., :1]).all()
    assert np.abs(picture[..., 0].astype(int) - grey[..., 0]).mean() < 4


@pytest.mark.parametrize("sampling", ["444", "422", "420", "Gray"])
@pytest.mark.parametrize("quality", [30, 75, 92, 100])
def test_what_is_known_to_be_grey_is_decoded_to_the_same_bits_from_its_brightness_alone(
    sampling: str, quality: int
) -> None:
    for seed in range(10):
        grey = photograph(seed=seed)[..., :1]
        pixels, colours = (grey, "GRAY") if sampling == "Gray" else (grey.repeat(3, axis=2), "RGB")
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colours, sampling)
        expected, found = np.zeros((2, 48, 32, 3), dtype=np.uint8)
        clips.decode(jpeg, expected)
        assert (expected == expected[..., :1]).all()
        clips.decode(jpeg, found, np.zeros((48, 32, 1), dtype=np.uint8))
        assert np.array_equal(found, expected)


def test_a_grey_picture_of_another_size_is_resized_to_the_same_bits() -> None:
    jpeg = simplejpeg.encode_jpeg(photograph(64, 64)[..., :1].repeat(3, axis=2), 90)
    expected, found = np.zeros((2, 48, 32, 3), dtype=np.uint8)
    clips.decode(jpeg, expected)
    clips.decode(jpeg, found, np.zeros((48, 32, 1), dtype=np.uint8))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_tracklet_that_the_manifest_proves_grey_gives_the_clips_that_it_gives_in_colour(
    painted_root: Path, tmp_path: Path, augmented: bool
) -> None:
    raw = Path(shutil.copytree(painted_root.parent / "raw", tmp_path / "raw"))
    for seed, path in enumerate(sorted(raw.rglob("ir/*/*.jpg"))):
        grey = photograph(32, 16, seed)[..., :1].repeat(3, axis=2)
        path.write_bytes(simplejpeg.encode_jpeg(grey, 90))
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    rows = manifest.rows(Role.TRAIN)
    assert 10 < manifest.is_gray[rows].sum() < rows.size
    augmentation = Augmentation(3, grey_probability=0.5, erasing_probability=0.5) if augmented else None

    def read() -> Pixels:
        memory = np.empty((rows.size, 6, 32, 16, 3), dtype=np.uint8)
        generators = [clip_generator(3, 0, position) for position in range(rows.size)]
        ClipReader(manifest, ClipShape(6, 32, 16), augmentation).read_for_training(rows, generators, memory)
        return memory

    found = read()
    manifest.is_gray = np.zeros_like(manifest.is_gray)
    assert np.array_equal(found, read())


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A small JPEG whose header claims 65,500 x 65,500 pixels."""
    jpeg = bytearray(simplejpeg.encode_jpeg(photograph(), 90))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (65_500).to_bytes(2, "big") * 2
    return bytes(jpeg)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_encoded(Image.new("RGB", (32, 48)), "PNG"), "JPEG"),
        (_encoded(Image.new("CMYK", (32, 48)), "JPEG"), "for printing"),
        (_bomb(), "over the limit"),
        (b"", "JPEG"),
        (b"\xff\xd8\xff\xd9", "JPEG"),
        (b"pipe:cat /etc/passwd", "JPEG"),
    ],
    ids=["png", "cmyk", "bomb", "empty", "no picture", "url"],
)
def test_what_is_no_jpeg_of_a_sane_size_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips.decode(data, np.zeros((48, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.9])
def test_a_picture_that_ends_early_is_an_error_and_not_half_a_picture(keep: float) -> None:
    jpeg = simplejpeg.encode_jpeg(photograph(), 90)
    with pytest.raises(ValueError, match="JPEG"):
        clips.decode(jpeg[: int(keep * len(jpeg))], np.zeros((48, 32, 3), dtype=np.uint8))


# Reading


def test_a_test_clip_shows_the_right_frames_of_the_right_tracklets(painted: Manifest) -> None:
    rows = painted.rows(Role.GALLERY)
    memory = np.empty((rows.size, 6, 32, 16, 3), dtype=np.uint8)
    ClipReader(painted, ClipShape(6, 32, 16)).read_for_test(rows, memory)
    for row, clip in zip(rows, memory, strict=True):
        frames = clips.test_indices(int(painted.num_frames[row]), 6)
        assert _colours(clip)[:, 0].tolist() == [painted.identity[row]] * 6
        assert _colours(clip)[:, 2].tolist() == frames.tolist()


def test_a_training_clip_shows_the_frames_that_its_generator_draws(painted: Manifest) -> None:
    rows = painted.rows(Role.TRAIN)
    memory = np.empty((rows.size, 4, 32, 16, 3), dtype=np.uint8)
    generators = [clip_generator(3, 0, position) for position in range(rows.size)]
    ClipReader(painted, ClipShape(4, 32, 16)).read_for_training(rows, generators, memory)
    for position, (row, clip) in enumerate(zip(rows, memory, strict=True)):
        indices = clips.training_indices(int(painted.num_frames[row]), 4, clip_generator(3, 0, position))
        assert _colours(clip)[:, 0].tolist() == [painted.identity[row]] * 4
        assert _colours(clip)[:, 2].tolist() == indices.tolist()


def _colours(clip: Pixels) -> np.ndarray:
    """(identity, tracklet, frame) of each frame, as painted. (T, 3)"""
    return np.rint(clip[:, 16, 8] / 10).astype(int)


def test_a_stored_size_that_must_be_changed_each_time_is_said_once(
    painted: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ClipReader(painted, ClipShape(6, 20, 20))
        ClipReader(painted, ClipShape(6, 32, 16))
    assert len(caplog.messages) == 1
    assert "44 of 44 tracklets are not stored as 20 x 20" in caplog.text
    assert "--size 20x20" in caplog.text


def test_a_padding_as_large_as_the_picture_is_refused(painted: Manifest) -> None:
    with pytest.raises(ValueError, match="padding of 16 pixels"):
        ClipReader(painted, ClipShape(6, 32, 16), Augmentation(padding=16))


def test_a_frame_that_does_not_decode_is_named(painted_root: Path, tmp_path: Path) -> None:
    """The checksum is right, the picture is not: it was damaged before it was packed."""
    raw = tmp_path / "raw"
    shutil.copytree(painted_root.parent / "raw", raw)
    picture = raw / "0002" / "rgb" / "D1" / "1.jpg"
    jpeg = simplejpeg.encode_jpeg(photograph(32, 16), 90)
    picture.write_bytes(jpeg[:-200] + jpeg[-2:])
    pack(raw, tmp_path / "packed", Options(check=Check.HEADER))
    manifest = Manifest.open(tmp_path / "packed")
    row = next(row for row in range(len(manifest)) if manifest.key(row).startswith("train/00002/v"))
    memory = np.empty((1, 6, 32, 16, 3), dtype=np.uint8)
    with pytest.raises(DamagedShardError, match="frame 0 cannot be decoded") as caught:
        ClipReader(manifest, ClipShape(6, 32, 16)).read_for_test(np.array([row]), memory)
    assert caught.value.key == manifest.key(row)
    assert caught.value.offset == manifest.frames(row).offset[0]


# Tensors


def test_normalise_equals_torchvision_and_keeps_the_layout() -> None:
    memory = np.stack([photograph(seed=seed) for seed in range(4)]).reshape(2, 2, 48, 32, 3)
    tensor = clips.as_tensor(memory)  # (B, T, 3, H, W)
    assert tensor.shape == (2, 2, 3, 48, 32)
    assert tensor.data_ptr() == memory.ctypes.data
    expected = normalize(tensor / 255, clips.IMAGENET_MEAN, clips.IMAGENET_STD)
    found = clips.normalise(tensor)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_paired_clips_move_as_one() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 2, 2)
    moved = PairedClips(pixels, pixels + 1, torch.tensor([4])).to("meta")
    assert [tensor.device.type for tensor in moved] == ["meta"] * 3
    assert moved.infrared.shape == pixels.shape
