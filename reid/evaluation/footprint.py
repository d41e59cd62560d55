"""How much memory an evaluation takes, told before it begins.

counts, width of the vectors -> Footprint -> a line of the log, or a refusal
"""

from typing import NamedTuple, Self

FLOAT_BYTES = 4
BLOCK_ROWS = 256  # rows of similarities or distances that exist at a time
ENTRY_BYTES = 2 * (8 + FLOAT_BYTES)  # of a sparse row of re-ranking, kept by rows and by columns
ENTRIES = 500  # generous: a row of HITSZ-VCM's size has about a hundred
NEAREST_BYTES = 32 * 8


class Footprint(NamedTuple):
    """Bytes that one process needs at most, beside what it has already."""

    num_query: int
    num_gallery: int
    width: int
    vectors: int
    exchange: int
    ranking: int

    @classmethod
    def of(cls, *, num_query: int, num_gallery: int, width: int, is_alone: bool, rerank: bool) -> Self:
        """For vectors of `width` float32. Alone, a process needs no room to exchange them with others."""
        row = width * FLOAT_BYTES
        largest, together = max(num_query, num_gallery), num_query + num_gallery
        ranking = 2 * BLOCK_ROWS * largest * FLOAT_BYTES
        if rerank:
            blocks = 4 * BLOCK_ROWS * together * FLOAT_BYTES + BLOCK_ROWS * row
            ranking = blocks + together * (ENTRIES * ENTRY_BYTES + NEAREST_BYTES)
        return cls(
            num_query,
            num_gallery,
            width,
            vectors=together * row,
            exchange=largest * row * (1 if is_alone else 4),
            ranking=ranking,
        )

    @property
    def total(self) -> int:
        """The vectors stay; the exchange of the last side is over when ranking begins."""
        return self.vectors + max(self.exchange, self.ranking)

    def __str__(self) -> str:
        return (
            f"{self.num_query:,} queries and {self.num_gallery:,} gallery tracklets, vectors of {self.width:,} numbers: "
            f"at most {_size(self.total)} in a process ({_size(self.vectors)} for the vectors, "
            f"{_size(self.exchange)} while they are collected, {_size(self.ranking)} while they are ranked)"
        )

    def refusal(self, host: str, count: int, available: int) -> str:
        """What to say where `count` processes of a machine do not fit into the `available` bytes."""
        return (
            f"evaluation: {self}. {count} of them on {host} need {_size(count * self.total)}, but "
            f"{_size(available)} are available. Start fewer processes a machine, ask the job for more memory, or "
            "compare shorter vectors with evaluation.embedding global"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
