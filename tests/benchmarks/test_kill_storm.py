"""benchmarks/kill_storm.py: a dozen kills change nothing in what a run of two processes becomes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_a_dozen_times_ends_as_the_undisturbed_one_bit_for_bit():
    command = [sys.executable, "-m", "benchmarks.kill_storm", "--kills", "12", "--seed", "3", "--json"]
    storm = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    told = json.loads(storm.stdout)
    assert told["complaints"] == []
    assert (told["kills"], storm.returncode) == (12, 0)
    assert told["ends"] >= 1
