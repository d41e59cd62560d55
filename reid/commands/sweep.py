"""reid sweep: the curves of Fig. 8, or of another file of curves, several seeds each."""

from collections.abc import Sequence

from reid.commands import experiment


def main(arguments: Sequence[str]) -> int:
    return experiment.main("sweep", "lambda_sweep.yaml", arguments)
