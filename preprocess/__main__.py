"""The commands of preprocessing. Each imports what it needs when it runs, so that help is there at once.

    python -m preprocess COMMAND [options]

Exit codes: 0 done; 1 the world failed, or a data set is damaged; 2 a mistake of the user, told in one message.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from preprocess.options import Options, Size
from preprocess.synthetic_options import SyntheticConfig
from preprocess.tree import MOST_REPORTED
from reid.data.description import DamagedManifestError

CORES = len(os.sched_getaffinity(0))
INTERRUPTED = 130

Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
Out = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
Flat = Annotated[Options, tyro.conf.arg(name="")]
Arguments = TypeVar("Arguments")


@dataclass(frozen=True)
class SynthesizeArguments:
    """Make a procedural data set in the official VCM layout."""

    out: Out
    """Folder to write; it must not exist, or be empty."""
    config: Annotated[SyntheticConfig, tyro.conf.arg(name="")]
    num_workers: int = CORES
    """Processes that draw."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class PackArguments:
    """Pack a raw tree into shards with a manifest.

    The same call continues a pack that was interrupted. The result is the same, byte for byte, for any number of
    workers and parts.
    """

    source: Source
    """The raw tree of VCM, in any of its layouts, or of BUPTCampus."""
    out: Out
    """The packed data set. It appears when it is complete; until then OUT.partial holds what is done."""
    options: Flat
    num_workers: int = CORES
    """Processes that read, check and write."""
    part: str | None = None
    """I/N: write only this share of the shards, to be sealed later. For job arrays."""
    seal: bool = False
    """Write nothing; check what the parts have written, and publish it."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class VerifyArguments:
    """Read a packed data set back and name all damage. Exit code 1 if there is any."""

    out: Out
    """The packed data set."""
    quick: bool = False
    """Compare checksums only, decode nothing."""
    num_workers: int = CORES
    """Processes that read and decode."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class InspectArguments:
    """Show what a packed data set holds."""

    out: Out
    """The packed data set."""
    json: bool = False
    """Print JSON."""


def run_synthesize(arguments: Sequence[str]) -> int:
    chosen = _parse(SynthesizeArguments, arguments, "synthesize")
    from preprocess.progress import shown
    from preprocess.synthetic import synthesize

    with shown("drawing", "identities") as progress:
        summary = synthesize(chosen.config, chosen.out, chosen.num_workers, progress)
    fields = {**asdict(summary), "root": str(summary.root)}
    if chosen.json:
        print(json.dumps(fields, indent=2))
        return 0
    print(
        f"{summary.root}: {summary.train_identities} identities to train on, {summary.test_identities} to test on, "
        f"{summary.tracklets:,} tracklets ({summary.short_tracklets:,} short), {summary.frames:,} frames"
    )
    return 0


def run_pack(arguments: Sequence[str]) -> int:
    chosen = _parse(PackArguments, arguments, "pack")
    from preprocess.images import pil_backend
    from preprocess.pack import Part, pack
    from preprocess.progress import shown

    part = Part.parse(chosen.part) if chosen.part is not None else None
    if part and chosen.seal:
        raise ValueError("--part writes a share, --seal publishes what all parts wrote: give one of the two.")
    backend = pil_backend()
    logging.info("%s", backend.describe())
    for problem in backend.problems:
        logging.warning("%s", problem)
    packed = pack(
        chosen.source,
        chosen.out,
        chosen.options,
        num_workers=chosen.num_workers,
        part=part,
        seal_only=chosen.seal,
        show=shown,
    )
    if chosen.json:
        fields = packed._asdict() | {"out": str(packed.out), "backend": backend._asdict()}
        print(json.dumps(fields, indent=2))
        return 0
    print(f"{packed.shards_written} shards written, {packed.shards_kept} were there")
    if not packed.sealed:
        print(
            f"{packed.out}: not complete yet; when all parts are written, say --seal in the place of --part"
        )
        return 0
    source = packed.description["source"]
    print(f"layout: {source['layout']}")
    _print_notes(source)
    print(_summary(packed.out, packed.description))
    print(f"data set id {packed.id}")
    return 0


def run_verify(arguments: Sequence[str]) -> int:
    chosen = _parse(VerifyArguments, arguments, "verify")
    from preprocess.progress import shown
    from preprocess.verify import verify

    with shown("verifying", "bytes") as progress:
        found = verify(chosen.out, quick=chosen.quick, num_workers=chosen.num_workers, progress=progress)
    if chosen.json:
        damages = [damage._asdict() for damage in found.damages]
        print(json.dumps(found._asdict() | {"damages": damages}, indent=2))
        return 1 if damages else 0
    for damage in found.damages:
        print(damage)
    if found.damages:
        print(f"{chosen.out}: {len(found.damages)} damages")
        return 1
    how = "every frame decoded" if found.decoded else "checksums only"
    print(
        f"{chosen.out}: whole; {found.shards:,} shards, {found.tracklets:,} tracklets, {found.frames:,} frames, "
        f"{found.nbytes:,} bytes, {how}; data set id {found.id}"
    )
    return 0


