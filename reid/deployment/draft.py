"""A name to write under, beside the one that a file gets once it is whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A name beside `path`, in whose folder, made if need be, nothing is left of it afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
