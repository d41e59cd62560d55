"""What the tests of slurm/ share: a cluster of two hosts for each file of tests, and a user of it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.desk import Desk


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    if os.geteuid() != 0:
        pytest.skip("slurm: hosts of their own need root here")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    with Cluster.up(folder / "cluster") as cluster:
        yield Desk(cluster, folder)
    shutil.rmtree(folder)
