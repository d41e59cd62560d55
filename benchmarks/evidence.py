"""Evidence for the mechanisms of the method, each against controls, on synthetic data:

    OMP_NUM_THREADS=1 python -m benchmarks.evidence --part asam adm stig stage2 [--seeds 3]

* `asam`: what the attack does to the defence's classifier, to the stems and to retrieval (`evidence_asam.py`).
* `adm`: retrieval under disturbed queries with and without the two CMCA (`evidence_adm.py`).
* `stig`: identities that differ only in the order of frames, or of parts (`evidence_stig.py`).
* `stage2`: Step II against Step I continued (`evidence_stage2.py`).

Parts of one call share their runs. Every number is mean +- sample deviation over the seeds; what is tested is told with
each table. What was found, and what it does not say, is in `evidence.md`.
"""

import argparse
import logging
import os
import platform
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import evidence_adm, evidence_asam, evidence_stage2, evidence_stig
from benchmarks.evidence_table import Table
from benchmarks.evidence_walkers import Walkers

ON_WALKERS: dict[str, Callable[[Walkers, int], list[Table]]] = {
    "asam": evidence_asam.report,  # first, because it watches the runs that it shares with `adm`
    "adm": evidence_adm.report,
    "stage2": evidence_stage2.report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = [*ON_WALKERS, "stig"]
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}")
    if "stig" in arguments.part:
        show("stig", partial(evidence_stig.report, arguments.seeds))
    on_walkers = [part for part in ON_WALKERS if part in arguments.part]
    if on_walkers:
        with Walkers.made() as walkers:
            for part in on_walkers:
                show(part, partial(ON_WALKERS[part], walkers, arguments.seeds))


def show(part: str, report: Callable[[], list[Table]]) -> None:
    began = time.process_time()
    tables = report()
    print(f"\n## {part}: {time.process_time() - began:.0f} s of CPU time")
    for table in tables:
        print(f"\n{table}", flush=True)


if __name__ == "__main__":
    main()
