"""A user of the throw-away cluster, and a training small enough for it."""

import sys
from pathlib import Path

from reid.training import checkpoint
from tests.slurm.cluster import Cluster

CHECKOUT = Path(__file__).parents[2]
LAST = 20
TINY = {
    "data": {"height": 32, "width": 16, "num_identities": 4, "clip_frames": 3, "num_workers": 0},
    "model": {"backbone": "thin", "weights": "none", "num_parts": 2},
    "optimizer": {"warmup_epochs": 0.5},
    "schedule": {"stage1_epochs": 1, "stage2_epochs": 1, "epoch_iterations": LAST // 2},
    "evaluation": {"every_epochs": 1, "batch_clips": 8},
    "engine": {
        "precision": "fp64",
        "device": "cpu",
        "log_every_steps": 5,
        "checkpoint_every_steps": 1,
        "keep_checkpoints": 100,
        "hang_timeout_seconds": 45,
    },
    "tracking": {"uri": "offline"},
}
HOSTILE = '100% of "a  b", it\'s $(touch harmed);\n#x'
"""A name that a script, an INI file or an address of a database must not take to pieces."""


class Desk:
    """Submits from the checkout, and keeps everything in `folder`."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder

    def submit(
        self, script: str, *words: str | Path, options: tuple[str, ...] = (), **environment: str
    ) -> str:
        """The number of the job, which has one core and no GPU; its output goes to a file of that name."""
        return self.cluster.sbatch(
            *("--mincpus=1", "--gpus-per-node=0", f"--output={self.folder}/%j.log"),
            *options,
            CHECKOUT / "slurm" / script,
            *words,
            checkout=CHECKOUT,
            **{"REID_VENV": sys.prefix, "OMP_NUM_THREADS": "1"} | environment,
        )

    def train(self, run: str, *options: str, **environment: str) -> str:
        """Two nodes, a process each."""
        words = ("--config", self.folder / "tiny.yaml", "--run", self.folder / run)
        return self.submit("train.sbatch", *words, options=("--nodes=2", *options), **environment)

    def output(self, job: str) -> str:
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else "(no output yet)"

    def reached(self, run: str, step: int, patience: float = 180) -> None:
        """Wait until the run has published `step`."""
        place = checkpoint.place(self.folder / run / "checkpoints", step)
        self.cluster.until(lambda: any(p >= place for p in place.parent.glob("step-*")), f"{place}", patience)

    def advances(self, run: str, steps: int) -> None:
        """Wait until the run has published a checkpoint `steps` beyond its newest."""
        there = checkpoint.published(self.folder / run / "checkpoints")
        self.reached(run, steps + (int(there[-1].name.removeprefix("step-")) if there else 0))

    def ends(self, job: str, state: str = "COMPLETED") -> None:
        assert self.cluster.wait(job, 400) == state, self.output(job)
        assert not (CHECKOUT / "harmed").exists(), self.output(job)
