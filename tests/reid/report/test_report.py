"""reid/report/report.py and `reid report`: everything is in the page, and what is missing is said with its reason."""

import base64
import json
import shutil
import subprocess
from io import BytesIO

import pytest
from PIL import Image

from reid.cli import main
from reid.tracking.journal import Kind, read
from reid.training.run import train

HOSTILE = "<script>alert(1)</script>"
SECTIONS = [
    "results",
    "runs",
    "training",
    "batch",
    "retrieval",
    "failures",
    "matching",
    "distances",
    "embeddings",
    "attention",
]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A baseline and a full model, two steps each; the first has a folder and an experiment with markup in their names."""
    folder = tmp_path_factory.mktemp("report")
    for name, variant in (("<b>&$x_baseline", "baseline"), ("full", "full")):
        config = tiny(
            model={"variant": variant},
            schedule={"epoch_iterations": 1},
            tracking={"experiment": HOSTILE},
        )
        train(config, folder / name, lambda _: ([], ""), resume=False)
    return folder


@pytest.fixture(scope="module")
def both(runs):
    """The report of both runs."""
    assert main(["report", str(runs / "<b>&$x_baseline"), str(runs / "full")]) == 0
    return runs / "report"


@pytest.mark.slow
def test_the_page_of_two_runs_has_everything_and_loads_nothing(both, parse):
    path = both / "report.html"
    page = parse(path.read_text())
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert not page.all("script") + page.all("link") + page.all("b>")
    assert page.text.count(HOSTILE) == 3  # in the head, and in each configuration
    assert "SYNTHETIC" in page.text
    assert "Synthetic data." in page.text
    for image in page.all("img"):
        kind, _, data = image["src"].partition(";base64,")
        if kind == "data:image/jpeg":
            with Image.open(BytesIO(base64.b64decode(data))) as picture:
                assert picture.width > 300
    assert [image["alt"].split(":")[0] for image in page.all("img")] == [
        f"Figure {number}" for number in range(1, 1 + len(page.all("img")))
    ]
    assert path.stat().st_size < 10e6


@pytest.mark.slow
def test_the_numbers_of_the_page_are_those_of_reid_evaluate(runs, both, parse, capsys):
    assert main(["evaluate", "--checkpoint", str(runs / "full"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    table = (both / "paper" / "results.md").read_text()
    for scored in scores["directions"].values():
        assert f"{100 * scored['rank5']:.1f}" in table
        assert f"{100 * scored['map']:.1f}" in table
    assert "by chance" in table
    assert r"\toprule" in (both / "paper" / "results.tex").read_text()
    page = parse((both / "report.html").read_text())
    assert "guided embedding" in page.text
    assert "global embedding" in page.text
    assert "model.variantfullbaselinefull" in page.text.replace("\n", "")


@pytest.mark.slow
def test_every_picture_is_a_file_too_and_charts_are_fit_for_paper(both, parse):
    page = parse((both / "report.html").read_text())
    files = {path.relative_to(both).as_posix() for path in both.rglob("*.p*") if path.is_file()}
    assert all(file in page.text for file in files)
    assert {"pictures/cmc.png", "paper/cmc.pdf", "pictures/attention.png", "pictures/training_2.png"} <= files
    assert "pictures/batch_0_2.png" not in files  # both runs were shown the same


def test_what_needs_the_data_set_is_missing_where_it_is_gone_and_the_rest_is_there(
    runs, tmp_path, parse, capsys
):
    gone = tmp_path / "gone"
    assert main(["report", str(runs / "full"), "--root", str(gone), "--out", str(tmp_path / "out")]) == 0
    page = parse((tmp_path / "out" / "report.html").read_text())
    assert [section["id"] for section in page.all("section")] == SECTIONS[:4]
    assert page.text.count(f"{gone} is not a packed data set") == 2
    assert "from its journal" in page.text
    assert "schedule.epoch_iterations" in page.text
    assert (tmp_path / "out" / "pictures" / "training.png").exists()


def test_a_run_without_a_checkpoint_still_has_its_curves(runs, tmp_path, parse):
    folder = tmp_path / "full"
    shutil.copytree(runs / "full", folder, ignore=shutil.ignore_patterns("checkpoints", "config.yaml"))
    assert main(["report", str(folder)]) == 0
    page = parse((folder / "report" / "report.html").read_text())
    assert [section["id"] for section in page.all("section")] == SECTIONS[:4]
    assert "neither a checkpoint nor the folder of a run with a valid one" in page.text
    assert "it left no configuration" in page.text
    assert len(page.all("img")) == 1


def test_a_step_that_the_run_does_not_have_is_refused(runs, tmp_path, capsys):
    assert main(["report", str(runs / "full"), "--step", "2", "--out", str(tmp_path / "out")]) == 2
    assert "the run has the steps 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_of_a_run_becomes_part_of_it_when_asked(runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "full", tmp_path / "full")
    options = ["--root", str(tmp_path / "gone"), "--attach"]
    assert main(["report", str(folder), *options]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report" / "report.html")
    kept = [record.data for record in read(folder) if record.kind is Kind.ARTIFACT]
    assert kept[-1] == {"path": "report/report.html", "folder": "report"}
    assert main(["report", str(folder), *options, "--out", str(tmp_path / "elsewhere")]) == 2
    assert "--attach" in capsys.readouterr().err


def test_where_there_is_no_run_nothing_is_written(tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    for name, told in (("nothing", "no run here"), ("nowhere", "there is no such folder")):
        assert main(["report", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert f"{tmp_path / name}: {told}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_shows_the_page_and_its_policy_stops_nothing(both, tmp_path):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=1200,2000",
    ]
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            "chromium",
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={shot}",
            (both / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert shot.exists(), done.stderr
    assert "Content Security Policy" not in done.stderr
    with Image.open(shot) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert (0xFF, 0xF5, 0xDC) in colours  # the ground of the warning: the style is in force
