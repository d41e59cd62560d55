"""Evaluation at the full size of HITSZ-VCM, against the loop that the field uses:

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation [--rounds N]

4,584 queries and 5,099 gallery items, vectors of 12,288 float32, synthetic: identities are centres, clips are noisy copies.
The rival is what published code does: the whole matrix of cosines, then for each query argsort, the filter of its own
identity and camera, and CMC and AP in NumPy and a comprehension. Both must find the same numbers. Times are CPU time in
slices that take turns; memory is how much the process grows at most, the vectors included.
"""

import argparse
import os
import platform
import resource
import statistics

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.timing import Row, ratio, seconds
from reid.evaluation.footprint import Footprint
from reid.evaluation.metrics import Labels, Retrieval, evaluate
from reid.evaluation.reranking import Reranking
from reid.evaluation.retrieval import similarities

NUM_QUERY, NUM_GALLERY, WIDTH, NUM_IDENTITIES, NUM_CAMERAS = 4584, 5099, 12288, 427, 12
SLICE = 256  # queries of a slice of scoring
NOISE = 12.0
MAX_RANK = 20


def unit_vectors(
    count: int, generator: torch.Generator, centres: torch.Tensor
) -> tuple[torch.Tensor, Labels]:
    """Vectors (count, D), made in place, and who they are of. Some pairs share identity and camera."""
    who = torch.randint(NUM_IDENTITIES, (count,), generator=generator)
    vectors = torch.empty(count, WIDTH)
    for row, identity in zip(vectors, who, strict=True):
        row.normal_(generator=generator).mul_(NOISE).add_(centres[identity])
        row.div_(row.norm())
    camera = torch.randint(NUM_CAMERAS, (count,), generator=generator)
    return vectors, Labels(who.numpy(), camera.numpy())


def of_the_field(
    cosines: NDArray[np.float32], query: Labels, gallery: Labels
) -> tuple[NDArray[np.float64], float]:
    """CMC (MAX_RANK,) and mAP, a query at a time, as it is written everywhere."""
    curves, precisions = [], []
    for q in range(len(cosines)):
        order = np.argsort(-cosines[q], kind="stable")
        same = gallery.identity[order] == query.identity[q]
        removed = same & (gallery.camera[order] == query.camera[q])
        matches = same[~removed].astype(np.int32)
        if not matches.any():
            continue
        curve = matches.cumsum()
        found = [hits / (rank + 1.0) for rank, hits in enumerate(curve)]
        precisions.append((np.asarray(found) * matches).sum() / matches.sum())
        curve[curve > 1] = 1
        curves.append(curve[:MAX_RANK])
    return np.mean(curves, axis=0), float(np.mean(precisions))


def grown(before: int) -> float:
    """GB by which the most memory of this process has grown."""
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e9


def table(rounds: int) -> list[Row]:
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the library allocates once is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_IDENTITIES, WIDTH, generator=generator)
    query, asked = unit_vectors(NUM_QUERY, generator, centres)
    gallery, answers = unit_vectors(NUM_GALLERY, generator, centres)
    ours = evaluate(similarities(query, gallery), asked, answers)
    memory = grown(before)
    reranking = seconds(lambda: evaluate(Reranking(query, gallery).similarities(), asked, answers))
    memory_of_reranking = grown(before)
    whole = seconds(lambda: evaluate(similarities(query, gallery), asked, answers))
    product = seconds(lambda: query @ gallery.T)
    cosines = (query @ gallery.T).numpy()
    difference = worst_difference(ours, *of_the_field(cosines, asked, answers))
    faster, loop = against_the_field(cosines[:SLICE], asked, answers, rounds)
    told, more = (
        Footprint.of(
            num_query=NUM_QUERY, num_gallery=NUM_GALLERY, width=WIDTH, is_alone=True, rerank=rerank
        ).total
        for rerank in (False, True)
    )
    return [
        Row("the loop of the field over our scoring, given the cosines", f"{faster:.0f} x", ">= 10 x"),
        Row("largest difference of mAP and of CMC up to rank 20", f"{difference:.1e}", "0"),
        Row("cosines and scoring of one direction", f"{whole:.1f} s"),
        Row("the same by the field: one product, the loop", f"{product + loop:.1f} s"),
        Row("the product of all vectors alone", f"{product:.1f} s"),
        Row("memory: vectors, cosines, scores", f"{memory:.2f} GB", "<= 1.5 GB"),
        Row("memory told before it begins, collecting the vectors included", f"{told / 1e9:.2f} GB"),
        Row("k-reciprocal re-ranking and scoring of one direction", f"{reranking:.1f} s"),
        Row("memory with re-ranking", f"{memory_of_reranking:.2f} GB", "<= 1.5 GB"),
        Row("memory told for re-ranking", f"{more / 1e9:.2f} GB"),
    ]


def against_the_field(
    cosines: NDArray[np.float32], asked: Labels, answers: Labels, rounds: int
) -> tuple[float, float]:
    """How often scoring is done while the field does it once, and the seconds of its loop over all queries."""
    some = Labels(asked.identity[: len(cosines)], asked.camera[: len(cosines)])
    loops = []

    def field() -> float:
        loops.append(seconds(lambda: of_the_field(cosines, some, answers)))
        return loops[-1]

    def scoring() -> float:
        return seconds(lambda: evaluate(cosines, some, answers))

    faster = 1 / ratio(scoring, field, rounds)
    return faster, statistics.median(loops) * NUM_QUERY / len(cosines)


def worst_difference(ours: Retrieval, cmc: NDArray[np.float64], mean_ap: float) -> float:
    return max(float(np.abs(ours.cmc[: len(cmc)] - cmc).max()), abs(ours.map - mean_ap))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="slices between two of the reference")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}\n")
    print("| what | measured | target |")
    print("| :-- | --: | --: |")
    for row in table(arguments.rounds):
        print(f"| {row.what} | {row.measured} | {row.target} |", flush=True)


if __name__ == "__main__":
    main()
