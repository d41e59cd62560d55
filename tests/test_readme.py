"""Every command of README.md runs as it stands there, or at least, as in the other pages, names only what exists.

A block opened by ```bash is executed, in the order of the page, in one scratch folder that looks like the repository
(links to everything but `runs/`), so a later block may use what an earlier one made. A line before the block keeps it
from being executed, invisibly to the reader:

    <!-- not run: needs a GPU -->
    ```bash

Its paths must then exist all the same, and every option must be one that the program's help names. Capitals stand for
what a reader fills in (`--machine_rank RANK`), `$NAME` is left alone. The first page of a batch script is read like that too:
its commands are what stands three spaces from the `#`.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "docker" / "README.md",
    *sorted(ROOT.glob("slurm/*.sbatch")),
]
BLOCK = re.compile(r"(?m)(?:^<!-- not run: (?P<reason>.+?) -->\n\s*)?^```bash\n(?P<text>.*?)^```$", re.DOTALL)
IN_A_SCRIPT = re.compile(r"(?m)(?:^#   (?=\S).*\n(?:(?<=\\\n)#.*\n)*)+")
SUBSTITUTE = re.compile(r"\$\(([^)]*)\)")
OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
MADE_BY_THE_USER = {"slurm/site.sh"}
SUBMITTED = {  # what a batch script does with the words after its name
    "slurm/train.sbatch": ("python", "-m", "reid", "train"),
    "slurm/ablation.sbatch": ("python", "-m", "reid", "ablate"),
    "slurm/evaluate.sbatch": ("python", "-m", "reid", "evaluate"),
    "slurm/preprocess.sbatch": ("python", "-m", "preprocess", "pack"),
}
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "300",
    "NO_COLOR": "1",
}


class Block(NamedTuple):
    line: int
    text: str
    reason: str | None
    """Why it is not run, or None."""


def blocks(page: str) -> list[Block]:
    return [
        Block(page.count("\n", 0, match.start("text")), match["text"], match["reason"])
        for match in BLOCK.finditer(page)
    ]


def shown(page: Path) -> list[Block]:
    """The blocks of a page, or of the first page of a batch script."""
    text = page.read_text()
    if page.suffix != ".sbatch":
        return blocks(text)
    return [
        Block(text.count("\n", 0, match.start()), re.sub("(?m)^#", "", match[0]), "it is a comment")
        for match in IN_A_SCRIPT.finditer(text)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without comments, variables set before it, and what follows a pipe or a chain; and those
    of the commands in `$(...)`.
    """
    for line in text.replace("\\\n", " ").splitlines():
        for inner in SUBSTITUTE.findall(line):
            yield from commands(inner)
        words: list[str] = []
        for word in [*shlex.split(SUBSTITUTE.sub("SUBSTITUTE", line), comments=True), ";"]:
            if word in {"&&", "||", "|", ";", "&"}:
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"\w+=\S*", word):
                words.append(word)


@cache
def help_of(*program: str) -> str:
    answer = subprocess.run(
        [*program, "--help"], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT
    )
    return answer.stdout


