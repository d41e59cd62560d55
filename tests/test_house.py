"""The walls of the house: who may import whom, and which word lives in which file.

Every file becomes a `Source`; a rule is a function from a source to complaints. A rule is run over the whole house, and
over a snippet that breaks it, so that no rule is silent because it is broken itself.
"""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Who may know whom: a room, or a single module with a stricter rule, and what it may import beside itself.
# An arrow never runs back up. A new room needs a line here.
ROOMS: dict[str, tuple[str, ...]] = {
    "reid.types": (),
    "reid.config": ("reid.types",),
    "reid.collectives": (),
    "reid.machine": (),
    "reid.terminal": (),
    "reid.signals": (),
    "reid.watchdog": (),
    "reid.runtime": ("reid.collectives", "reid.signals", "reid.watchdog", "reid.types"),
    "reid.data": ("reid.types",),
    "reid.model": ("reid.types",),
    "reid.evaluation": (
        "reid.data",
        "reid.model",
        "reid.runtime",
        "reid.machine",
        "reid.terminal",
        "reid.types",
    ),
    "reid.evaluation.metrics": ("reid.types",),
    "reid.tracking": ("reid.types",),
    "reid.training": (
        "reid.evaluation",
        "reid.data",
        "reid.model",
        "reid.runtime",
        "reid.signals",
        "reid.machine",
        "reid.terminal",
        "reid.config",
        "reid.tracking",
        "reid.types",
    ),
    "reid.training.recipe": ("reid.model", "reid.training.objectives", "reid.types"),
    "reid.training.objectives": ("reid.types",),
    "reid.training.updater": ("reid.model", "reid.training.recipe", "reid.types"),
    "reid.doctor": (
        "reid.data",
        "reid.model",
        "reid.machine",
        "reid.config",
        "reid.tracking",
        "reid.types",
        "preprocess.images",
    ),
    "reid.experiments": ("reid.config", "reid.tracking", "reid.types"),
    "reid.report": ("reid.evaluation", "reid.data", "reid.terminal", "reid.tracking", "reid.types"),
    "reid.deployment": (
        "reid.training",
        "reid.evaluation",
        "reid.data",
        "reid.model",
        "reid.terminal",
        "reid.config",
        "reid.tracking",
        "reid.types",
    ),
    "reid.arguments": ("reid.config", "reid.types"),
    "reid.configured": ("reid.arguments", "reid.config"),
    "reid.commands": (
        "reid.arguments",
        "reid.configured",
        "reid.terminal",
        "reid.deployment",
        "reid.doctor",
        "reid.experiments",
        "reid.report",
        "reid.training",
        "reid.evaluation",
        "reid.data",
        "reid.tracking",
        "reid.config",
        "reid.signals",
        "reid.types",
    ),
    "reid.cli": ("reid.commands", "reid.terminal", "reid.types"),
    "reid.__main__": ("reid.cli",),
    "preprocess": (
        "reid.data.description",
        "reid.data.manifest",
        "reid.data.shards",
        "reid.data.ustar",
        "reid.types",
    ),
}

# Libraries that live in one place only.
HOMES: dict[str, tuple[str, ...]] = {
    "accelerate": ("reid.runtime",),
    "torch.distributed": ("reid.runtime", "reid.collectives"),
    "mlflow": ("reid.tracking.mlflow",),
    "pyarrow": ("reid.data.manifest", "preprocess"),
    "webdataset": (),  # tests see that it reads our shards; nothing of ours needs it to write or read them
}

# Modules of formulas: what they may import that is not ours and not Python's own.
FORMULAS: dict[str, tuple[str, ...]] = {
    "reid.training.recipe": ("torch",),
    "reid.training.objectives": ("torch",),
    "reid.training.updater": ("torch",),
    "reid.evaluation.metrics": ("torch", "numpy"),
}

RANK_WORDS = {
    "is_main_process",
    "is_local_main_process",
    "process_index",
    "local_process_index",
    "get_rank",
    "num_processes",
}
METRIC = re.compile(r"(train|mean|speed|gpu|system|health|infrared_to_visible|visible_to_infrared)/(\w+)?")
EMPTY_WORDS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
PRINTING_ROOMS = ("reid.cli", "reid.commands", "reid.__main__", "preprocess.__main__")


