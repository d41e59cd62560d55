"""What the tests of reports share: an untrained network scored on the tiny data set, and vectors that know who is who."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data.manifest import Manifest
from reid.evaluation.metrics import Labels, evaluate
from reid.evaluation.retrieval import Embedded, Evaluation, Evaluator, Found
from reid.runtime import Runtime
from reid.training import build
from reid.types import Direction, Role, Variant


class Page(HTMLParser):
    """What a browser would make of a page: tags with attributes, and the text outside of the style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = self.style = ""
        self._is_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._is_style = tag == "style"

    def handle_endtag(self, tag):
        self._is_style = False

    def handle_data(self, data):
        if self._is_style:
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def parse() -> type[Page]:
    return Page


@pytest.fixture(scope="session")
def untrained(tiny) -> dict[str, Found]:
    """A baseline and a full model with fresh weights, and what they find."""

    def found(variant: Variant) -> Found:
        config = tiny(model={"variant": variant})
        manifest = Manifest.open(Path(config.data.root))
        runtime = Runtime.start(precision="fp32", device="cpu", seed=0, deterministic=False)
        network = build.network(config, manifest.num_identities)
        runtime.prepare(network)
        evaluator = Evaluator(network, manifest, build.protocol(config), runtime)
        return Found(evaluator, evaluator.evaluate())

    return {"baseline": found(Variant.BASELINE), "full": found(Variant.FULL)}


@pytest.fixture(scope="session")
def knowing(untrained) -> Found:
    """Vectors that mostly know the identity, under the same protocol."""
    rng = np.random.default_rng(0)
    evaluator = untrained["full"].evaluator
    manifest = evaluator.manifest
    centres = {identity: rng.standard_normal(16) for identity in np.unique(manifest.identity)}

    def embedded(role: Role) -> Embedded:
        rows = manifest.rows(role)
        vectors = np.stack([centres[manifest.identity[row]] + 0.7 * rng.standard_normal(16) for row in rows])
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embedded(rows, torch.from_numpy(unit.astype(np.float32)))

    scored = Evaluation({}, embedded(Role.QUERY), embedded(Role.GALLERY))
    for direction in Direction:
        labels = (
            Labels(manifest.identity[side.rows], manifest.camera[side.rows])
            for side in scored.sides(direction)
        )
        scored.results[direction] = evaluate(scored.similarities(direction), *labels)
    return Found(evaluator, scored)
