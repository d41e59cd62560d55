"""An iteration of training against its floor and against literal research code, and where its time goes.

    OMP_NUM_THREADS=1 python -m benchmarks.step [--rounds 5] [--processes] [size, precision]

* The floor: the passes through a bare torchvision ResNet-50 that the iteration needs, in the same precision and memory
  format, and nothing else. Which passes those are is counted while the iteration runs.
* Literal code: the same updates in fp32 and NCHW, with the map of IMSA materialised and the plain loop of SGD.

On a CPU times are CPU seconds, on a GPU seconds between synchronisations; ratios are medians of slices, each between
two slices of its reference (`timing.py`). `--processes` compares two processes with one, a core each. The network
itself is the one that trains; the clips are noise, which changes no time. Needs torch, torchvision and accelerate only.
"""

import argparse
import contextlib
import gc
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torchvision.models import resnet50

from benchmarks.timing import Clock, cpu_seconds, ratio, seconds, wall_seconds
from reid.model.attention import IntraModalitySelfAttention
from reid.model.defence import CrossAttention
from reid.model.network import Network, Structure
from reid.model.resnet import Layers, Stem
from reid.runtime import Runtime
from reid.training.recipe import Criterion, Factors, Stage, stages
from reid.training.updater import Updater
from reid.types import Distance, Recipe, Variant

NUM_IDENTITIES = 500  # of HITSZ-VCM
PAPER_ITERATIONS = 53_600
PIECES = ("stem", "layer1", "layer2", "layer3", "layer4")
PROCESS_ITERATIONS = 4


@dataclass(frozen=True)
class Size:
    """What a process computes on: `identities` x `tracklets` clips of `frames` in each modality."""

    identities: int
    tracklets: int
    frames: int
    height: int
    width: int

    @property
    def clips(self) -> int:
        """Of both modalities."""
        return 2 * self.identities * self.tracklets

    def __str__(self) -> str:
        return f"{self.clips} clips x {self.frames} frames x {self.height} x {self.width}"


class Batch(NamedTuple):
    """Normalised clips (B, T, 3, H, W) of each modality, and the identity (2B,) of each."""

    visible: Tensor
    infrared: Tensor
    identity: Tensor


