"""`dataset.json`, the root of trust of a packed data set: whether a byte of it has changed, and what it must hold.

    bytes -> format and version -> digest of itself -> every field of its kind -> fields, and their sha256: the id

The tables of the manifest are compared with the digests that stand here, shards with those in the tables. A JSON object
that carries a digest of itself is `sealed`; sidecars of shards are too.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

FORMAT = "reid-video packed data set"
VERSION = 2
DESCRIPTION = "dataset.json"
TABLES = ("manifest/shards.parquet", "manifest/tracklets.parquet", "manifest/frames.arrow")
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
LARGEST_DESCRIPTION = 64 << 20
MOST_COMPLAINTS = 5
REMEDY = "Run `python -m preprocess verify` on it, and pack it again if it is damaged."

_SEAL, _SEALED_END = b',"digest":"', b'"}'
_SHAPE: dict[str, Any] = {  # a type, a pattern, [of each entry], {of each member}
    "name": str,
    "synthetic": bool,
    "plan": SHA256,
    "pictures": SHA256,
    "protocol": {"minimum_frames": int, "mixed": str},
    "options": {},
    "source": {
        "layout": str,
        "mixed_rows": {},
        "notes": [str],
        "differences": [str],
        "skipped_frames": [[str]],
        "lost_tracklets": [str],
    },
    "counts": {},
    "files": {table: {"nbytes": int, "sha256": SHA256} for table in TABLES},
}


class DamagedManifestError(ValueError):
    """The description or a table of a data set is not what was packed: which file, and why."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}. {REMEDY}"


def sealed(text: str) -> bytes:
    """A JSON object with one member more, the last: a sha256 of all that stands before it."""
    content = text.removesuffix("}").rstrip().encode() + _SEAL
    return content + hashlib.sha256(content).hexdigest().encode() + _SEALED_END + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """The members of a sealed JSON object. Raises ValueError if a byte of it has changed."""
    content, end = data.rstrip(b"\n")[:-66], data.rstrip(b"\n")[-66:]
    if hashlib.sha256(content).hexdigest().encode() + _SEALED_END != end:
        raise ValueError("the digest at its end is not that of its content: it was cut or changed")
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - callers ask whether the bytes are sound
    del fields["digest"]
    return fields


def read_description(root: Path) -> tuple[dict[str, Any], str]:
    """The content of `dataset.json` and its sha256.

    Raises ValueError if `root` is no packed data set, or one of another version, DamagedManifestError if it is damaged.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        raise ValueError(
            f"{root} is not a packed data set: there is no {DESCRIPTION}. Make one from a raw tree with "
            f"`python -m preprocess pack SOURCE {root}`."
        )
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_DESCRIPTION + 1)
    except OSError as error:
        raise DamagedManifestError(path, f"it cannot be read: {error.strerror}") from error
    return parse_description(data, str(path))


def parse_description(data: bytes, place: str) -> tuple[dict[str, Any], str]:
    """The same of bytes that were read from `place`."""
    if len(data) > LARGEST_DESCRIPTION:
        raise DamagedManifestError(place, f"larger than {LARGEST_DESCRIPTION:,} bytes")
    try:
        fields = json.loads(data)
        known, version = fields["format"] == FORMAT, fields["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedManifestError(place, f"not the description of a packed data set ({error!r})") from error
    if not known or version != VERSION:
        raise ValueError(
            f"{place}: expected format {FORMAT!r} version {VERSION}, found {fields['format']!r} version {version}. "
            "Pack the raw tree again with this version of the program."
        )
    try:
        fields = unsealed(data)
    except ValueError as error:
        raise DamagedManifestError(place, str(error)) from error
    wrong = list(islice(_wrong(fields, _SHAPE, ""), MOST_COMPLAINTS))
    if wrong:
        raise DamagedManifestError(place, "; ".join(wrong))
    return fields, hashlib.sha256(data).hexdigest()


def _wrong(found: Any, shape: Any, name: str) -> Iterator[str]:
    """What is missing or of another kind than it must be."""
    match shape:
        case dict() if type(found) is dict:
            for member, of_member in shape.items():
                path = f"{name}.{member}" if name else member
                if member in found:
                    yield from _wrong(found[member], of_member, path)
                else:
                    yield f"{path} is missing"
        case list() if type(found) is list:
            for place, entry in enumerate(found):
                yield from _wrong(entry, shape[0], f"{name}[{place}]")
        case re.Pattern() if type(found) is str and shape.fullmatch(found):
            pass
        case type() if type(found) is shape:
            pass
        case _:
            yield f"{name or 'the whole'} cannot be {str(found)[:40]!r}"
