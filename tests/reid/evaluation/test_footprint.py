"""reid/evaluation/footprint.py: what is told holds for what is really taken, and grows with what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

from reid.evaluation.footprint import Footprint

VCM = {"num_query": 4584, "num_gallery": 5099, "width": 12288}


def test_vcm_fits_into_a_gigabyte():
    alone = Footprint.of(**VCM, is_alone=True, rerank=False)
    assert alone.vectors == (4584 + 5099) * 12288 * 4
    assert 0.7e9 < alone.total < 0.8e9
    assert alone.total < Footprint.of(**VCM, is_alone=False, rerank=False).total < 1.5e9
    assert alone.total <= Footprint.of(**VCM, is_alone=True, rerank=True).total < 1e9


def test_the_line_names_every_part():
    assert str(Footprint.of(**VCM, is_alone=True, rerank=False)) == (
        "4,584 queries and 5,099 gallery tracklets, vectors of 12,288 numbers: at most 0.73 GB in a process "
        "(0.48 GB for the vectors, 0.25 GB while they are collected, 10.4 MB while they are ranked)"
    )


def test_a_refusal_says_what_is_there_and_what_helps():
    told = Footprint.of(**VCM, is_alone=False, rerank=False).refusal("node7", 8, 5 * 10**9)
    assert "8 of them on node7 need 11.83 GB, but 5.00 GB are available. Start fewer processes" in told


RANK = """
import resource, sys, torch
from reid.evaluation.footprint import Footprint
from reid.evaluation.reranking import Reranking
from reid.evaluation.retrieval import similarities

torch.set_num_threads(1)
num_query, num_gallery, width, rerank = 1500, 2000, 512, sys.argv[1] == "rerank"
generator = torch.Generator().manual_seed(0)
torch.randn(64, 64) @ torch.randn(64, 64)
query, gallery = (
    torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)
    for count in (num_query, num_gallery)
)
needed = Footprint.of(num_query=num_query, num_gallery=num_gallery, width=width, is_alone=True, rerank=rerank)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = Reranking(query, gallery).similarities() if rerank else similarities(query, gallery)
assert sum(len(row) for row in rows) == num_query * num_gallery
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), needed.ranking)
"""


@pytest.mark.parametrize("how", ["cosine", "rerank"])
def test_ranking_takes_no_more_than_told(how):
    """16 MB are allowed for what libraries keep."""
    done = subprocess.run(
        [sys.executable, "-c", RANK, how],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, told = map(int, done.stdout.split())
    assert grown < told + 16e6
    assert told < 1500 * 2000 * 4 * 8  # far from growing as N x N