def batch(size: Size, device: torch.device) -> Batch:
    shape = (size.clips // 2, size.frames, 3, size.height, size.width)
    identity = torch.arange(size.identities, device=device).repeat_interleave(size.tracklets)
    return Batch(torch.randn(shape, device=device), torch.randn(shape, device=device), identity.repeat(2))


class Training:
    """A network and all that moves it, as `reid.training.engine` puts them together."""

    def __init__(self, variant: Variant, recipe: Recipe, runtime: Runtime, *, literal: bool = False) -> None:
        torch.manual_seed(0)
        structure = Structure(
            NUM_IDENTITIES,
            attacker=variant.attacker,
            cross=CrossAttention() if variant.cross_attention else None,
            guide=variant.guide,
        )
        self.network = Network(structure)
        self.model: nn.Module = (
            make_literal(self.network.to(runtime.device)) if literal else runtime.prepare(self.network)
        )
        groups = [
            {"params": parameters}
            for module in self.network.parts.values()
            for trunk in (True, False)
            if (parameters := list(_parameters(module, trunk=trunk)))
        ]
        plain: dict[str, bool] = {"foreach": False, "fused": False}
        self.optimizer = torch.optim.SGD(
            groups,
            lr=1e-4,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            **(plain if literal else {"fused": True}),
        )
        self.stages = stages(frozenset(self.network.parts), Factors(), recipe)
        criterion = Criterion(0.3, Distance.EUCLIDEAN, after_neck=False, gather=runtime.gather)
        half = runtime.precision == "fp16" and not literal
        scalers = {
            group.name: GradScaler(runtime.device.type, enabled=half)
            for stage in self.stages
            for group in stage.groups
        }
        self.updater = Updater(self.network, self.model, self.optimizer, criterion, scalers)

    def iterate(self, stage: Stage, clips: Batch) -> None:
        for group in stage.groups:
            self.updater.apply(group, *clips)


def _parameters(module: nn.Module, *, trunk: bool) -> Iterator[nn.Parameter]:
    inside = {
        id(parameter)
        for piece in module.modules()
        if isinstance(piece, Stem | Layers)
        for parameter in piece.parameters()
    }
    return (p for p in module.parameters() if p.requires_grad and (id(p) in inside) is trunk)


class MaterialisedSelfAttention(IntraModalitySelfAttention):
    """IMSA as its equation is written, with the map of 2,592 x 2,592 in memory."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (project(x).flatten(2) for project in (self.query, self.key, self.value))
        attention = (query.mT @ key / query.shape[1] ** 0.5).softmax(-1)  # (F, N, N)
        correction: Tensor = self.output((value @ attention.mT).unflatten(2, x.shape[-2:]))
        return x + correction


def make_literal(network: Network) -> Network:
    """The network in NCHW with materialised attention; the same function of the same weights."""
    for module in network.modules():
        if isinstance(module, IntraModalitySelfAttention):
            module.__class__ = MaterialisedSelfAttention
    network.stem.register_forward_pre_hook(lambda _, frames: tuple(x.contiguous() for x in frames))
    return network


class Passes(NamedTuple):
    """How often all frames of a batch go through a piece of a trunk, and how often gradients come back."""

    forward: Counter[str]
    backward: Counter[str]


def passes(training: Training, stage: Stage, clips: Batch) -> Passes:
    """Count them in one iteration, in rows of frames."""
    rows = Passes(Counter(), Counter())
    hooks = []
    for name, module in training.network.named_modules():
        piece = "stem" if name in {"stem.visible", "stem.infrared"} else name.rpartition(".")[2]
        if piece not in PIECES or (piece == "stem" and name == "stem"):
            continue

        def count(_: nn.Module, __: Any, output: Tensor, piece: str = piece) -> None:
            num_frames = len(output)
            rows.forward[piece] += num_frames
            if output.requires_grad:
                output.register_hook(lambda _: rows.backward.update({piece: num_frames}))

        hooks.append(module.register_forward_hook(count))
    training.iterate(stage, clips)
    for hook in hooks:
        hook.remove()
    return rows


class Floor:
    """A bare ResNet-50 with the last stride of the paper, cut into its pieces."""

    def __init__(self, runtime: Runtime, size: Size) -> None:
        net = resnet50()
        net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        modules = (stem, net.layer1, net.layer2, net.layer3, net.layer4)
        self._runtime = runtime
        self._pieces = {}
        x = torch.randn(size.clips * size.frames, 3, size.height, size.width, device=runtime.device)
        for name, module in zip(PIECES, modules, strict=True):
            module.to(runtime.device, memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
            self._pieces[name] = (module, x)
            with torch.no_grad(), runtime.autocast():
                x = module(x).detach()
        self._frames = size.clips * size.frames

    def run(self, needed: Passes) -> None:
        """The passes counted in `needed`; gradients also flow to the input of a piece, but not to the pixels."""
        for name, (module, x) in self._pieces.items():
            both = needed.backward[name] / self._frames
            for portion in _portions(both):
                rows = x[: round(portion * self._frames)].detach().requires_grad_(name != "stem")
                with self._runtime.autocast():
                    out = module(rows)
                out.backward(torch.ones_like(out))
                module.zero_grad(set_to_none=True)
            for portion in _portions(needed.forward[name] / self._frames - both):
                with torch.no_grad(), self._runtime.autocast():
                    module(x[: round(portion * self._frames)])


def _portions(times: float) -> list[float]:
    whole = int(times)
    return [1.0] * whole + ([times - whole] if times - whole > 1e-9 else [])


def clock(device: torch.device) -> Clock:
    if device.type != "cuda":
        return cpu_seconds

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def peak_gigabytes(run: Callable[[], None], device: torch.device) -> float:
    """What `run` holds at most: device memory, or on a CPU what autograd saves for one backward."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) / 1e9
    saved: dict[int, int] = {}
    most = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal most
        storage = x.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        most = max(most, sum(saved.values()))
        return x

    def unpack(x: Tensor) -> Tensor:
        saved.clear()  # the backward has begun: what was saved goes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        run()
    return most / 1e9


def breakdown(
    training: Training, stage: Stage, clips: Batch, now: Clock
) -> Iterator[tuple[str, list[float]]]:
    """Seconds of forward, objectives + backward, and optimizer of each group of updates."""
    marks: list[float] = []

    def mark(*_: Any) -> None:
        marks.append(now())

    hooks = [
        training.model.register_forward_pre_hook(mark),
        training.model.register_forward_hook(mark),
        training.optimizer.register_step_pre_hook(mark),
        training.optimizer.register_step_post_hook(mark),
    ]
    for group in stage.groups:
        marks.clear()
        training.updater.apply(group, *clips)
        yield group.name, [later - earlier for earlier, later in itertools.pairwise(marks)]
    for hook in hooks:
        hook.remove()


class Case(NamedTuple):
    """What is trained, and in which stage (0 or 1)."""

    variant: Variant
    recipe: Recipe
    stage: int


CASES = (
    *(Case(variant, Recipe.ALGORITHM1, 0) for variant in Variant),
    Case(Variant.FULL, Recipe.ALGORITHM1, 1),
    Case(Variant.FULL, Recipe.MERGED, 0),
    Case(Variant.FULL, Recipe.JOINT, 0),
)


class Measured(NamedTuple):
    """Seconds of an iteration, over the floor; gigabytes it holds. Literal code: how much slower, and its gigabytes."""

    seconds: float
    over_floor: float
    gigabytes: float
    slower: float | None
    gigabytes_literal: float | None


def measure(
    case: Case, runtime: Runtime, clips: Batch, floor: Floor, rounds: int, *, literal: bool
) -> Measured:
    now, took = clock(runtime.device), list[float]()
    ours = Training(case.variant, case.recipe, runtime)
    stage = ours.stages[case.stage]
    ours.iterate(stage, clips)  # the first one chooses kernels and makes momentum
    needed = passes(ours, stage, clips)

    def iteration() -> float:
        took.append(seconds(lambda: ours.iterate(stage, clips), now))
        return took[-1]

    floor.run(needed)
    over = ratio(iteration, lambda: seconds(lambda: floor.run(needed), now), rounds)
    memory = peak_gigabytes(lambda: ours.iterate(stage, clips), runtime.device)
    if not literal:
        return Measured(statistics.median(took), over, memory, None, None)
    rival = Training(case.variant, case.recipe, runtime, literal=True)
    rival.iterate(stage, clips)
    slower = ratio(lambda: seconds(lambda: rival.iterate(stage, clips), now), iteration, rounds)
    rivals = peak_gigabytes(lambda: rival.iterate(stage, clips), runtime.device)
    return Measured(statistics.median(took), over, memory, slower, rivals)


def compare(runtime: Runtime, size: Size, rounds: int, cases: Sequence[Case], *, literal: bool) -> None:
    """Print the tables of one process."""
    clips, floor = batch(size, runtime.device), Floor(runtime, size)
    typical = None
    print("| variant | recipe | stage | seconds | over floor | literal over this | GB | GB literal |")
    print("| :-- | :-- | :-- | --: | --: | --: | --: | --: |")
    for case in cases:
        found = measure(case, runtime, clips, floor, rounds, literal=literal)
        gc.collect()  # a prepared network holds itself: accelerate replaces its forward by one that wraps it
        slower = "" if found.slower is None else f"{found.slower:.2f} x"
        rivals = "" if found.gigabytes_literal is None else f"{found.gigabytes_literal:.2f}"
        print(
            f"| {case.variant} | {case.recipe} | {'I' * (case.stage + 1)} | {found.seconds:.3g} | {found.over_floor:.2f} "
            f"| {slower} | {found.gigabytes:.2f} | {rivals} |",
            flush=True,
        )
        if case == Case(Variant.FULL, Recipe.ALGORITHM1, 0):
            typical = found.seconds
    if runtime.device.type == "cuda" and typical is not None:
        hours = PAPER_ITERATIONS * typical / 3600
        print(f"\n{size.clips / typical:.0f} clips/s; {hours:.1f} hours of {PAPER_ITERATIONS} iterations")


def tell_breakdown(runtime: Runtime, size: Size) -> None:
    """Print where the time of the full model goes."""
    clips, now = batch(size, runtime.device), clock(runtime.device)
    training = Training(Variant.FULL, Recipe.ALGORITHM1, runtime)
    print(
        "\n| stage | update | forward | objectives and backward | optimizer |\n| :-- | :-- | --: | --: | --: |"
    )
    for stage in training.stages:
        training.iterate(stage, clips)
        rows = list(breakdown(training, stage, clips, now))
        whole = sum(sum(parts) for _, parts in rows)
        for name, parts in rows:
            print(
                f"| {stage.name} | {name} | {' | '.join(f'{100 * part / whole:.0f} %' for part in parts)} |"
            )


def train_a_little(runtime: Runtime, size: Size) -> float:
    """Seconds on the wall of an iteration of the full model in stage I: the median of a few."""
    training = Training(Variant.FULL, Recipe.ALGORITHM1, runtime)
    clips = batch(size, runtime.device)
    found = [
        seconds(lambda: training.iterate(training.stages[0], clips), wall_seconds)
        for _ in range(PROCESS_ITERATIONS + 1)
    ]
    return statistics.median(found[1:])


def compare_processes(arguments: list[str]) -> None:
    """Print what two processes, a core each, cost over one: joined, and side by side without knowing each other."""
    alone = [sys.executable, "-m", "benchmarks.step", "--worker", *arguments]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu.yaml"]
    joined = [sys.executable, *launcher, "-m", *alone[2:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def measure(*commands: list[str]) -> float:
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            for command in commands
        ]
        told = [process.communicate()[0] for process in started]
        if any(process.returncode for process in started):
            raise SystemExit("a process failed; its reason stands above")
        return max(float(line) for text in told for line in text.split())

    one, strangers, two = measure(alone), measure(alone, alone), measure(joined)
    print("\n| processes, a core each | seconds of an iteration | efficiency |\n| :-- | --: | --: |")
    print(f"| 1 | {one:.2f} | 1 |")
    print(f"| 2, not joined | {strangers:.2f} | {one / strangers:.2f} |")
    print(f"| 2, joined by gloo | {two:.2f} | {one / two:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--rounds", type=int, default=5, help="slices between two of the reference")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--identities", type=int, default=8 if cuda else 2)
    parser.add_argument("--tracklets", type=int, default=2 if cuda else 1)
    parser.add_argument("--frames", type=int, default=6 if cuda else 2)
    parser.add_argument("--height", type=int, default=288)
    parser.add_argument("--width", type=int, default=144)
    names = [variant.value for variant in Variant]
    parser.add_argument("--variants", nargs="+", default=names, choices=names, metavar="VARIANT")
    parser.add_argument(
        "--no-literal", action="store_true", help="leave literal code out, which takes most memory"
    )
    parser.add_argument("--processes", action="store_true", help="compare two processes with one, and end")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    size = Size(chosen.identities, chosen.tracklets, chosen.frames, chosen.height, chosen.width)
    if chosen.processes:
        compare_processes([argument for argument in sys.argv[1:] if argument != "--processes"])
        return
    with contextlib.ExitStack() as ending:
        runtime = Runtime.start(precision=chosen.precision, device="auto", seed=0, deterministic=False)
        ending.callback(runtime.end)
        if chosen.worker:
            print(train_a_little(runtime, size), flush=True)
            return
        name = (
            torch.cuda.get_device_name()
            if cuda
            else f"{platform.machine()}, {torch.get_num_threads()} threads"
        )
        print(f"{name}, torch {torch.__version__}, {chosen.precision}, {size}\n")
        cases = [case for case in CASES if case.variant in chosen.variants]
        compare(runtime, size, chosen.rounds, cases, literal=not chosen.no_literal)
        tell_breakdown(runtime, size)


if __name__ == "__main__":
    main()
