"""What may lie where a file is expected, and must neither be waited for nor believed. Each takes the place of a file."""

import os
from pathlib import Path


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")
