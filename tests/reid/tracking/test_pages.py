"""MLflow's pages in a real browser: what a person sees who compares three runs that our journals told of.

Screenshots go to SCREENSHOTS (a folder; build/screenshots if that is not set), where CI keeps them.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from reid.report.report import write as write_report
from reid.report.subject import Subject
from reid.tracking import names
from reid.tracking.family import begin, gather
from reid.tracking.runs import attach, summary
from reid.tracking.sender import sync
from reid.tracking.tracker import OFFLINE, Tracker
from reid.tracking.view import METRICS
from reid.types import Direction, Variant

from .lab import Server, runs_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EXPERIMENT = "synthetic"
MADE_UP = "A test made up these numbers; no network was trained."
PAGE_MS = 60_000
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# MLflow's assistant would cover a quarter of each page.
SETTINGS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
BASELINE, ATTACKED, FULL = "baseline", "asam", "full"


def tell(folder: Path, variant: Variant, seed: int, best: float, above: Path | None = None) -> Path:
    """A run that trained nothing: forty steps of a curve, an evaluation every ten, and what a report makes of them."""
    with Tracker.open(
        folder, experiment=EXPERIMENT, run_name=folder.name, tracking_uri=OFFLINE, parent=above
    ) as tracker:
        weight = 0.1 if variant.attacker else 0.0
        tracker.params({names.Param.VARIANT: variant, names.Param.SEED: seed, names.Param.LAMBDA1: weight})
        tracker.tags({names.Tag.SYNTHETIC: True})
        for step in range(0, 41, 2):
            loss = 6 * math.exp(-step / (20 * best)) + 0.2
            rate, speed = 0.12 * 0.9**step, 40 + seed
            tracker.metrics(
                step,
                {
                    names.Metric.LOSS: loss,
                    names.Metric.LEARNING_RATE: rate,
                    names.Metric.CLIPS_PER_SECOND: speed,
                },
            )
        for step in range(10, 41, 10):
            tracker.metrics(step, scores(best * (1 - math.exp(-step / 15))))
    told = Subject(folder.name, summary(folder), unscored=MADE_UP, unseen=MADE_UP)
    page = write_report([told], folder / "report")
    picture = folder / "report" / "pictures" / "training.png"
    attach(folder, {page: names.Folder.REPORT, picture: names.Folder.PICTURES}, {})
    return folder


def scores(rank1: float) -> dict[str, float]:
    found = {names.Metric.MEAN_MAP: rank1 * 0.8}
    for direction, share in zip(Direction, (1.0, 0.95), strict=True):
        found[names.first_rank(direction)] = rank1 * share
        found[names.mean_average_precision(direction)] = rank1 * share * 0.8
    return found


@pytest.fixture(scope="module")
def pages(empty_database, tmp_path_factory) -> Iterator[Server]:
    """A server with a parent that has two children, and one run beside them."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(empty_database, folder / "mlflow.db")
    above = folder / FULL
    begin(above, experiment=EXPERIMENT, run_name=FULL, tags={names.Tag.ROW: FULL})
    seeds = [
        tell(folder / f"{FULL}-{seed}", Variant.FULL, seed, best, above)
        for seed, best in enumerate((0.59, 0.63))
    ]
    gather(above, seeds)
    alone = [
        tell(folder / BASELINE, Variant.BASELINE, 0, 0.47),
        tell(folder / ATTACKED, Variant.ASAM, 0, 0.54),
    ]
    server = Server(folder)
    try:
        server.start()
        for run in (*seeds, above, *alone):
            sync(run, server.uri)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def screenshots() -> Path:
    folder = Path(os.environ.get("SCREENSHOTS", "build/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(tmp_path) -> Iterator[Page]:
    """An empty page of a browser without a past."""
    settings = "".join(f"localStorage.setItem({key!r}, {value!r});" for key, value in SETTINGS.items())
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=shutil.which("chromium"),
            args=[*QUIET],
            chromium_sandbox=False,
            viewport={"width": 1900, "height": 1000},
        )
        context.set_default_timeout(PAGE_MS)
        context.add_init_script(f"if (location.protocol.startsWith('http')) {{ {settings} }}")
        try:
            yield context.new_page()
        finally:
            context.close()


def ids(server: Server) -> tuple[str, dict[str, str]]:
    """The experiment, and its runs by name."""
    runs = runs_of(server.uri, EXPERIMENT)
    return runs[FULL].info.experiment_id, {name: run.info.run_id for name, run in runs.items()}


def is_shown(page: Page, *texts: str) -> None:
    for text in texts:
        expect(page.locator("body")).to_contain_text(text, timeout=PAGE_MS)


def compared(server: Server) -> str:
    experiment, runs = ids(server)
    return f"runs={quote(json.dumps([runs[BASELINE], runs[ATTACKED]]))}&experiments={quote(json.dumps([experiment]))}"


def test_three_runs_stand_in_a_table_with_the_agreed_columns(pages, page, screenshots):
    experiment, _ = ids(pages)
    page.goto(f"{pages.uri}/#/experiments/{experiment}/runs?viewStateShareKey={names.VIEW}")
    for name in (BASELINE, ATTACKED, FULL):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible(timeout=PAGE_MS)
    is_shown(page, "runs with the agreed columns")
    for metric in METRICS[:4]:
        expect(page.get_by_test_id(f"sort-header-{metric}")).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=screenshots / "table.png")


