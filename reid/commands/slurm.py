"""reid slurm check: what sbatch would be given, and what would go wrong."""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    action, *words = arguments or ["--help"]
    if action != "check" or not words or words[0] in {"-h", "--help"}:
        print(
            "usage: reid slurm check [options of sbatch] SCRIPT [its arguments]\n\n"
            "Write `reid slurm check` in place of `sbatch`: it tells what would be submitted and what would go wrong,\n"
            "and submits nothing."
        )
        return 0 if {action, *words[:1]} & {"-h", "--help"} else 2
    import tyro

    from reid.arguments import parse
    from reid.commands import experiment, printing
    from reid.commands.train import TrainArguments
    from reid.configured import starting_point
    from reid.doctor.checkup import examine, is_healthy
    from reid.doctor.finding import Subject
    from reid.doctor.sbatch import Call
    from reid.doctor.submission import checks

    call = Call.parse(words)
    subject = Subject()
    if call.script.name == "ablation.sbatch" and call.trains():
        told, _ = experiment.told("ablate", ["--out", *call.arguments])
        subject = Subject(told.config, told.out)
    elif call.trains():
        base, rest = starting_point(call.arguments)
        chosen = parse(TrainArguments, rest, "train", TrainArguments(run=tyro.MISSING, config=base))
        subject = Subject(chosen.config, chosen.run)
    print(f"{call.rendered}\n")
    for name, (value, source) in sorted(call.effective().items()):
        print(f"  --{name}{f'={value}' if value else ''}  ({source})")
    print()
    found = examine(subject, checks(call))
    printing.findings(found)
    return 0 if is_healthy(found) else 1