def programs(words: list[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Our programs in a command, each with the arguments that are its own: a launcher also starts what it launches."""
    match words:
        case ["accelerate", "launch", *rest] if "-m" in rest:
            start = rest.index("-m")
            yield ("accelerate", "launch"), rest[:start]
            yield from programs(["python", *rest[start:]])
        case ["sbatch", *rest] | ["reid", "slurm", "check", *rest]:
            yield from (
                (program, rest[i + 1 :]) for i, word in enumerate(rest) if (program := SUBMITTED.get(word))
            )
        case ["python", "-m", "reid" | "preprocess" as module, command, *rest]:
            yield ("python", "-m", module, command), rest
        case ["reid" | "reid-preprocess" as program, *rest]:
            yield from programs(["python", "-m", program.removeprefix("reid-"), *rest])
        case ["mlflow", command, *rest]:
            yield ("mlflow", command), rest
        case ["launch/train.sh", *rest]:
            yield from programs(["reid", "train", *rest])
        case ["docker" | "apptainer" | "enroot" | "srun", *rest] if ours := started_in_a_container(rest):
            yield from programs(ours)
        case [script, *rest] if script.startswith("launch/"):
            yield (script,), rest


def started_in_a_container(words: list[str]) -> list[str]:
    """The last words of a call of docker, enroot, ..., if they are a command of ours: not the image that is called reid."""
    starts = (i for i, word in enumerate(words) if word.startswith("launch/") and word.endswith(".sh"))
    evaluates = (i for i, pair in enumerate(pairwise(words)) if pair == ("reid", "evaluate"))
    return words[next(chain(starts, evaluates), len(words)) :]


def mistakes(text: str) -> list[str]:
    """Paths that do not exist and options that a program's help does not name."""
    found = []
    for words in commands(text):
        for word in words:
            path = word.split("=")[-1]
            if (ROOT / path.split("/")[0]).is_dir() and "/" in path and not path.startswith(("runs/", "/")):
                known = (ROOT / path).exists() or path in MADE_BY_THE_USER
                found += [] if known else [f"there is no {path}"]
        for program, arguments in programs(words):
            script = program[0].startswith("launch/")
            text_of_help = (ROOT / program[0]).read_text() if script else help_of(*program)
            options = [word.split("=")[0] for word in arguments if OPTION.match(word)]
            found += [
                f"{' '.join(program)} has no option {option}"
                for option in options
                if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w.-])", text_of_help)
            ]
    return found


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    for path in ROOT.iterdir():
        if path.name not in {"runs", ".git"}:
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_commands_of_the_readme_run_from_top_to_bottom(scratch: Path) -> None:
    executed = [block for block in blocks(README.read_text()) if block.reason is None]
    assert any("launch/quickstart.sh" in block.text for block in executed)
    for block in executed:
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=scratch,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"README.md, line {block.line}:\n{block.text}\n{answer.stdout[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_names_only_what_exists(page: Path) -> None:
    wrong = {f"line {block.line}": found for block in shown(page) if (found := mistakes(block.text))}
    assert wrong == {}


PAGE = """
```bash
echo one
```
text
<!-- not run: needs a cluster -->
```bash
sbatch slurm/train.sbatch   # and wait
```
```text
no command
```
"""


def test_blocks_are_found_with_their_reason() -> None:
    assert blocks(PAGE) == [
        Block(2, "echo one\n", None),
        Block(7, "sbatch slurm/train.sbatch   # and wait\n", "needs a cluster"),
    ]


def test_commands_are_split_as_a_shell_would() -> None:
    text = "SEED=1 reid train \\\n  --run 'a b' && ls | wc  # count\n\nexport A=$(nproc --all)\n"
    assert list(commands(text)) == [
        ["reid", "train", "--run", "a b"],
        ["ls"],
        ["wc"],
        ["nproc", "--all"],
        ["export", "A=SUBSTITUTE"],
    ]


def test_the_commands_on_the_first_page_of_a_batch_script_are_found() -> None:
    (block,) = shown(ROOT / "slurm" / "train.sbatch")
    source, submit = commands(block.text)
    assert source == ["source", "slurm/site.sh"]
    assert submit[:4] == ["sbatch", "--nodes=2", "--gpus-per-node=4", "--time=24:00:00"]
    assert submit[-2:] == ["--run", "/scratch/runs/full"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cat launch/nothing.yaml", "there is no launch/nothing.yaml"),
        ("launch/quickstart.sh runs/demo --sed 1", "launch/quickstart.sh has no option --sed"),
        ("accelerate launch --num_procs 2 -m reid train", "accelerate launch has no option --num_procs"),
        (
            "accelerate launch --num_processes 2 -m reid config --data.rot X",
            "python -m reid config has no option --data.rot",
        ),
        ("reid config --jso", "python -m reid config has no option --jso"),
        (
            "docker run --rm reid reid evaluate --chekpoint X",
            "python -m reid evaluate has no option --chekpoint",
        ),
        ("A=$(sbatch --parsable slurm/train.sbatch --rn X)", "python -m reid train has no option --rn"),
    ],
)
def test_a_path_or_an_option_that_does_not_exist_is_noticed(text: str, complaint: str) -> None:
    assert complaint in mistakes(text)


def test_what_exists_raises_no_complaint() -> None:
    text = """
        launch/quickstart.sh runs/demo --seed 1
        accelerate launch --config_file launch/accelerate/one_node.yaml --num_processes $(nvidia-smi -L | wc -l) \\
            -m reid config --config launch/experiments/vcm.yaml --data.root /data/vcm
    """
    assert mistakes(text) == []