def test_charts_are_grouped_by_the_first_part_of_a_name(pages, page, screenshots):
    experiment, _ = ids(pages)
    rest = f"viewStateShareKey={names.VIEW}&compareRunsMode=CHART"
    page.goto(f"{pages.uri}/#/experiments/{experiment}/runs?{rest}")
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    sections = page.get_by_test_id("experiment-view-compare-runs-section-header")
    for group in ("train", "speed", *Direction):
        expect(sections.filter(has_text=group).first).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=screenshots / "charts.png")


def test_comparing_shows_the_parameters_that_differ(pages, page, screenshots):
    page.goto(f"{pages.uri}/#/compare-runs?{compared(pages)}")
    for row in (("variant", "baseline", "asam"), ("lambda1", "0.0", "0.1")):
        cells = page.get_by_role("row").filter(has_text=row[0]).first
        for text in row:
            expect(cells).to_contain_text(text, timeout=PAGE_MS)
    page.screenshot(path=screenshots / "compare.png")


def test_comparing_shows_the_curves_of_both_directions(pages, page, screenshots):
    curves = [names.first_rank(direction) for direction in Direction]
    keys = f"x_axis=step&metric={quote(json.dumps(curves[0]))}&plot_metric_keys={quote(json.dumps(curves))}"
    page.goto(f"{pages.uri}/#/metric?{compared(pages)}&{keys}")
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    is_shown(page, *(f"{run} ({curve})" for run in (BASELINE, ATTACKED) for curve in curves))
    page.screenshot(path=screenshots / "curves.png")


def test_a_picture_and_a_report_of_a_run_open(pages, page, screenshots):
    experiment, runs = ids(pages)
    artifacts = f"{pages.uri}/#/experiments/{experiment}/runs/{runs[BASELINE]}/artifacts"
    page.goto(f"{artifacts}/{names.Folder.REPORT}/report.html")
    shown = page.frame_locator("iframe")
    expect(shown.get_by_role("heading", name=f"Report on {BASELINE}")).to_be_visible(timeout=PAGE_MS)
    expect(shown.get_by_text("Synthetic data.")).to_be_visible()
    expect(shown.locator("img").first).to_be_attached()
    page.screenshot(path=screenshots / "report.png")
    page.goto("about:blank")
    page.goto(f"{artifacts}/{names.Folder.PICTURES}/training.png")
    is_shown(page, "pictures/training.png")
    expect(page.locator("img[src^='blob:']").first).to_be_visible(timeout=PAGE_MS)
    page.screenshot(path=screenshots / "picture.png")
