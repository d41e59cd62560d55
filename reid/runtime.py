"""The only room that knows there are several processes: devices, precision, seeds, agreement, and requests to stop.

    Runtime.start(engine configuration, seed)
      .prepare(network)        device, channels-last, synchronised batch statistics, autocast, DDP
      .gather, .sum, .collect  rows and numbers of all processes
      .heed()                  raises Stopped on every process at once, after some process was signalled
      .doing(activity, step)   what the watchdog shall say if nothing comes after it
      .leader(make, silent)    one process does, the others get something silent

accelerate is used for launching, device and DDP, and for nothing else: its data loaders re-shard, its checkpoints
pickle, its scheduler steps once a process, and its fp16 on a CPU is silently fp32.
"""

import logging
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, convert_outputs_to_fp32
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reid.collectives import average_trained, gather_rows, synchronize_batch_norm
from reid.signals import Stopped, noting
from reid.types import ToldElsewhereError
from reid.watchdog import Watchdog

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Made = TypeVar("Made")

log = logging.getLogger(__name__)


class Runtime:
    """A process among its peers. `rank` counts from 0 to `world` - 1."""

    def __init__(self, accelerator: Accelerator, precision: str, timeout: timedelta) -> None:
        self._accelerator = accelerator
        self.precision = precision
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.device: torch.device = accelerator.device
        self.dtype = torch.float64 if precision == "fp64" else torch.float32  # of weights and inputs
        self._stop = _StopRequest(self.world, timeout)
        self._watchdog: Watchdog | None = None

    @classmethod
    def start(
        cls, *, precision: str, device: str, seed: int, deterministic: bool, timeout_seconds: float = 600
    ) -> Self:
        """Join the processes that `accelerate launch` started, or be alone.

        The CPU is used where `device` is `cpu` or there is no GPU. No exchange waits longer than `timeout_seconds`.
        Raises RuntimeError if the launcher's world and ours differ.
        """
        timeout = timedelta(seconds=timeout_seconds)
        cpu = device == "cpu" or not torch.cuda.is_available()
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no",
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
                ),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != accelerator.num_processes:
            raise RuntimeError(
                f"the launcher started {launched} processes, accelerate sees {accelerator.num_processes}: on a machine "
                "without a GPU, launch with --config_file launch/accelerate/cpu.yaml"
            )
        if precision == "fp16" and accelerator.device.type == "cpu" and accelerator.process_index == 0:
            log.warning(
                "engine.precision: fp16 on a CPU is for tests: the gradients of convolutions take tens of times longer than "
                "in fp32; bf16 or fp32 is what a CPU is good at"
            )
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries may draw from the global generator)
        random.seed(seed)
        torch.backends.cudnn.benchmark = not deterministic  # shapes stay the same for the whole run
        torch.backends.cudnn.allow_tf32 = precision in AUTOCAST  # torch's fp32 convolutions would not be fp32
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(mode=True)
        return cls(accelerator, precision, timeout)

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: it alone writes files and logs."""
        return self.rank == 0

    def leader(self, make: Callable[[], Made], silent: Callable[[], Made]) -> Made:
        """What `make` makes on the leading process, what `silent` makes on the others."""
        return make() if self.leads else silent()

    def place(self, network: nn.Module) -> None:
        """In place: on the device, in the precision of its weights, channels last."""
        network.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network as it is trained: on the device, with autocast, synchronised over processes.

        `network` itself is changed in place and stays the module that owns the parameters. Those that require no gradient
        when it is called rest, and nobody sends or waits for a gradient of theirs.
        """
        self.place(network)
        if self.world > 1:
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(network)
            else:
                synchronize_batch_norm(network)
        if self.precision in AUTOCAST:
            network.forward = convert_outputs_to_fp32(self.autocast()(network.forward))
        with warnings.catch_warnings():
            # torch renames broadcast_buffers; the versions we support know this name
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            prepared: nn.Module = self._accelerator.prepare_model(network)
        if isinstance(prepared, DistributedDataParallel):
            prepared.register_comm_hook(dist.group.WORLD, average_trained)
        elif self.world > 1:
            raise RuntimeError(f"{self.world} processes, but accelerate did not wrap the network for them")
        return prepared

    def autocast(self) -> torch.autocast:
        """The precision of the run, for what is called outside the prepared network's forward."""
        return torch.autocast(
            self.device.type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST
        )

    def gather(self, x: Tensor) -> Tensor:
        """(R, ...) -> (world*R, ...), in the order of the processes; gradients flow back to where rows came from."""
        return x if self.world == 1 else gather_rows(x, self.rank, self.world)

    def concatenate(self, x: Tensor | None) -> Tensor:
        """Rows of all processes in their order, each with its own number of rows; None stands for no rows.

        `x` is (R, D) on the CPU; so is the result, on every process. Raises ValueError if nobody has a row.
        """
        shapes = self.collect(None if x is None else tuple(x.shape))
        widths = {shape[1] for shape in shapes if shape is not None}
        if len(widths) != 1:
            raise ValueError(
                f"expected rows of one width from at least one process, found the shapes {shapes}"
            )
        counts = [0 if shape is None else shape[0] for shape in shapes]
        if x is not None and self.world == 1:
            return x
        padded = torch.zeros(max(counts), widths.pop())
        if x is not None:
            padded[: len(x)] = x
        rows = self.gather(padded.to(self.device)).cpu().split(max(counts))
        return torch.cat([piece[:count] for piece, count in zip(rows, counts, strict=True)])

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, without gradients."""
        total = x.detach().clone()
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def collect(self, value: Made) -> list[Made]:
        """Any picklable value of every process, in the order of the processes, on every process."""
        values: list[Any] = [value]
        if self.world > 1:
            values = [None] * self.world
            dist.all_gather_object(values, value)
        return values

    def agree(self, value: Made) -> Made:
        """The leading process's value, on every process."""
        return self.collect(value)[0]

    def decide(self, make: Callable[[], Made]) -> Made:
        """What `make` returns on the leading process, on every process. A ValueError it raises is raised by all."""
        decision: tuple[Made | None, str | None] = (None, None)
        if self.leads:
            try:
                decision = make(), None
            except ValueError as error:
                decision = None, str(error)
        made, refusal = self.agree(decision)
        if refusal is not None:
            raise ValueError(refusal) if self.leads else ToldElsewhereError(refusal)
        return cast("Made", made)

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def share(self, rows: int) -> slice:
        """The contiguous part of `rows` rows that falls to this process; the parts differ by one row at most."""
        return slice(rows * self.rank // self.world, rows * (self.rank + 1) // self.world)

    def random_state(self) -> dict[str, Any]:
        """The generators of this process, as JSON types."""
        state: dict[str, Any] = {"torch": torch.get_rng_state().numpy().tobytes().hex()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device).numpy().tobytes().hex()
        return state

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Undo everything that was drawn since `random_state`."""
        torch.set_rng_state(_bytes(state["torch"]))
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(_bytes(state["cuda"]), self.device)

    def memory_gigabytes(self) -> float:
        """The most device memory this process has used so far, in GB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else 0.0

    def gpu(self) -> str | None:
        """The UUID by which the driver knows this process's GPU; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return f"GPU-{torch.cuda.get_device_properties(self.device).uuid}"

    def heeding_signals(self) -> AbstractContextManager[None]:
        """Within, SIGTERM, SIGUSR1 and SIGINT are requests to stop at the next step."""
        return self._stop.heeded()

    def stop_requested(self) -> str | None:
        """The signal some process was sent, or None: the same answer on every process. Called once a step by all.

        What a process is told now was asked of all in the call before, so nobody waits for the exchange.
        """
        return self._stop.agreed()

    def heed(self) -> None:
        """Raises Stopped, on every process in the same call, where `stop_requested` names a signal."""
        if (name := self.stop_requested()) is not None:
            raise Stopped(name, asks_again=name != signal.SIGINT.name)

    @contextmanager
    def watched(self, folder: Path, timeout_seconds: float) -> Iterator[None]:
        """Within, a job in which nothing is `doing` for so long is ended, and who held it up is named.

        `folder` is where each process leaves its signs of life.
        """
        with Watchdog(folder, self.rank, self.world, timeout_seconds) as watchdog:
            self._watchdog = watchdog
            try:
                yield
            finally:
                self._watchdog = None

    def doing(self, activity: str, step: int) -> None:
        """Tell the watchdog what begins now. Called by all processes alike."""
        if self._watchdog is not None:
            self._watchdog.tell(activity, step)

    def end(self) -> None:
        """Leave the group of processes."""
        self._accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()


class _StopRequest:
    """A flag that signal handlers raise, and its maximum over the processes, one step late."""

    def __init__(self, world: int, timeout: timedelta) -> None:
        self._raised = 0
        self._answered = False
        self._exchange = (
            partial(_Maximum, dist.new_group(backend="gloo", timeout=timeout)) if world > 1 else _Alone
        )
        self._pending: _Maximum | _Alone | None = None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Note signals. One that came too late to be agreed upon means in the end what it meant before."""
        with noting(self._note):
            yield
        if self._raised and not self._answered:
            signal.raise_signal(self._raised)

    def agreed(self) -> str | None:
        answer = self._pending.result() if self._pending else 0
        self._pending = self._exchange(self._raised)
        self._answered = self._answered or bool(answer)
        return signal.Signals(answer).name if answer else None

    def _note(self, number: int) -> None:
        self._raised = max(self._raised, number)


class _Alone:
    """The exchange of a process without peers."""

    def __init__(self, value: int) -> None:
        self._value = value

    def result(self) -> int:
        return self._value


class _Maximum:
    """The largest value of all processes, on its way while they compute."""

    def __init__(self, group: Any, value: int) -> None:
        self._value = torch.tensor(value)
        self._work = dist.all_reduce(self._value, dist.ReduceOp.MAX, group=group, async_op=True)

    def result(self) -> int:
        assert self._work is not None
        self._work.wait()
        return int(self._value)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
