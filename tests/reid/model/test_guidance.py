"""reid/model/guidance.py: Eqs. 11 to 15 stripe by stripe and by hand, and what only its two LSTMs can see."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.model.guidance import Guidance
from reid.types import Guide

CLIPS, FRAMES, PARTS, FEATURES = 2, 3, 2, 4


def guidance(
    kind: Guide, *, num_layers: int = 1, neck: bool = False, generalized_mean: bool = False
) -> Guidance:
    torch.manual_seed(0)
    module = Guidance(
        FEATURES,
        PARTS,
        kind,
        num_layers=num_layers,
        reduction=2,
        neck=neck,
        generalized_mean=generalized_mean,
    )
    return module.double().eval()


def maps(height: int = 4, width: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(CLIPS * FRAMES, FEATURES, height, width, dtype=torch.float64, generator=generator)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def run(lstm: nn.LSTM, sequence: list[Tensor]) -> list[Tensor]:
    """The outputs of an LSTM that starts from nothing, one (D,) an input, gate by gate."""
    for layer in range(lstm.num_layers):
        of_input, of_output = getattr(lstm, f"weight_ih_l{layer}"), getattr(lstm, f"weight_hh_l{layer}")
        bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        output = cell = torch.zeros(lstm.hidden_size, dtype=torch.float64)
        outputs = []
        for x in sequence:
            enter, forget, candidate, leave = (of_input @ x + of_output @ output + bias).chunk(4)
            cell = sigmoid(forget) * cell + sigmoid(enter) * candidate.tanh()
            output = sigmoid(leave) * cell.tanh()
            outputs.append(output)
        sequence = outputs
    return sequence


def equation_15(module: Guidance, x: Tensor, clip: int) -> Tensor:
    """Eqs. 11 to 15 for one clip, as they stand in the paper -> (K*D,)."""
    rows = x.shape[2] // PARTS
    f = [
        [x[FRAMES * clip + t, :, rows * k : rows * (k + 1)].mean((1, 2)) for k in range(PARTS)]
        for t in range(FRAMES)
    ]
    motion = [run(module.motion, [f[t][k] for t in range(FRAMES)]) for k in range(PARTS)]  # by k, then t
    parts = []
    for k in range(PARTS):
        total = torch.zeros(FEATURES, dtype=torch.float64)
        for t in range(FRAMES):
            highlighted = f[t][k]
            if module.kind is not Guide.MOTION_ONLY:
                relation = motion[k][-1]  # FRM-STIG* [A36]
                if module.kind is Guide.FULL:
                    relation = run(module.spatial, [motion[j][-1] for j in range(PARTS)])[-1]
                concatenated = torch.cat([f[t][k], relation])  # Eq. 11
                hidden = (module.gate[0].weight @ concatenated + module.gate[0].bias).clamp_min(0)
                weights = sigmoid(module.gate[2].weight @ hidden + module.gate[2].bias)  # Eq. 12
                highlighted = f[t][k] * weights  # Eq. 13
            total += highlighted + motion[k][t]  # Eq. 14
        parts.append(total / FRAMES)  # Eq. 15
    return torch.cat(parts)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", Guide)
@torch.no_grad()
def test_guidance_is_equations_11_to_15_stripe_by_stripe(kind: Guide, num_layers: int) -> None:
    module = guidance(kind, num_layers=num_layers)
    x = maps()
    expected = torch.stack([equation_15(module, x, clip) for clip in range(CLIPS)])
    torch.testing.assert_close(module(x, FRAMES), expected)


def accumulate(lstm: nn.LSTM) -> None:
    """One channel whose gates are open: c_t = c_(t-1) + tanh(x_t), output tanh(c_t)."""
    for name, parameter in lstm.named_parameters():
        parameter.fill_(0)
        if name == "bias_ih_l0":
            parameter.copy_(torch.tensor([100.0, 100.0, 0.0, 100.0]))  # enter, forget, candidate, leave
        if name == "weight_ih_l0":
            parameter[2] = 1


@torch.no_grad()
def test_guidance_of_two_frames_and_two_stripes_by_hand() -> None:
    """Stripe 0 holds a = ln(3)/2 in both frames (tanh a = 1/2), stripe 1 holds nothing.

    LSTM_mot:   stripe 0 gives tanh 1/2 = 0.4621172, then tanh 1 = 0.7615942; stripe 1 gives 0 and 0.
    LSTM_spa:   tanh(tanh(0.7615942)) = tanh 0.6420150 = 0.5662700, then the same again, for stripe 1 adds tanh 0.
    Eqs. 11-12: the gate is sigmoid(relu(f + relation)): of 0.5493061 + 0.5662700 = 1.1155761 it is 0.7531672.
    Eq. 13:     0.5493061 * 0.7531672 = 0.4137194, and 0 for stripe 1.
    Eqs. 14-15: 0.4137194 + (0.4621172 + 0.7615942) / 2 = 1.0255750, and 0.
    """
    module = Guidance(1, 2, Guide.FULL, reduction=2).double()
    accumulate(module.motion)
    accumulate(module.spatial)
    for linear in (module.gate[0], module.gate[2]):
        linear.weight.fill_(1)
        linear.bias.fill_(0)
    stripes = torch.tensor([math.log(3) / 2, 0.0], dtype=torch.float64)
    result = module(stripes.view(1, 1, 2, 1).repeat(2, 1, 1, 1), 2)
    assert result[0].tolist() == pytest.approx([1.0255750, 0.0])


@pytest.mark.parametrize(
    ("kind", "children"),
    [
        (Guide.FULL, {"motion", "spatial", "gate", "neck"}),
        (Guide.WITHOUT_SPATIAL, {"motion", "gate", "neck"}),
        (Guide.MOTION_ONLY, {"motion", "neck"}),
    ],
)
def test_a_kind_has_its_layers_and_no_others(kind: Guide, children: set[str]) -> None:
    module = guidance(kind)
    assert {name for name, _ in module.named_children()} == children
    assert list(module.neck.parameters()) == []


def test_widths_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        module = Guidance(2048, 6, Guide.FULL)
    assert (module.motion.input_size, module.motion.hidden_size, module.motion.num_layers) == (2048, 2048, 1)
    assert (module.spatial.input_size, module.spatial.hidden_size) == (2048, 2048)
    assert not module.motion.bidirectional
    assert [(linear.in_features, linear.out_features) for linear in (module.gate[0], module.gate[2])] == [
        (4096, 256),
        (256, 2048),
    ]


@torch.no_grad()
def test_stripes_are_the_means_of_rows_from_head_to_foot() -> None:
    x = maps(height=6)
    stripes = guidance(Guide.FULL).stripes(x, FRAMES)
    assert stripes.shape == (CLIPS, FRAMES, PARTS, FEATURES)
    for b in range(CLIPS):
        for t in range(FRAMES):
            for k in range(PARTS):
                for d in range(FEATURES):
                    cells = [x[FRAMES * b + t, d, 3 * k + row, w] for row in range(3) for w in range(3)]
                    assert float(stripes[b, t, k, d]) == pytest.approx(float(sum(cells)) / 9)


@torch.no_grad()
def test_stripes_by_gem_are_the_cube_roots_of_the_mean_cubes_of_rows() -> None:
    x = maps(height=6).abs() + 0.1
    stripes = guidance(Guide.FULL, generalized_mean=True).stripes(x, FRAMES)
    expected = (x**3).unflatten(2, (PARTS, 3)).mean((3, 4)) ** (1 / 3)  # (B*T, D, K)
    torch.testing.assert_close(stripes.flatten(0, 1), expected.mT)


def test_rows_that_do_not_divide_into_stripes_are_an_error_that_names_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"model\.num_parts: 5 rows .* 2 stripes.*data\.height"):
        guidance(Guide.FULL)(maps(height=5), FRAMES)


@pytest.mark.parametrize("kind", Guide)
@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch(kind: Guide) -> None:
    module = guidance(kind)
    x = maps()
    torch.testing.assert_close(module(x, FRAMES)[1:], module(x[FRAMES:], FRAMES))


def test_the_optional_neck_normalises_the_concatenated_stripes(
    awake: Callable[[nn.Module], nn.Module],
) -> None:
    module, plain = guidance(Guide.FULL, neck=True), guidance(Guide.FULL)
    awake(module)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("neck")})
    vector, norm = plain(maps(), FRAMES), module.neck.norm
    expected = (vector - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5 * norm.weight
    torch.testing.assert_close(module(maps(), FRAMES), expected)
    assert not norm.bias.requires_grad


# Eight identities that look the same in every single stripe of every single frame: each stripe is a point of one
# circle in feature space, at a random phase. Only how the points move together tells the identities apart.
NUM_IDENTITIES, NUM_CLIPS = 8, 64
Phases = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def random_phase(num_clips: int, generator: torch.Generator) -> Tensor:
    return 2 * math.pi * torch.rand(num_clips, 1, 1, generator=generator)


def frequencies(num_clips: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Identity y turns y + 1 times in 17 frames -> phases (B, 17, 2) and identity (B,).

    17 is prime: whatever the frequency, the same 17 phases are visited, only in another order.
    """
    identity = torch.randint(NUM_IDENTITIES, (num_clips,), generator=generator)
    time = torch.arange(17)[:, None] / 17
    phases = random_phase(num_clips, generator) + 2 * math.pi * (identity[:, None, None] + 1) * time
    return phases.expand(-1, -1, 2), identity


