"""reid/config.py: the paper by default, functions of the step, and mistakes that are told by their key."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.types import Distance

FILES = sorted((Path(__file__).parents[2] / "launch" / "experiments").glob("*.yaml"))
EXPERIMENTS = [path for path in FILES if not {"rows", "curves"} & yaml.safe_load(path.read_text()).keys()]
PAPER = Config()


def made(**sections: dict[str, object]) -> Config:
    return configuration.changed(PAPER, sections)


def test_the_defaults_are_the_numbers_of_the_paper():
    assert (PAPER.data.height, PAPER.data.width, PAPER.data.clip_frames) == (288, 144, 6)
    assert (PAPER.data.num_identities, PAPER.data.num_tracklets) == (8, 2)
    assert (PAPER.objective.lambda1, PAPER.objective.lambda2, PAPER.objective.lambda3) == (1.0, 0.5, 0.5)
    assert (PAPER.optimizer.learning_rate, PAPER.optimizer.trunk_learning_rate) == (0.12, 0.012)
    assert (PAPER.schedule.stage1_epochs, PAPER.schedule.stage2_epochs) == (150, 50)
    assert PAPER.num_steps == 53_600


def test_the_rate_rises_over_ten_epochs_and_falls_tenfold_at_35_and_80():
    epoch = PAPER.schedule.epoch_iterations
    assert PAPER.rate(0) == pytest.approx(1 / (10 * epoch))
    assert PAPER.rate(5 * epoch - 1) == pytest.approx(0.5)
    assert PAPER.rate(10 * epoch - 1) == 1.0
    assert PAPER.rate(35 * epoch - 1) == 1.0
    assert PAPER.rate(35 * epoch) == pytest.approx(0.1)
    assert PAPER.rate(80 * epoch - 1) == pytest.approx(0.1)
    assert PAPER.rate(80 * epoch) == pytest.approx(0.01)


def test_the_second_stage_goes_on_with_the_rate_of_the_first():
    border = PAPER.schedule.stage1_epochs * PAPER.schedule.epoch_iterations
    assert (PAPER.stage(border - 1), PAPER.stage(border)) == (0, 1)
    assert (
        PAPER.rate(border - 1) == PAPER.rate(border) == PAPER.rate(PAPER.num_steps - 1) == pytest.approx(0.01)
    )


def test_the_cosine_rate_rises_alike_and_falls_to_almost_nothing_over_both_stages():
    config = made(optimizer={"schedule": "cosine"})
    epoch, last = config.schedule.epoch_iterations, config.num_steps - 1
    assert [config.rate(step) for step in range(10 * epoch)] == [
        PAPER.rate(step) for step in range(10 * epoch)
    ]
    assert config.rate(105 * epoch) == pytest.approx(0.5)  # half way from epoch 10 to 200
    assert config.rate(115 * epoch // 2) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert 0 < config.rate(last) < 1e-9
    assert made(optimizer={"schedule": "cosine", "milestones": [1, 2]}).rate(last) == config.rate(last)


def test_the_rate_follows_the_clips_of_the_global_batch_unless_told_otherwise():
    half = made(data={"num_identities": 4}, optimizer={"warmup_epochs": 0})
    assert half.rate(0) == 0.5
    assert (
        made(data={"num_identities": 4}, optimizer={"warmup_epochs": 0, "scale_with_batch": False}).rate(0)
        == 1
    )


@given(
    epoch_iterations=st.integers(1, 50),
    stage1=st.integers(0, 5),
    stage2=st.integers(1, 5),
    warmup=st.floats(0, 6),
    milestones=st.lists(st.floats(0, 10), max_size=3).map(sorted),
    schedule=st.sampled_from(["steps", "cosine"]),
)
def test_every_step_lies_in_one_epoch_and_stage_and_the_rate_never_rises_after_warm_up(
    epoch_iterations, stage1, stage2, warmup, milestones, schedule
):
    config = made(
        schedule={
            "stage1_epochs": stage1,
            "stage2_epochs": stage2,
            "epoch_iterations": epoch_iterations,
        },
        optimizer={"warmup_epochs": warmup, "milestones": milestones, "schedule": schedule},
    )
    steps = range(config.num_steps)
    epochs = [config.epoch(step) for step in steps]
    assert epochs == [n for n in range(stage1 + stage2) for _ in range(epoch_iterations)]
    assert [config.stage(step) for step in steps] == [int(epoch >= stage1) for epoch in epochs]
    rates = [config.rate(step) for step in steps]
    assert all(0 < rate <= 1 for rate in rates)
    warm = math.ceil(warmup * epoch_iterations)
    assert all(later <= earlier for earlier, later in pairwise(rates[warm:]))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_is_a_valid_configuration(path):
    assert configuration.from_yaml(path).num_steps > 0


def test_the_experiment_of_the_paper_learns_what_the_paper_does():
    config = configuration.from_yaml(next(path for path in EXPERIMENTS if path.stem == "vcm"))
    assert {key for key in configuration.difference(config) if configuration.is_learned(key)} == set()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_configuration_that_is_written_reads_back_as_the_same_text(tmp_path, path):
    config = configuration.from_yaml(path)
    text = configuration.to_yaml(config)
    (tmp_path / "config.yaml").write_text(text)
    again = configuration.from_yaml(tmp_path / "config.yaml")
    assert again == config
    assert configuration.to_yaml(again) == text
    assert configuration.to_yaml(Config()) == configuration.to_yaml(made())


def test_a_difference_names_the_key_and_both_values():
    assert configuration.difference(PAPER) == {}
    config = made(objective={"margin": 0.5}, optimizer={"milestones": [5]})
    assert configuration.difference(config) == {
        "objective.margin": (0.3, 0.5),
        "optimizer.milestones": ([35.0, 80.0], [5.0]),
    }
    assert configuration.difference(PAPER, config)["objective.margin"] == (0.5, 0.3)


def test_a_difference_in_what_is_learned_is_told_apart_from_one_of_the_machine():
    config = made(data={"root": "/data/vcm"}, objective={"margin": 0.5}, engine={"precision": "fp32"})
    assert configuration.explanation(config).splitlines() == [
        "# 1 keys differ from the paper:",
        "objective.margin: 0.5  # the paper: 0.3",
        "# 2 keys fit it to this machine:",
        'data.root: "/data/vcm"  # the paper: null',
        'engine.precision: "fp32"  # the paper: "bf16"',
    ]
    assert configuration.explanation(PAPER) == "# 0 keys differ from the paper:\n"


def test_runs_that_learn_the_same_share_a_digest_whatever_their_seed_and_machine():
    digest = configuration.digest_of_learned
    elsewhere = {"seed": 3, "data": {"root": "/x"}, "engine": {"precision": "fp32"}}
    assert digest(configuration.from_dict(elsewhere, "a test")) == digest(PAPER)
    assert digest(made(objective={"margin": 0.5})) != digest(PAPER)


def test_a_change_of_none_changes_nothing():
    assert made(data={"num_workers": None}, evaluation={"embedding": None}) == PAPER


def test_every_mistake_of_a_file_is_told_at_once_with_its_key(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("data: {heigth: 3, width: -1}\nseed: many\nmodel: {variant: best}\n")
    with pytest.raises(ConfigError) as caught:
        configuration.from_yaml(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 4 mistake(s) in the configuration"
    told = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert set(told) == {"data.heigth", "data.width", "seed", "model.variant"}
    assert "found -1" in told["data.width"]
    assert "'full'" in told["model.variant"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "this is no YAML"),
        (b"\xff\xfe\x00", "this is no YAML"),
        (b"- 1\n- 2\n", "the whole: Input should be"),
        (b"rows: [{name: a}]", "reid ablate --rows"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        configuration.from_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="give a YAML file") as caught:
            configuration.from_yaml(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match=r"data\.cache_gigabytes"):
        made(data={"cache_gigabytes": value})


def test_what_would_train_nothing_or_has_falling_milestones_is_refused():
    with pytest.raises(ConfigError, match="nothing would be trained"):
        made(schedule={"stage1_epochs": 0, "stage2_epochs": 0})
    with pytest.raises(ConfigError, match="expected rising epochs"):
        made(optimizer={"milestones": [80, 35]})


def test_numbers_that_cannot_work_together_are_refused_with_what_to_change():
    with pytest.raises(ConfigError, match="16 pixels can move a picture of 32 x 16 out of sight"):
        made(data={"height": 32, "width": 16, "padding": 16}, model={"num_parts": 2})
    with pytest.raises(ConfigError, match="the 9 rows of the last feature map do not divide into 6 stripes"):
        made(model={"last_stride": 2})
    assert made(model={"last_stride": 2, "variant": "asam_adm"}).model.last_stride == 2  # it has no stripes


def test_a_password_is_kept_out_of_the_files_of_a_run():
    with pytest.raises(ConfigError, match=r"tracking\.uri: .*MLFLOW_TRACKING_PASSWORD") as caught:
        made(tracking={"uri": "https://me:hunter2@mlflow.example"})
    assert "hunter2" not in str(caught.value)
    assert made(tracking={"uri": "https://mlflow.example"}).tracking.uri == "https://mlflow.example"


@pytest.mark.parametrize(
    ("triplet", "weights", "distance"),
    [
        ("auto", "none", Distance.EUCLIDEAN_UNIT),
        ("auto", "imagenet", Distance.EUCLIDEAN),
        ("euclidean_unit", "imagenet", Distance.EUCLIDEAN_UNIT),
        ("euclidean", "none", Distance.EUCLIDEAN),
        ("squared_bn", "none", Distance.SQUARED),
    ],
)
def test_the_triplet_distance_of_auto_depends_on_where_the_trunk_starts(triplet, weights, distance):
    assert made(objective={"triplet": triplet}, model={"weights": weights}).triplet_distance is distance


def test_every_key_is_described():
    schema = Config.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = {key: entry for section in sections for key, entry in section.get("properties", {}).items()}
    nameless = {key for key, entry in keys.items() if not entry.get("description", "$ref" in str(entry))}
    assert nameless == set()


def test_flattened_keys_are_those_of_the_file():
    content = yaml.safe_load(configuration.to_yaml(PAPER))
    flat = configuration.flatten(PAPER)
    assert flat["seed"] == content["seed"]
    assert flat["data.height"] == content["data"]["height"]
    assert len(flat) == 2 + sum(len(section) for section in content.values() if isinstance(section, dict))
