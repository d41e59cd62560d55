"""The files for `accelerate launch`: accelerate understands them, and each starts what it promises.

Without a GPU that is all but the GPUs: the processes of one_gpu, one_node and multi_node find none and meet over gloo, where
on GPUs they would take one each and meet over NCCL.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

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
together = torch.distributed.is_initialized()
seen = {"type": accelerator.distributed_type.value, "backend": torch.distributed.get_backend() if together else None,
        "gathered": accelerator.gather(own).tolist(), "port": os.environ.get("MASTER_PORT"),
        "machine": os.environ.get("GROUP_RANK")}
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


def start(name: str, *options: str, program: Path, out: Path) -> "subprocess.Popen[bytes]":
    """The launcher at work, where there is no GPU; cpu.yaml must hide those that there are itself."""
    environment = {key: value for key, value in os.environ.items() if key not in {"MASTER_PORT", "RANK"}}
    return subprocess.Popen(
        [*LAUNCH, "--config_file", CONFIGS / f"{name}.yaml", *options, program, out],
        env=environment if name == "cpu" else environment | {"CUDA_VISIBLE_DEVICES": ""},
    )


def seen(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.slow
def test_the_file_for_the_cpu_starts_two_processes_each_even_twice_at_once(
    program: Path, tmp_path: Path
) -> None:
    launches = [start("cpu", program=program, out=tmp_path / name) for name in ("first", "second")]
    assert [launch.wait(timeout=300) for launch in launches] == [0, 0]
    found = seen(tmp_path)
    assert sorted(found) == ["first-0", "first-1", "second-0", "second-1"]
    assert {(one["type"], one["backend"], str(one["gathered"])) for one in found.values()} == {
        ("MULTI_CPU", "gloo", "[0, 1]")
    }
    assert found["first-0"]["port"] == found["first-1"]["port"] != found["second-0"]["port"]


@pytest.mark.slow
def test_the_file_for_one_gpu_starts_one_process_and_that_for_one_node_so_many(
    program: Path, tmp_path: Path
) -> None:
    alone = start("one_gpu", program=program, out=tmp_path / "alone")
    three = start("one_node", "--num_processes", "3", program=program, out=tmp_path / "three")
    assert [launch.wait(timeout=300) for launch in (alone, three)] == [0, 0]
    found = seen(tmp_path)
    assert found.pop("alone-0")["type"] == "NO"
    assert {name: one["gathered"] for name, one in found.items()} == {
        f"three-{rank}": [0, 1, 2] for rank in range(3)
    }


@pytest.mark.slow
def test_the_file_for_several_nodes_joins_a_launcher_of_each(program: Path, tmp_path: Path) -> None:
    """Two launchers on this machine, a process each: rank follows --machine_rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = ("--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port)
    launches = [
        start("multi_node", "--machine_rank", str(rank), *common, program=program, out=tmp_path / "node")
        for rank in (1, 0)
    ]
    assert [launch.wait(timeout=300) for launch in launches] == [0, 0]
    found = seen(tmp_path)
    assert {name: one["machine"] for name, one in found.items()} == {"node-0": "0", "node-1": "1"}
    assert {(one["backend"], str(one["gathered"]), one["port"]) for one in found.values()} == {
        ("gloo", "[0, 1]", port)
    }
