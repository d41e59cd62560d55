"""The re-tagged wheel, and the PIL that is really loaded."""

import base64
import csv
import hashlib
import importlib.util
import io
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import PIL
import pytest

ROOT = Path(__file__).parents[2]
STAMP = ROOT / ".venv" / "packages"


@pytest.fixture(scope="module")
def pillow_simd() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pillow_simd", ROOT / "launch" / "pillow_simd.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    info = "pillow_simd-12.1.post0.dist-info"
    path = tmp_path / "pillow_simd-12.1.post0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PIL/__init__.py", "__version__ = '12.1.post0'\n")
        archive.writestr("PIL/_imaging.so", bytes(range(256)))
        archive.writestr(f"{info}/METADATA", "Name: pillow-simd\nVersion: 12.1.post0\n\nName: of the rose\n")
        archive.writestr(f"{info}/WHEEL", "Tag: cp311-cp311-linux_x86_64\n")
        archive.writestr(f"{info}/RECORD", "PIL/__init__.py,sha256=old,1\n")
    return path


def test_the_wheel_gets_pillows_name_and_keeps_its_modules(
    pillow_simd: ModuleType, wheel: Path, tmp_path: Path
) -> None:
    target = pillow_simd.retag(wheel, tmp_path, "simd.avx2")
    assert target.name == "pillow-12.1.post0+simd.avx2-cp311-cp311-linux_x86_64.whl"
    info = "pillow-12.1.post0+simd.avx2.dist-info"
    with zipfile.ZipFile(target) as archive:
        assert archive.read("PIL/_imaging.so") == bytes(range(256))
        head, body = archive.read(f"{info}/METADATA").decode().split("\n\n")
        assert head.splitlines() == ["Name: pillow", "Version: 12.1.post0+simd.avx2"]
        assert body == "Name: of the rose\n"
        assert not [name for name in archive.namelist() if "pillow_simd" in name]


def test_the_record_of_the_new_wheel_is_true(pillow_simd: ModuleType, wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pillow_simd.retag(wheel, tmp_path, "simd.avx2")) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = {
            name: (digest, size)
            for name, digest, size in csv.reader(io.StringIO(archive.read(record).decode()))
        }
        assert set(rows) == set(archive.namelist())
        assert rows.pop(record) == ("", "")
        for name, (digest, size) in rows.items():
            expected = (
                base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            )
            assert (digest, size) == (f"sha256={expected}", str(len(archive.read(name))))


def test_a_wheel_of_something_else_is_refused(pillow_simd: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a wheel named pillow_simd-VERSION-TAGS"):
        pillow_simd.retag(tmp_path / "pillow-13.0.0-cp311-cp311-linux_x86_64.whl", tmp_path, "simd.avx2")


def test_the_pil_that_is_loaded_is_the_one_the_environment_promises() -> None:
    if not STAMP.is_file():
        pytest.skip("this environment was not made by launch/environment.sh")
    obstacle = STAMP.read_text().split("obstacle to pillow-simd:")[1].splitlines()[0].strip()
    version = metadata.version("pillow")
    assert version.split("+")[0] == PIL.__version__
    assert (".post" in PIL.__version__) == (obstacle == "")
    assert version.endswith("+simd.avx2") == (obstacle == "")


def test_nothing_but_the_distribution_pillow_owns_the_package_pil() -> None:
    assert set(metadata.packages_distributions()["PIL"]) == {"pillow"}
