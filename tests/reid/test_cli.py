"""reid/cli.py: exit codes, one message for a mistake, help at once, and every key of the configuration as a flag."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reid import config as configuration
from reid.cli import COMMANDS, main
from reid.config import Config
from reid.tracking import family, names
from reid.tracking.journal import Kind, read
from reid.tracking.runs import summary
from reid.tracking.tracker import OFFLINE, Tracker
from reid.types import Direction

OTHER = {
    "full": "asam",
    "resnet50": "thin",
    "algorithm1": "joint",
    "auto": "both",
    "average": "gem",
    "bf16": "fp32",
    "global": "local",
    "steps": "cosine",
}


CONFIGURED = ("train", "ablate", "sweep", "config")


def outcome(arguments: list[str]) -> int:
    """The exit code, however the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def other_value(key: str, value: Any) -> Any:
    """A valid value that is not the default."""
    special = {
        "data.minimum_frames": 9,
        "model.last_stride": 2,
        "model.weights": "none",
        "objective.triplet": "euclidean",
        "optimizer.milestones": [5.0, 6.5],
        "optimizer.clip_norm": 2.5,
        "optimizer.ema_decay": 0.99,
        "engine.device": "cpu",
        "tracking.run_name": "a name",
        "tracking.uri": "offline",
        "tracking.experiment": "mine",
    }
    if key in special:
        return special[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    return "/somewhere" if value is None else OTHER[value]


def flags_of(values: dict[str, Any]) -> list[str]:
    flags = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            section, _, last = name.rpartition(".")
            flags.append(f"--{name}" if value else f"--{section}.no-{last}")
        else:
            flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def test_every_key_of_the_configuration_is_a_flag(capsys):
    values = {key: other_value(key, value) for key, value in configuration.flatten(Config()).items()}
    assert main(["config", "--json", *flags_of(values)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert configuration.flatten(Config.model_validate(printed["config"])) == values
    assert printed["difference"].keys() == values.keys()


def test_flags_change_what_the_file_says_and_the_file_what_the_paper_says(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {height: 96, width: 48}\nseed: 5\n")
    assert main(["config", "--json", "--config", str(path), "--data.width", "64"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["difference"] == {
        "seed": {"paper": 0, "here": 5},
        "data.height": {"paper": 288, "here": 96},
        "data.width": {"paper": 144, "here": 64},
    }


def test_the_printed_configuration_reads_back_as_itself(tmp_path, capsys):
    assert main(["config", "--objective.margin", "0.4", "--optimizer.milestones", "3", "9.5"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(text := capsys.readouterr().out)
    config = configuration.from_yaml(path)
    assert (config.objective.margin, config.optimizer.milestones) == (0.4, (3, 9.5))
    assert "# 2 keys differ from the paper:" in text
    assert main(["config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == text


def test_the_default_configuration_differs_from_the_paper_in_nothing(capsys):
    assert main(["config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == Config().model_dump(mode="json")
    assert "# 0 keys differ from the paper" in printed
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == {}


def test_the_schema_describes_exactly_the_resolved_configuration(capsys):
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    content = Config().model_dump(mode="json")
    assert schema["properties"].keys() == content.keys()
    assert not schema["additionalProperties"]
    for name, values in content.items():
        if isinstance(values, dict):
            section = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
            assert section["properties"].keys() == values.keys()
            assert not section["additionalProperties"]
            for key, value in values.items():
                assert section["properties"][key]["default"] == value


def test_help_lists_the_commands_and_an_unknown_one_is_named(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"  {command} " in printed for command in COMMANDS)
    assert main(["trane"]) == 2
    assert "there is no command 'trane'" in capsys.readouterr().err


def test_help_of_every_command_comes_without_the_heavy_libraries():
    """Only where every key of the configuration is an option is the configuration there, and pydantic with it."""
    told = [command for command in COMMANDS if command not in CONFIGURED]
    program = f"""
import sys
from reid.cli import main
HEAVY = {{"torch", "torchvision", "accelerate", "mlflow", "pyarrow", "numpy", "matplotlib", "rich", "pydantic"}}
for command in {[*told, *CONFIGURED]}:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert not end.code, command
    print("loaded:", command, *sorted(HEAVY & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert loaded == [*([command] for command in told), *([command, "pydantic"] for command in CONFIGURED)]
    for flag in ("--resume", "--data.num-identities", "--checkpoint", "--schema"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--run", "RUN"], "data.root: no data set is named"),
        (["train", "--run", "RUN", "--data.root", "RUN"], "is not a packed data set"),
        (["train"], "--run"),
        (["train", "--run", "RUN", "--config", "RUN/none.yaml"], "none.yaml: No such file or directory"),
        (["train", "--run", "RUN", "--data.heigth", "3"], "--data.heigth"),
        (["train", "--run", "RUN", "--data.height", "tall"], "tall"),
        (["train", "--run", "RUN", "--data.height", "-3"], "greater than 0"),
        (["train", "--run", "RUN", "--model.variant", "best"], "best"),
        (
            ["config", "--schedule.stage1-epochs", "0", "--schedule.stage2-epochs", "0"],
            "nothing would be trained",
        ),
        (["config", "--config"], "--config"),
        (["evaluate"], "--checkpoint"),
        (["evaluate", "--checkpoint", "RUN", "--epsilon", "2"], "are for --attack, which is missing"),
        (["evaluate", "--checkpoint", "RUN", "--disturbance-seed", "1"], "which are both missing"),
        (
            ["evaluate", "--checkpoint", "RUN", "--attack", "--epsilon", "-2"],
            "epsilon: expected 0 to 255 grey levels",
        ),
        (["evaluate", "--checkpoint", "RUN"], "neither a checkpoint nor the folder of a run"),
        (["evaluate", "--checkpoint", "RUN", "--track", "."], "--track .: is there already"),
        (["report"], "name the folder of a run, of several, or of an experiment"),
        (["doctor", "--processes", "0"], "--processes: expected 1 or more, found 0"),
        (
            ["runs", "reap", "--uri", "nonsense://x", "--experiment", "e"],
            "MLflow has no such kind of address",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_of_the_user_is_one_message_and_exit_code_2(tmp_path, capsys, arguments, message):
    folder = tmp_path / "run"
    assert outcome([argument.replace("RUN", str(folder)) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert message in told.err.replace("\n", " ")
    assert told.out == ""
    assert "Traceback" not in told.err
    assert not folder.exists()


def test_every_mistake_of_a_file_is_told_with_the_name_of_the_file(tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text("data: {heigth: 3}\nengine: {precision: fp8}\n")
    assert main(["train", "--run", str(tmp_path / "run"), "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"reid train: {path}: 2 mistake(s)")
    assert "data.heigth" in told
    assert "engine.precision" in told


@pytest.fixture(scope="module")
def tiny_file(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "tiny.yaml"
    path.write_text(configuration.to_yaml(tiny()))
    return path


@pytest.fixture(scope="module")
def finished(tiny_file) -> Path:
    """The folder of a run that the command trained to its end: one iteration of each stage."""
    folder = tiny_file.parent / "finished"
    options = ["--config", str(tiny_file), "--run", str(folder), "--schedule.epoch-iterations", "1"]
    assert main(["train", *options]) == 0
    return folder


def test_a_trained_run_keeps_its_pictures_and_its_description(finished):
    assert len(list((finished / "pictures").glob("*.png"))) >= 4
    records = list(read(finished))
    kept = {record.data["path"] for record in records if record.kind is Kind.ARTIFACT}
    assert {f"pictures/{path.name}" for path in (finished / "pictures").iterdir()} < kept
    described = [record.data.get("mlflow.note.content") for record in records if record.kind is Kind.TAGS]
    assert any("SYNTHETIC" in text for text in described if text)


def test_a_checkpoint_is_scored_as_json_or_as_a_table(finished, packed, capsys):
    checkpoint = finished / "checkpoints" / "step-00000002"
    assert main(["evaluate", "--checkpoint", str(finished), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["checkpoint"], scores["step"]) == (str(checkpoint), 2)
    assert scores["synthetic"] is True
    options = ["--root", str(packed), "--num-workers", "1", "--device", "cpu"]
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--embedding", "global"]) == 0
    printed = capsys.readouterr().out
    assert "Infrared to visible" in printed
    assert "global embedding" in printed.replace("\n", " ")
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--all-clips", "--rerank", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert "the mean of all clips of" in protocol
    assert "k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3)" in protocol


def test_a_run_that_compares_all_clips_can_be_scored_by_one(tiny_file, capsys):
    folder = tiny_file.parent / "all-clips"
    options = ["--run", str(folder), "--schedule.epoch-iterations", "1", "--evaluation.all-clips"]
    assert main(["train", "--config", str(tiny_file), *options]) == 0
    protocols = []
    for words in ((), ("--no-all-clips",)):
        capsys.readouterr()
        assert main(["evaluate", "--checkpoint", str(folder), "--json", *words]) == 0
        protocols.append("the mean of all clips" in json.loads(capsys.readouterr().out)["protocol"])
    assert protocols == [True, False]
    assert main(["evaluate", "--checkpoint", str(folder), "--corruptions"]) == 2
    assert "--no-all-clips" in capsys.readouterr().err


def test_accuracy_under_attack_stands_beside_clean_accuracy_and_is_never_taken_for_it(finished, capsys):
    before = (finished / "journal.jsonl").read_bytes()
    assert main(["evaluate", "--checkpoint", str(finished), "--json"]) == 0
    clean = json.loads(capsys.readouterr().out)
    options = [
        "--attack",
        "--epsilon",
        "2",
        "--attack-steps",
        "2",
        "--attack-goal",
        "both",
        "--disturbance-seed",
        "3",
    ]
    assert main(["evaluate", "--checkpoint", str(finished), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {**found["clean"], "checkpoint": clean["checkpoint"], "step": clean["step"]} == clean
    assert "directions" not in found
    metric = found["attacks"]["metric"]
    assert (metric["epsilon"], metric["steps"], metric["goal"], metric["seed"]) == (2 / 255, 2, "both", 3)
    assert (
        set(metric["directions"]) == set(found["attacks"]["self"]["directions"]) == set(clean["directions"])
    )
    assert (finished / "journal.jsonl").read_bytes() == before
    assert main(["evaluate", "--checkpoint", str(finished), "--corruptions"]) == 0
    printed = capsys.readouterr().out
    assert "CORRUPTED queries: infrared to visible on SYNTHETIC data" in printed
    assert "UNDER ATTACK" not in printed


def test_the_scores_of_a_checkpoint_become_a_run_of_their_own_where_asked(finished, tmp_path, capsys):
    before = (finished / "journal.jsonl").read_bytes()
    folder = tmp_path / "runs" / "scored"
    assert main(["evaluate", "--checkpoint", str(finished), "--track", str(folder), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    found = summary(folder)
    assert (found.status, found.experiment, found.step) == ("FINISHED", "vcm", scores["step"])
    for direction in Direction:
        assert found.metrics[names.first_rank(direction)] == scores["directions"][direction]["rank1"]
    assert found.params[names.Param.PROTOCOL] == scores["protocol"]
    assert found.is_synthetic
    (checkpoint,) = [r.data for r in read(finished) if r.kind is Kind.CHECKPOINT and r.step == scores["step"]]
    assert found.tags[names.Tag.CHECKPOINT_SHA] == checkpoint["digest"]
    assert "Retrieval on SYNTHETIC data" in found.tags[names.Tag.DESCRIPTION]
    assert (finished / "journal.jsonl").read_bytes() == before
    assert main(["evaluate", "--checkpoint", str(finished), "--track", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_checkpoint_is_scored_through_a_cache_that_is_made_where_it_can(finished, tmp_path, capsys):
    assert main(["evaluate", "--checkpoint", str(finished), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    cache = tmp_path / "local" / "cache"
    assert main(["evaluate", "--checkpoint", str(finished), "--json", "--cache", str(cache)]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert list(cache.glob("*.tar"))
    (tmp_path / "file").touch()
    assert main(["evaluate", "--checkpoint", str(finished), "--cache", str(tmp_path / "file" / "cache")]) == 2
    told = capsys.readouterr().err
    assert "the folder for copies of shards cannot be made on this machine: Not a directory" in told
    assert "named with --root and --cache" in told


def test_a_damaged_checkpoint_is_a_message_and_exit_code_2(finished, tmp_path, capsys):
    damaged = shutil.copytree(finished / "checkpoints" / "step-00000002", tmp_path / "damaged")
    (damaged / "state.json").write_text("{}")
    assert main(["evaluate", "--checkpoint", str(damaged)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"reid evaluate: {damaged / 'state.json'}: expected ")


def test_a_run_that_is_there_is_refused_with_exit_code_2(finished, tiny_file, capsys):
    assert main(["train", "--config", str(tiny_file), "--run", str(finished)]) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert main(["train", "--config", str(tiny_file), "--run", str(finished), "--resume"]) == 2
    assert "schedule.epoch_iterations: 1 when the run began, 4 now" in capsys.readouterr().err


def test_a_run_that_a_signal_ended_is_exit_code_1(tiny_file, tmp_path, signalled_after):
    folder = tmp_path / "run"
    with signalled_after(folder, 1, signal.SIGTERM):
        assert main(["train", "--config", str(tiny_file), "--run", str(folder)]) == 1
    assert (folder / "requeue").read_text() == "SIGTERM\n"


def test_the_doctor_tells_findings_as_a_table_or_as_json_and_fails_with_a_failure(packed, tmp_path, capsys):
    options = ["--root", str(packed), "--run", str(tmp_path / "run")]
    assert main(["doctor", *options]) in (0, 1)
    printed = capsys.readouterr().out
    assert " ok, " in printed.splitlines()[-1]
    path = tmp_path / "four.yaml"
    path.write_text("data: {num_identities: 4}\n")
    main(["doctor", *options, "--json", "--config", str(path)])
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["batches"]["status"], found["data set"]["status"]) == ("ok", "ok")
    assert main(["doctor", *options, "--json", "--run", "/proc/self/run"]) == 1
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["output"]["status"] == "failure"
    assert found["output"]["remedy"]
    assert not (tmp_path / "run").exists()


def test_a_failure_of_the_world_is_a_message_and_exit_code_1(tiny_file, capsys):
    nowhere = "/proc/self/run"  # no folder can be made there
    assert main(["train", "--config", str(tiny_file), "--run", nowhere]) == 1
    assert nowhere in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "run", "run/deeper"])
def test_a_file_where_the_folder_of_a_run_is_needed_is_a_mistake(tiny_file, tmp_path, capsys, below):
    blocked = tmp_path / "file"
    blocked.write_text("no folder can be made here or below")
    assert main(["train", "--config", str(tiny_file), "--run", str(blocked / below)]) == 2
    assert f"{blocked} is a file, where a folder is needed" in capsys.readouterr().err


@pytest.mark.parametrize("secrets", ["me:hunter2", "hunter2", "hunter2:"])
def test_what_stands_before_the_host_of_an_address_is_refused_and_not_repeated(tmp_path, capsys, secrets):
    uri = f"https://{secrets}@mlflow.example"
    assert outcome(["config", "--tracking.uri", uri]) == 2
    told = capsys.readouterr()
    (tmp_path / "config.yaml").write_text(f"tracking: {{uri: '{uri}'}}")
    assert outcome(["train", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]) == 2
    again = capsys.readouterr()
    for text in (told.err, again.err):
        assert "MLFLOW_TRACKING_TOKEN" in text
    assert "hunter2" not in told.out + told.err + again.out + again.err
    assert not (tmp_path / "run").exists()


def test_what_nobody_meant_for_the_user_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("reid.commands.config.main", lambda _: int("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["config"])


def test_another_process_of_a_launch_says_which_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("reid train (process 1): data.root: no data set is named")


def trained(folder: Path, parent: Path | None, seed: int, rank1: float) -> None:
    """The journal of a run that finished with a score."""
    with Tracker.open(
        folder, experiment="e", run_name=folder.name, tracking_uri=OFFLINE, parent=parent
    ) as tracker:
        tracker.params({names.Param.SEED: seed})
        tracker.metrics(1, {names.rank(direction, 1): rank1 for direction in Direction})


def test_parents_are_told_what_their_children_reached(tmp_path, capsys):
    parent = tmp_path / "full"
    family.begin(parent, experiment="e", run_name="full")
    for seed, rank1 in enumerate([0.5, 0.6]):
        trained(parent / f"seed-{seed}", parent, seed, rank1)
    assert main(["runs", "gather", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{parent}: FINISHED, 2 children; ")
    assert "55.0 (7.1)" in summary(parent).tags[names.Tag.DESCRIPTION]
    assert main(["runs", "compare", str(tmp_path), "--format", "json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)
    assert group["mean"][names.rank(Direction.VISIBLE_TO_INFRARED, 1)] == pytest.approx(0.55)
    assert outcome(["runs", "gather", str(parent / "seed-0")]) == 2
    assert "--tracking.parent" in capsys.readouterr().err


def test_runs_are_closed_on_a_server_only_in_an_experiment_that_is_named(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert outcome(["runs", "reap", "--uri", uri]) == 2
    assert "--experiment" in capsys.readouterr().err
    assert outcome(["runs", "reap", "--uri", uri, "--experiment", "none"]) == 2
    assert "the server has no experiment 'none'" in capsys.readouterr().err
    assert outcome(["runs", "reap", "--uri", uri, "--experiment", "none", "--waiting"]) == 2
    assert "name its folder" in capsys.readouterr().err


def test_show_tells_the_optimistic_number_of_the_literature_under_its_name(tmp_path, capsys):
    trained(tmp_path / "run", None, 0, 0.5)
    assert main(["runs", "show", str(tmp_path / "run"), "--format", "markdown"]) == 0
    _, optimistic = capsys.readouterr().out.split("**Optimistic")
    assert "looking at the test set" in optimistic
    assert "| Infrared to visible, last | 50.0 |" in optimistic
