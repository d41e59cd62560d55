"""The lock files: complete, exact, hashed, and true of what is installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "requirements.lock", *sorted((ROOT / "launch" / "locks").glob("*.lock"))]


def entries(lock: Path) -> list[str]:
    """A lock's requirements, each with its hashes, on one line."""
    text = re.sub(r"(?m)^#.*\n", "", lock.read_text()).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def locked(lock: Path) -> list[Requirement]:
    return [Requirement(entry.split(" --hash=")[0]) for entry in entries(lock)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_entry_is_one_exact_version_with_hashes_and_no_address(lock: Path) -> None:
    assert entries(lock)
    for entry in entries(lock):
        assert re.match(r"[\w.-]+==[\w.]+ (; .+ )?( +--hash=sha256:[0-9a-f]{64})+ *$", entry), entry
        assert "://" not in entry


def test_every_dependency_is_locked_at_a_version_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pins = [pin for lock in LOCKS for pin in locked(lock)]
    for requirement in map(Requirement, wanted):
        versions = [
            next(iter(pin.specifier)).version
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
        ]
        assert versions, f"{requirement.name} is not locked: run launch/lock.sh"
        for version in versions:
            assert requirement.specifier.contains(version), (
                f"{requirement} is locked at {version}: run launch/lock.sh"
            )


def test_pil_is_left_to_its_own_locks() -> None:
    assert "pillow" not in {canonicalize_name(pin.name) for pin in locked(ROOT / "requirements.lock")}
    assert [pin.name for pin in locked(ROOT / "launch/locks/pillow.lock")] == ["pillow"]
    assert [pin.name for pin in locked(ROOT / "launch/locks/pillow_simd.lock")] == ["pillow-simd"]


def test_the_locked_pillow_suits_everybody_who_requires_it() -> None:
    version = next(iter(locked(ROOT / "launch/locks/pillow.lock")[0].specifier)).version
    required = [
        (distribution.name, requirement)
        for distribution in metadata.distributions()
        for requirement in map(Requirement, distribution.requires or [])
        if canonicalize_name(requirement.name) == "pillow"
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]
    assert {"torchvision", "matplotlib"} <= {name for name, _ in required}
    assert [(name, str(rule)) for name, rule in required if not rule.specifier.contains(version)] == []


def test_what_is_installed_is_what_is_locked() -> None:
    if not (ROOT / ".venv" / "packages").is_file():
        pytest.skip("this environment was not made by launch/environment.sh")
    pins = [pin for pin in locked(ROOT / "requirements.lock") if pin.marker is None or pin.marker.evaluate()]
    wrong = [str(pin) for pin in pins if not pin.specifier.contains(metadata.version(pin.name))]
    assert wrong == []
    assert len(pins) > 100