def disordered_frequencies(num_clips: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    phases, identity = frequencies(num_clips, generator)
    order = torch.rand(num_clips, 17, generator=generator).argsort(1)
    return phases.gather(1, order[:, :, None].expand_as(phases)), identity


def lags(num_clips: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All turn once in 4 frames; each stripe is y/8 of a turn behind the last -> (B, 4, 3) and identity (B,)."""
    identity = torch.randint(NUM_IDENTITIES, (num_clips,), generator=generator)
    time, stripe = torch.arange(4)[:, None] / 4, torch.arange(3)
    turns = time + stripe * identity[:, None, None] / NUM_IDENTITIES
    return random_phase(num_clips, generator) + 2 * math.pi * turns, identity


def accuracy(kind: Guide, draw: Phases, *, seed: int, features: int, iterations: int, rate: float) -> float:
    """Train FRM-STIG and W_se on fresh clips, then count on 1,000 others how often the identity is right."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(2, features, generator=generator)
    num_parts = draw(1, generator)[0].shape[2]
    module = Guidance(features, num_parts, kind, reduction=1)
    classifier = nn.Linear(num_parts * features, NUM_IDENTITIES, bias=False)
    optimizer = torch.optim.Adam([*module.parameters(), *classifier.parameters()], rate)

    def logits(phases: Tensor) -> Tensor:
        points = 1 + torch.stack([phases.cos(), phases.sin()], -1) @ plane  # (B, T, K, D)
        maps = points.mT.flatten(0, 1)[..., None]  # (B*T, D, K, 1)
        return classifier(module(maps, phases.shape[1]))  # type: ignore[no-any-return]

    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = rate * min(1, 2 - 2 * iteration / iterations)
        phases, identity = draw(NUM_CLIPS, generator)
        optimizer.zero_grad()
        F.cross_entropy(logits(phases), identity).backward()
        optimizer.step()
    with torch.no_grad():
        phases, identity = draw(1000, generator)
        return float((logits(phases).argmax(1) == identity).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_lstm_mot_tells_identities_by_the_frequency_of_their_motion(seed: int) -> None:
    ordered = accuracy(Guide.MOTION_ONLY, frequencies, seed=seed, features=16, iterations=300, rate=0.01)
    disordered = accuracy(
        Guide.MOTION_ONLY, disordered_frequencies, seed=seed, features=16, iterations=300, rate=0.01
    )
    assert ordered > 0.95
    assert disordered < 0.25  # chance is 0.125


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_lstm_spa_tells_identities_by_the_lag_between_their_parts(seed: int) -> None:
    whole = accuracy(Guide.FULL, lags, seed=seed, features=32, iterations=700, rate=0.007)
    without = accuracy(Guide.WITHOUT_SPATIAL, lags, seed=seed, features=32, iterations=700, rate=0.007)
    assert whole > 0.95
    assert without < 0.25  # chance is 0.125
