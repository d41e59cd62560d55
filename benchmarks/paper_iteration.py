"""One iteration of each stage in the paper's own configuration, on whatever machine this is.

    python benchmarks/paper_iteration.py [--folder DIR] [options of `reid train`]

ResNet-50, 288 x 144, 8 identities x 2 tracklets x 2 modalities x 6 frames, Algorithm 1, bf16. The pictures are synthetic
and the weights random, which changes neither time nor memory. Prints the parameters of each part, the seconds of each
iteration and the most memory the process held, as Markdown.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from preprocess.options import Options
from preprocess.pack import pack
from preprocess.synthetic import SyntheticConfig, synthesize
from reid.config import Config
from reid.tracking.journal import read
from reid.tracking.names import Metric
from reid.training import build

NUM_TRAIN_IDENTITIES = 500  # of HITSZ-VCM: what the parameters are counted for
ONE_ITERATION_EACH = {
    "--model.weights": "none",
    "--schedule.stage1-epochs": "1",
    "--schedule.stage2-epochs": "1",
    "--schedule.epoch-iterations": "1",
    "--engine.log-every-steps": "1",
    "--tracking.uri": "offline",
}


def parameters() -> dict[str, int]:
    """Parameters of each part of the full model."""
    with torch.device("meta"):
        parts = build.network(Config(), NUM_TRAIN_IDENTITIES).parts
    return {
        part: sum(parameter.numel() for parameter in module.parameters()) for part, module in parts.items()
    }


def data_set(folder: Path) -> Path:
    """A packed synthetic set with enough identities for one batch, at the paper's size."""
    if not (folder / "shards").exists():
        config = SyntheticConfig(
            num_identities=14,
            num_train_identities=10,
            tracklets_per_modality=2,
            height=288,
            width=144,
            short_fraction=0,
        )
        synthesize(config, folder / "raw", num_workers=2)
        pack(folder / "raw", folder / "shards", Options(), num_workers=2)
    return folder / "shards"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "paper_iteration")
    own, options = parser.parse_known_args()
    run = Path(tempfile.mkdtemp(prefix="run-", dir=data_set(own.folder).parent))
    flags = [word for pair in ONE_ITERATION_EACH.items() for word in pair]
    command = [
        sys.executable,
        "-m",
        "reid",
        "train",
        "--run",
        str(run),
        "--data.root",
        str(own.folder / "shards"),
    ]
    subprocess.run([*command, *flags, *options], check=True)
    counts = parameters()
    print("| part | parameters, M |\n| :-- | --: |")
    for part, count in {**counts, "all": sum(counts.values())}.items():
        print(f"| {part} | {count / 1e6:.2f} |")
    for record in read(run):
        if record.kind == "metrics" and Metric.STEP_MS in record.data:
            print(f"iteration {record.step}: {float(record.data[Metric.STEP_MS]) / 1000:.1f} s")
    print(f"most memory held: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.1f} GiB")
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