def run_inspect(arguments: Sequence[str]) -> int:
    chosen = _parse(InspectArguments, arguments, "inspect")
    from preprocess.statistics import inspect
    from reid.data.manifest import Manifest

    shown = inspect(Manifest.open(chosen.out))
    if chosen.json:
        print(json.dumps(shown, indent=2))
        return 0
    print(_summary(chosen.out, shown))
    print(f"data set id {shown['id']}, layout: {shown['layout']}, sizes of pictures: {shown['sizes']}")
    print(
        f"frames in a tracklet: {shown['frames_per_tracklet']}, of the protocol at least {shown['minimum_frames']}"
    )
    print("\nsplit  modality   identities  tracklets  long enough     frames")
    for split, modality in (
        (split, light) for split in ("train", "test") for light in ("infrared", "visible")
    ):
        cell = shown["counts"][split][modality]
        print(
            f"{split:<6} {modality:<10} {cell['identities']:>10,} {cell['tracklets']:>10,} "
            f"{cell['long_tracklets']:>12,} {cell['frames']:>10,}"
        )
    print("\ncamera  infrared   visible   (tracklets)")
    for camera, cell in shown["cameras"].items():
        print(f"{camera:>6} {cell['infrared']:>9,} {cell['visible']:>9,}")
    print(
        f"\npairs of query and gallery in the same camera, left out of evaluation: {shown['same_camera_pairs']:,}"
    )
    _print_notes(shown)
    return 0


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "synthesize": (run_synthesize, "make a procedural data set in the official VCM layout"),
    "pack": (run_pack, "raw tree -> shards and manifest"),
    "verify": (run_verify, "read a packed data set back and name all damage"),
    "inspect": (run_inspect, "show what a packed data set holds"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    name, *rest = arguments if arguments is not None else sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        lines = [f"  {command:<10} {summary}" for command, (_, summary) in COMMANDS.items()]
        usage = "usage: python -m preprocess COMMAND [options]; `COMMAND --help` lists them"
        print("\n".join([usage, "", *lines]))
        if name in {"-h", "--help"}:
            return 0
        print(f"\npreprocess: there is no command {name!r}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # what SIGTERM leaves is tidied up as after Ctrl-C
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return COMMANDS[name][0](rest)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"preprocess {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) and not isinstance(error, DamagedManifestError) else 1
    except KeyboardInterrupt:
        remedy = "; the same command goes on from here" if name == "pack" else ""
        print(f"preprocess {name}: interrupted{remedy}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _sizes() -> tyro.constructors.ConstructorRegistry:
    """How HxW is read from the command line."""
    registry = tyro.constructors.ConstructorRegistry()

    def parse(words: list[str]) -> Size:
        height, by, width = words[0].lower().partition("x")
        if not (by and height.isdecimal() and width.isdecimal()):
            raise ValueError(f"expected HxW, as 288x144, found {words[0]!r}")
        return Size(int(height), int(width))

    def rule(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Size] | None:
        if info.type != Size | None:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW",
            instance_from_str=parse,
            is_instance=lambda instance: isinstance(instance, Size),
            str_from_instance=lambda size: [str(size)],
        )

    registry.primitive_rule(rule)
    return registry


def _parse(kind: type[Arguments], arguments: Sequence[str], command: str) -> Arguments:
    parsed: Arguments = tyro.cli(
        kind,
        prog=f"python -m preprocess {command}",
        args=list(arguments),
        config=(tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
        registry=_sizes(),
    )
    return parsed


def _summary(out: Path, fields: dict[str, Any]) -> str:
    counts = fields["counts"]
    kind = "synthetic" if fields["synthetic"] else "real"
    return (
        f"{out}: {fields['name']} ({kind}), {counts['identities']:,} identities, {counts['tracklets']:,} tracklets, "
        f"{counts['frames']:,} frames in {counts['shards']:,} shards"
    )


def _print_notes(source: dict[str, Any]) -> None:
    _print_list("odd but not wrong", source["notes"])
    _print_list("differs from the published VCM", source["differences"])
    _print_list("pictures left out", [": ".join(each) for each in source["skipped_frames"]])
    _print_list("tracklets that this cost", source["lost_tracklets"])


def _print_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"{title}:")
        print("\n".join(f"  {line}" for line in lines[:MOST_REPORTED]))
    if len(lines) > MOST_REPORTED:
        print(f"  ... and {len(lines) - MOST_REPORTED} more (--json lists all)")


if __name__ == "__main__":
    sys.exit(main())