class Source(NamedTuple):
    """A Python file: its module's name with dots, and what it says."""

    module: str
    tree: ast.Module


Rule = Callable[[Source], Iterator[str]]


def parse(module: str, text: str) -> Source:
    return Source(module, ast.parse(text))


def package_sources() -> list[Source]:
    """Every module of the two packages; a package's own module is called PACKAGE.__init__."""
    files = sorted(itertools.chain(ROOT.glob("reid/**/*.py"), ROOT.glob("preprocess/**/*.py")))
    return [parse(".".join(file.relative_to(ROOT).with_suffix("").parts), file.read_text()) for file in files]


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def imported(source: Source) -> Iterator[str]:
    """Dotted names that a module imports, at any depth, as `package.module.name`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


def knows_only_its_neighbours(source: Source) -> Iterator[str]:
    if source.module.endswith("__init__"):
        return
    room = max((room for room in ROOMS if is_within(source.module, room)), key=len, default=None)
    if room is None:
        yield "this room has no line in ROOMS"
        return
    for name in imported(source):
        allowed = any(is_within(name, neighbour) for neighbour in (room, *ROOMS[room]))
        if is_within(name, "reid") or is_within(name, "preprocess"):
            if not allowed:
                yield f"imports {name}, but {room} may know only {', '.join(ROOMS[room]) or 'nobody'}"
        elif name.startswith("."):
            yield f"imports {name}: write the whole name"


def keeps_libraries_at_home(source: Source) -> Iterator[str]:
    for name, (library, homes) in itertools.product(imported(source), HOMES.items()):
        if is_within(name, library) and not any(is_within(source.module, home) for home in homes):
            yield f"imports {name}, which lives in {' and '.join(homes) or 'tests'}"


def formulas_are_pure(source: Source) -> Iterator[str]:
    if source.module not in FORMULAS:
        return
    for name in imported(source):
        top = name.split(".")[0]
        if top not in {*FORMULAS[source.module], "reid"} and top not in sys.stdlib_module_names:
            yield f"imports {name}, but is made of {', '.join(FORMULAS[source.module])} alone"


def only_the_runtime_knows_ranks(source: Source) -> Iterator[str]:
    if is_within(source.module, "reid") and source.module != "reid.runtime":
        yield from (f"says {word}" for word in sorted(RANK_WORDS.intersection(identifiers(source.tree))))


def metrics_are_named_in_one_place(source: Source) -> Iterator[str]:
    if source.module == "reid.tracking.names" or not is_within(source.module, "reid"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and METRIC.fullmatch(node.value):
            yield f"line {node.lineno} spells {node.value!r}, a name of reid/tracking/names.py"


def names_say_something(source: Source) -> Iterator[str]:
    yield from (f"{part!r} is no name" for part in source.module.split(".") if part in EMPTY_WORDS)


def init_files_only_describe(source: Source) -> Iterator[str]:
    if source.module.endswith("__init__") and len(source.tree.body) > 1:
        yield "holds more than a docstring"


def only_commands_print(source: Source) -> Iterator[str]:
    printing = any(is_within(source.module, room) for room in PRINTING_ROOMS)
    if not printing and "print" in identifiers(source.tree):
        yield "prints; modules log, commands print"


def yaml_is_loaded_safely(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        match node:
            case ast.Attribute(value=ast.Name(id="yaml"), attr=name) if (
                "load" in name and name != "safe_load"
            ):
                yield f"calls yaml.{name}"
    yield from (f"imports {name}" for name in imported(source) if re.fullmatch(r"yaml\.\w*load\w*", name))


BROKEN: list[tuple[Rule, str, str]] = [
    (knows_only_its_neighbours, "reid.data.clips", "from reid.model import resnet"),
    (knows_only_its_neighbours, "reid.model.network", "def f():\n    from reid.config import Config"),
    (knows_only_its_neighbours, "reid.training.recipe", "from reid.config import Config"),
    (knows_only_its_neighbours, "reid.evaluation.metrics", "from reid.runtime import Runtime"),
    (knows_only_its_neighbours, "reid.training.engine", "import reid.cli"),
    (knows_only_its_neighbours, "reid.training.engine", "from reid import cli"),
    (knows_only_its_neighbours, "reid.training.engine", "from . import meters"),
    (knows_only_its_neighbours, "reid.attic", ""),
    (knows_only_its_neighbours, "preprocess.pack", "from reid.data.loader import test_clips"),
    (keeps_libraries_at_home, "reid.training.engine", "from accelerate import Accelerator"),
    (keeps_libraries_at_home, "reid.training.engine", "from torch import distributed"),
    (keeps_libraries_at_home, "reid.tracking.journal", "import mlflow.entities"),
    (keeps_libraries_at_home, "reid.data.shards", "import pyarrow.parquet as pq"),
    (keeps_libraries_at_home, "preprocess.verify", "import webdataset"),
    (formulas_are_pure, "reid.training.objectives", "import numpy as np"),
    (only_the_runtime_knows_ranks, "reid.training.engine", "if accelerator.is_main_process: pass"),
    (only_the_runtime_knows_ranks, "reid.data.loader", "def share(num_processes): pass"),
    (metrics_are_named_in_one_place, "reid.training.engine", "log('train/loss', 1.0)"),
    (metrics_are_named_in_one_place, "reid.report.tables", "f'infrared_to_visible/rank{k}'"),
    (names_say_something, "reid.data.utils", ""),
    (init_files_only_describe, "reid.data.__init__", '"""Data."""\nfrom reid.data import clips'),
    (only_commands_print, "reid.training.engine", "print(1)"),
    (yaml_is_loaded_safely, "reid.config", "import yaml\nyaml.load(f, Loader=yaml.Loader)"),
    (yaml_is_loaded_safely, "reid.config", "from yaml import full_load"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: Rule) -> None:
    complaints = [f"{source.module}: {what}" for source in package_sources() for what in rule(source)]
    assert complaints == []


@pytest.mark.parametrize(("rule", "module", "text"), BROKEN)
def test_a_broken_rule_is_noticed(rule: Rule, module: str, text: str) -> None:
    assert list(rule(parse(module, text)))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "reid.training.engine",
            '"""Loop."""\nfrom reid.data import clips\nfrom reid.training import meters\nimport torch',
        ),
        (
            "reid.runtime",
            '"""Ranks."""\nimport torch.distributed\nfrom accelerate import Accelerator\nA.process_index',
        ),
        (
            "preprocess.pack",
            '"""Pack."""\nimport pyarrow.parquet as pq\nfrom reid.data.ustar import member',
        ),
        ("reid.tracking.names", '"""Names."""\nLOSS = "train/loss"'),
        ("reid.config", '"""Typed."""\nimport yaml\nyaml.safe_load("")'),
        ("reid.cli", '"""Commands."""\nprint("mean of train/loss")'),
    ],
)
def test_what_is_allowed_raises_no_complaint(module: str, text: str) -> None:
    assert [what for rule in RULES for what in rule(parse(module, text))] == []


def circle(knows: dict[str, set[str]]) -> list[str]:
    """The nodes of a graph that lie on a circle or lead to one."""
    left = {module: set(others) for module, others in knows.items()}
    while free := [module for module, others in left.items() if not others.intersection(left)]:
        for module in free:
            del left[module]
    return sorted(left)


def test_no_modules_import_each_other() -> None:
    sources = package_sources()
    modules = {source.module for source in sources}
    knows = {
        source.module: {
            name for name in modules if any(is_within(target, name) for target in imported(source))
        }
        for source in sources
    }
    assert circle(knows) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]


def test_the_table_of_rooms_runs_downwards_only() -> None:
    knows = {
        room: {below for below in ROOMS if any(is_within(below, name) for name in ROOMS[room])}
        for room in ROOMS
    }
    assert circle(knows) == []


def test_preprocess_works_where_torch_accelerate_and_mlflow_are_missing() -> None:
    modules = [source.module for source in package_sources() if is_within(source.module, "preprocess")]
    program = (
        "import importlib, sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'accelerate', 'mlflow'])  # an import of these fails\n"
        f"for module in {modules}: print(importlib.import_module(module).__name__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.stderr == ""
    assert answer.stdout.split() == modules
