"""reid ablate: the rows of Table 1, or of another file of rows, several seeds each."""

from collections.abc import Sequence

from reid.commands import experiment


def main(arguments: Sequence[str]) -> int:
    return experiment.main("ablate", "ablation.yaml", arguments)
