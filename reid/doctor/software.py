"""Checks of what is installed: Python, the libraries and whether they fit together, pictures, words."""

import locale
import os
import platform
import struct
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torchvision
from packaging.requirements import Requirement

from preprocess.images import pil_backend
from reid.doctor.finding import Finding, Subject, failure, ok, warning

OLDEST_PYTHON = (3, 11)
INSTALL = "Run launch/quickstart.sh, or install requirements.lock into a fresh environment"


def python(_: Subject) -> Finding:
    found = f"Python {platform.python_version()}, {8 * struct.calcsize('P')} bits, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON or struct.calcsize("P") < 8:
        return failure(found, "Use a 64-bit Python 3.11 or later")
    if sys.prefix == sys.base_prefix:
        return warning(
            f"{found}, no virtual environment", "Activate .venv: another program may change this one"
        )
    return ok(found)


def libraries(_: Subject) -> Finding:
    """Every declared requirement, in the version that is asked for."""
    wrong, requirements = [], _requirements()
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} is asked for, {version} is there")
    if wrong:
        return failure("; ".join(wrong), INSTALL)
    return ok(f"{len(requirements)} libraries in the versions asked for")


def _requirements() -> list[Requirement]:
    """Those of the installed package, or of the checkout that this file lies in."""
    checkout = Path(__file__).parents[2] / "pyproject.toml"
    if checkout.exists():
        lines = tomllib.loads(checkout.read_text())["project"]["dependencies"]
    else:
        lines = metadata.requires("reid-video") or []
    requirements = map(Requirement, lines)
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]


def torch_and_torchvision(_: Subject) -> Finding:
    """Builds that do not belong together miss each other's operators."""
    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    try:
        kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist()
    except RuntimeError as error:
        return failure(
            f"{found}: {error}", "Install both from the same index, in versions of the same release"
        )
    if kept != [1]:
        return failure(f"{found}: an operator gives {kept} instead of [1]", INSTALL)
    return ok(found)


def pil(_: Subject) -> Finding:
    """Which PIL resizes pictures, and whether it is of one piece."""
    backend = pil_backend()
    if backend.problems:
        return failure(
            "; ".join(backend.problems),
            "Uninstall both pillow and pillow-simd, then run launch/quickstart.sh, which installs one",
        )
    if not backend.simd:
        return warning(
            backend.describe(),
            "Packing in resize mode takes three to four times as long; launch/quickstart.sh builds pillow-simd",
        )
    return ok(backend.describe())


def decoder(_: Subject) -> Finding:
    """Frames are decoded by simplejpeg, which must be exact and refuse what is cut."""
    picture = np.full((16, 16, 3), 200, dtype=np.uint8)
    data = simplejpeg.encode_jpeg(picture, 95)
    found = f"simplejpeg {metadata.version('simplejpeg')}"
    if np.abs(simplejpeg.decode_jpeg(data).astype(int) - 200).max() > 2:
        return failure(f"{found} decodes a grey square wrongly", INSTALL)
    try:
        simplejpeg.decode_jpeg(data[: len(data) // 2])
    except ValueError:
        return ok(f"{found}, refuses what is cut")
    return failure(f"{found} accepts half a JPEG, so damage would be trained on", INSTALL)


def words(_: Subject) -> Finding:
    """File names and logs are UTF-8."""
    encodings = {
        "file names": sys.getfilesystemencoding(),
        "text": locale.getpreferredencoding(do_setlocale=False),
    }
    wrong = [
        f"{name} in {found}" for name, found in encodings.items() if found.lower().replace("-", "") != "utf8"
    ]
    if wrong:
        return warning(", ".join(wrong), "Set LANG=C.UTF-8, or PYTHONUTF8=1")
    return ok("UTF-8")


def accelerate(_: Subject) -> Finding:
    """Settings outside of this repository that change how processes are started."""
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")).expanduser()
    default = cache / "accelerate" / "default_config.yaml"
    unsupported = [
        name
        for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
        if os.environ.get(name, "false").lower() in {"1", "true"}
    ]
    found = f"accelerate {metadata.version('accelerate')}"
    if unsupported:
        return failure(
            f"{found}, {', '.join(unsupported)} set", "Unset it: only DDP is synchronised correctly here"
        )
    if default.exists():
        return warning(
            f"{found}, and settings of your own in {default}",
            "They are used by a launch without --config_file: name one of launch/accelerate",
        )
    return ok(found)
