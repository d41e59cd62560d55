"""reid/deployment/program.py: one model for both lights computes what the network computes for each."""

import pytest
import torch

from reid.data.clips import normalise
from reid.deployment.program import BATCHES, EmbeddingModel, cases, difference
from reid.types import Modality


@pytest.mark.parametrize(
    ("variant", "embedding"),
    [("baseline", "global"), ("full", "guided"), ("full", "both"), ("adm", "self_attended")],
)
def test_clips_of_both_lights_in_one_batch_get_what_each_gets_alone(drawn, variant, embedding):
    weights = drawn(model={"variant": variant}, evaluation={"embedding": embedding})
    clips = torch.randint(256, (4, 3, 3, 32, 16), dtype=torch.uint8, generator=torch.manual_seed(3))
    infrared = torch.tensor([True, False, False, True])
    with torch.inference_mode():
        alone = torch.cat(
            [
                weights.network.embed(
                    normalise(clip[None]),
                    Modality.INFRARED if is_infrared else Modality.VISIBLE,
                    weights.protocol.embedding,
                )
                for clip, is_infrared in zip(clips, infrared, strict=True)
            ]
        )
        together = EmbeddingModel(weights.network, weights.protocol.embedding)(clips, infrared)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert difference(together, alone) < 1e-5 < difference(together, alone.flip(0))


def test_a_program_holds_only_what_its_embedding_passes_through(loaded):
    names = EmbeddingModel(loaded.network, loaded.protocol.embedding).state_dict()
    parts = {".".join(name.split(".")[1:3]) for name in names}
    assert {"stem.visible", "stem.infrared", "defence.layers", "guidance.motion"} <= parts
    assert not {part for part in parts if "classifier" in part or "attacker" in part or "cmca" in part}


def test_the_cases_tell_clips_and_lights_apart(loaded):
    found = cases(loaded)
    assert [len(clips) for clips, _, _ in found] == list(BATCHES)
    clips, infrared, vectors = found[-1]
    assert set(infrared.tolist()) == {True, False}
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    with torch.inference_mode():
        swapped = EmbeddingModel(loaded.network, loaded.protocol.embedding)(clips, ~infrared)
    assert float((swapped - vectors).norm(dim=1).min()) > 1e-3
    assert float(torch.pdist(vectors).min()) > 1e-3


def test_the_difference_is_the_largest_distance_of_a_row_and_what_is_no_number_is_far_away():
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert difference(one, one) == 0
    assert difference(one, torch.tensor([[1.0, 0.0], [3.0, 5.0]])) == 5
    assert difference(one, one * torch.nan) == float("inf")
