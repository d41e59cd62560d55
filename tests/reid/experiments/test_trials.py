"""reid/experiments/trials.py: which runs an experiment is made of, and that its folder is its own."""

import re
from pathlib import Path

import pytest

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.experiments import experiment as experiments
from reid.experiments import trials
from reid.tracking import family
from reid.tracking.journal import header
from reid.tracking.tracker import OFFLINE, Tracker

FILES = Path(__file__).parents[3] / "launch" / "experiments"
TABLE = experiments.from_yaml(FILES / "ablation.yaml")
FIGURE = experiments.from_yaml(FILES / "lambda_sweep.yaml")


def base(**sections: dict[str, object]) -> Config:
    return configuration.changed(Config(), sections)


def planned(experiment=TABLE, rows=None, start=None, folder=Path("out"), num_seeds=1):
    chosen = experiment.every_row if rows is None else experiment.chosen(rows)
    return trials.plan(experiment, chosen, start or Config(), folder, num_seeds)


def test_all_rows_of_a_seed_come_before_those_of_the_next():
    found = planned(num_seeds=3)
    assert len(found) == 24
    assert [trial.name for trial in found[:2]] == ["baseline-0", "asam-0"]
    assert [trial.name for trial in found[8:10]] == ["baseline-1", "asam-1"]
    assert [str(trial.config.model.variant) for trial in found[:8]] == [row.name for row in TABLE.rows]
    assert {trial.config.seed for trial in found[16:]} == {2}


def test_a_trial_differs_from_the_others_in_nothing_but_its_row_its_seed_and_the_run_above_it(tmp_path):
    start = base(objective={"margin": 0.7}, tracking={"experiment": "mine"})
    first, *_, last = planned(start=start, folder=tmp_path, num_seeds=2)
    assert configuration.difference(first.config, start) == {
        "model.variant": ("full", "baseline"),
        "tracking.parent": (None, str(tmp_path / "rows" / "baseline")),
    }
    assert configuration.difference(last.config, start).keys() == {"seed", "tracking.parent"}
    trials.claim(TABLE, start, tmp_path)
    last.write()
    assert configuration.from_yaml(last.file) == last.config
    assert header(last.config.tracking.parent)["parent_uid"] == header(tmp_path)["uid"]


def test_seeds_begin_at_that_of_the_configuration():
    start = Config(seed=10)
    assert [trial.name for trial in planned(rows=("full",), start=start, num_seeds=2)] == [
        "full-10",
        "full-11",
    ]


def test_a_point_that_lies_on_three_curves_is_trained_once():
    found = [trial.name for trial in planned(FIGURE)]
    assert len(found) == 16
    assert "lambda1-1-0" in found
    assert {"lambda2-0.5-0", "lambda3-0.5-0"}.isdisjoint(found)
    assert [trial.name for trial in planned(FIGURE, ("lambda3-0.5",))] == ["lambda1-1-0"]
    other = base(objective={"lambda1": 2.0})  # the curves no longer meet on the first one
    assert len(planned(FIGURE, start=other)) == 17


def test_values_that_cannot_be_are_told_with_their_row():
    row = {"name": "stripes", "changes": {"model.num_parts": 7}}
    mine = experiments.from_dict({"name": "mine", "title": "Mine", "rows": [row]}, "mine.yaml")
    with pytest.raises(ConfigError, match=r"(?s)the row stripes.*do not divide into 7"):
        planned(mine)
    with pytest.raises(ConfigError, match=r"tracking\.run_name"):
        planned(start=base(tracking={"run_name": "x"}))


def test_a_folder_belongs_to_one_experiment_of_one_configuration(tmp_path):
    trials.claim(TABLE, Config(), tmp_path)
    trials.claim(TABLE, base(data={"num_workers": 1}), tmp_path)  # the machine's
    trials.claim(TABLE, Config(seed=5), tmp_path)
    assert trials.read(tmp_path) == (TABLE, Config(seed=5))
    with pytest.raises(ConfigError, match="it holds 'Table 1', not 'Figure 8'"):
        trials.claim(FIGURE, Config(), tmp_path)
    with pytest.raises(ConfigError, match=r"objective.margin: 0.3 when it began, 0.4 now"):
        trials.claim(TABLE, base(objective={"margin": 0.4}), tmp_path)
    changed = TABLE.model_dump(mode="json")
    changed["rows"][7]["changes"] = {"model.variant": "adm"}
    with pytest.raises(ConfigError, match=r"the row full: .* when it began"):
        trials.claim(experiments.from_dict(changed, "mine"), Config(), tmp_path)


@pytest.mark.parametrize("text", ["hello: world", "- 1", "", "{"])
def test_a_file_of_somebody_else_is_not_taken_for_the_record_of_an_experiment(tmp_path, text):
    (tmp_path / trials.RECORD).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / trials.RECORD))):
        trials.read(tmp_path)


def test_the_folder_of_a_run_is_not_taken_for_an_experiment(tmp_path):
    family.begin(tmp_path, experiment="e", run_name="a run")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        trials.claim(TABLE, Config(), tmp_path)
    assert trials.read(tmp_path) is None


def test_rows_that_a_folder_was_begun_with_do_not_vanish_from_it(tmp_path):
    rows = [{"name": "a"}, {"name": "b", "changes": {"objective.margin": 0.7}}]
    mine, less = (
        experiments.from_dict({"name": "mine", "title": "Mine", "rows": kept}, "mine.yaml")
        for kept in (rows, rows[:1])
    )
    trials.claim(less, Config(), tmp_path)
    trials.claim(mine, Config(), tmp_path)
    with pytest.raises(ConfigError, match="the row b: there when it began, not now"):
        trials.claim(less, Config(), tmp_path)


def test_every_row_finds_the_runs_that_have_begun(tmp_path):
    trials.claim(FIGURE, Config(), tmp_path)
    for name in ("lambda1-1-10", "lambda1-1-2", "lambda2-4-0"):
        options = {"experiment": "vcm", "run_name": name, "tracking_uri": OFFLINE, "parent": tmp_path}
        with Tracker.open(tmp_path / name, **options):
            pass
    found = trials.begun(trials.Record(FIGURE, Config()), tmp_path)
    both = [tmp_path / "lambda1-1-2", tmp_path / "lambda1-1-10"]
    assert found == {
        "lambda1-1": both,
        "lambda2-0.5": both,
        "lambda2-4": [tmp_path / "lambda2-4-0"],
        "lambda3-0.5": both,
    }
    assert header(both[0])["parent_uid"] == header(tmp_path)["uid"]
    (trial,) = planned(FIGURE, ("lambda2-4",), folder=tmp_path)
    assert trial.is_finished()
