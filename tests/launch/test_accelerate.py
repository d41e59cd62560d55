"""The files for `accelerate launch`: accelerate understands them, and the one for the CPU starts what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import DistributedType

CONFIGS = Path(__file__).parents[2] / "launch" / "accelerate"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]

PROGRAM = """
import json, os, sys, torch
from accelerate import Accelerator
accelerator = Accelerator(cpu=not torch.cuda.is_available())
own = torch.tensor([accelerator.process_index])
seen = {"type": accelerator.distributed_type.value, "backend": torch.distributed.get_backend(),
        "gathered": accelerator.gather(own).tolist(), "port": os.environ["MASTER_PORT"]}
with open(f"{sys.argv[1]}-{accelerator.process_index}.json", "w") as file:
    json.dump(seen, file)
accelerator.end_training()
"""


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [
        ("cpu", DistributedType.MULTI_GPU, 1, 2),
        ("one_gpu", DistributedType.NO, 1, 1),
        ("one_node", DistributedType.MULTI_GPU, 1, -1),
        ("multi_node", DistributedType.MULTI_GPU, 2, -1),
    ],
)
def test_accelerate_reads_the_file(name: str, kind: DistributedType, machines: int, processes: int) -> None:
    config = ClusterConfig.from_yaml_file(CONFIGS / f"{name}.yaml")
    assert (config.distributed_type, config.num_machines, config.num_processes) == (kind, machines, processes)


def test_there_is_no_file_without_a_test() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == {"cpu", "one_gpu", "one_node", "multi_node"}


@pytest.mark.parametrize("name", ["one_node", "multi_node"])
def test_the_number_of_gpus_must_be_given(name: str) -> None:
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS / f"{name}.yaml"), "program.py"]
    )
    with pytest.raises(ValueError, match="--num_processes"):
        launch_command(arguments)


@pytest.mark.slow
def test_the_file_for_the_cpu_starts_two_processes_each_even_twice_at_once(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {key: value for key, value in os.environ.items() if key not in {"MASTER_PORT", "RANK"}}
    launches = [
        subprocess.Popen(
            [*LAUNCH, "--config_file", CONFIGS / "cpu.yaml", program, tmp_path / name], env=environment
        )
        for name in ("first", "second")
    ]
    assert [launch.wait(timeout=300) for launch in launches] == [0, 0]
    seen = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(seen) == ["first-0", "first-1", "second-0", "second-1"]
    assert {(one["type"], one["backend"], str(one["gathered"])) for one in seen.values()} == {
        ("MULTI_CPU", "gloo", "[0, 1]")
    }
    assert seen["first-0"]["port"] == seen["first-1"]["port"] != seen["second-0"]["port"]
