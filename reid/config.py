"""The configuration of a run. Its defaults are the paper; everything else is a difference from them.

    defaults <- YAML file (--config) <- dotted flags -> a frozen, validated `Config`

Numbers that follow from others are functions here and are stored nowhere. `[A23]` and the like name the readings of the
paper that the README lists.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from reid.types import Distance, Embedding, Recipe, Variant

MACHINE = (  # keys that say where, how fast and how often, not what is learned
    "data.cache",
    "data.num_workers",
    "data.root",
    "engine.",
    "evaluation.batch_clips",
    "evaluation.every_epochs",
    "tracking.",
)


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


def _as_text(root: object) -> object:
    """A path as the text that a file would hold."""
    return str(root) if isinstance(root, Path) else root


class Data(_Section):
    """What a batch is made of."""

    root: Annotated[str, BeforeValidator(_as_text)] | None = None
    """Folder of a packed data set (`python -m preprocess pack`), or its address, `https://HOST/FOLDER`."""
    cache: Path | None = None
    """Folder on a disk of this machine, into which each shard is copied when it is first needed."""
    cache_gigabytes: float = Field(200.0, gt=0)
    """What the cache may hold; the copies that were used least recently make room."""
    height: int = Field(288, gt=0)
    """Rows of a frame in pixels."""
    width: int = Field(144, gt=0)
    """Columns of a frame in pixels."""
    num_identities: int = Field(8, gt=1)
    """Identities P of the global batch, over all processes [A35]."""
    num_tracklets: int = Field(2, gt=0)
    """Tracklets K of each identity in each modality."""
    clip_frames: int = Field(6, gt=0)
    """Frames T chosen from a tracklet."""
    minimum_frames: int | None = Field(None, ge=1)
    """Shorter tracklets are left out; by default what the data set's manifest says (12 for HITSZ-VCM)."""
    padding: int = Field(10, ge=0)
    """Pixels added on every side before the random crop [A32]."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    grey: float = Field(0.0, ge=0, le=1)
    """Probability that a visible clip is turned grey by a random mixture of its channels. Not in the paper."""
    channel_exchange: float = Field(0.0, ge=0, le=1)
    """Probability that one channel of a visible clip takes the place of all three (Ye et al. 2021). Not in the paper."""
    channel_erasing: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle of a clip is painted with the mean of each channel (Ye et al. 2021). Not in the paper."""
    augment_per_frame: bool = False
    """Draw the augmentation for each frame instead of once a clip [A32]."""
    num_workers: int = Field(4, ge=0)
    """Worker processes that read and decode, per training process."""
    quarantine_frames: int = Field(0, ge=0)
    """Damaged frames that training goes on without, each replaced by its nearest sound neighbour; 0 stops at the first."""


class Model(_Section):
    """Which parts exist, and the readings of the paper inside them."""

    variant: Variant = Variant.FULL
    """A row of Table 1."""
    backbone: Literal["resnet50", "thin"] = "resnet50"
    """The residual trunk; `thin` is for demonstrations and tests."""
    weights: str = "imagenet"
    """Where the trunk starts: `imagenet`, `none`, or a .pth or .safetensors file with torchvision's names."""
    last_stride: Literal[1, 2] = 1
    """Stride of layer4 [A3]."""
    num_parts: int = Field(6, gt=0)
    """Horizontal stripes K of FRM-STIG."""
    attention_reduction: int = Field(2, gt=0)
    """Bottleneck of IMSA and CMCA [A4]."""
    separate_attention: bool = False
    """One IMSA a modality instead of one for both [A5]."""
    pair_clips: bool = False
    """CMCA looks at all frames of its partner instead of the same frame [A10]."""
    update_cross_statistics: bool = False
    """layer4's pass over CMCA's output updates running statistics too [A34]."""
    num_lstm_layers: int = Field(1, gt=0)
    """Layers of each LSTM [A15]."""
    gate_reduction: int = Field(16, gt=0)
    """Bottleneck of the two linear maps of Eq. 12 [A17]."""
    guided_neck: bool = False
    """A BN neck before W_se [A19]."""
    pooling: Literal["average", "gem"] = "average"
    """Over the cells of a frame and of its stripes; `gem` learns an exponent, 3 at first (GeM). Not in the paper."""
    non_local: bool = False
    """Attention within a frame after the last blocks of layer2 and layer3, as in AGW (Ye et al. 2022). Not in the paper."""


class Objective(_Section):
    """The factors of Eq. 17 and the triplet of Eq. 10."""

    lambda1: float = Field(1.0, ge=0)
    """Weight of the attacker's identification (Eq. 5)."""
    lambda2: float = Field(0.5, ge=0)
    """Weight of the defence's identification and triplet (Eqs. 9 and 10)."""
    lambda3: float = Field(0.5, ge=0)
    """Weight of the guided identification (Eq. 16)."""
    margin: float = Field(0.3, ge=0)
    """Margin of the triplet."""
    triplet: Literal["auto", "euclidean", "euclidean_unit", "squared_bn"] = "auto"
    """Distance of the triplet [A23]. `auto`: between unit vectors if trained from scratch, else Euclidean."""
    mining: Literal["global", "local"] = "global"
    """Hardest clips of all processes, or of each process alone [A24]."""


class Optimizer(_Section):
    """SGD and its learning rate, a function of the step."""

    learning_rate: float = Field(0.12, gt=0)
    """Peak rate of everything but the residual trunk, for the paper's batch of 32 clips."""
    trunk_learning_rate: float = Field(0.012, gt=0)
    """Peak rate of stems and layers 1 to 4 [A29]."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""
    nesterov: bool = True
    """Nesterov's form of the momentum [A31]."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay; a part that rests in an update does not decay in it."""
    warmup_epochs: float = Field(10, ge=0)
    """Epochs of linear warm-up."""
    schedule: Literal["steps", "cosine"] = "steps"
    """After the warm-up: `steps` at the milestones, or `cosine` down to 0 at the end of the run. The latter not in the paper."""
    milestones: tuple[float, ...] = (35, 80)
    """Epochs at which the rate is multiplied by `decay` [A30]; `cosine` has none."""
    decay: float = Field(0.1, gt=0, le=1)
    """Factor at each milestone."""
    clip_norm: float | None = Field(None, gt=0)
    """Longest gradient of an update, all its weights together; longer ones are shortened to it. Not in the paper."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Evaluate an exponential moving average of the weights, which keeps so much of itself a step. Not in the paper."""
    scale_with_batch: bool = True
    """Multiply both rates by the clips of the global batch over the paper's 32 [A35]."""


class Schedule(_Section):
    """How long each step of Algorithm 1 lasts."""

    recipe: Recipe = Recipe.ALGORITHM1
    """How updates share optimizer steps [A25]."""
    stage1_epochs: int = Field(150, ge=0)
    """Epochs of Step I."""
    stage2_epochs: int = Field(50, ge=0)
    """Epochs of Step II."""
    epoch_iterations: int = Field(268, gt=0)
    """Iterations of an epoch."""


class Evaluation(_Section):
    """The protocol, and when it is run."""

    every_epochs: int = Field(10, gt=0)
    """Epochs between evaluations; there is always one at the end."""
    batch_clips: int = Field(32, gt=0)
    """Clips embedded at a time, per process."""
    embedding: Embedding = Embedding.AUTO
    """What is compared [A20]."""
    drop_same_camera: bool = True
    """Leave gallery items of the query's identity and camera out, as the protocol says."""
    all_clips: bool = False
    """Compare the mean of all clips of a tracklet instead of one. Not the protocol of the field."""
    rerank: bool = False
    """Order answers by k-reciprocal re-ranking instead of by cosine. Not the protocol of the field."""


class Engine(_Section):
    """How the machine is used. Nothing here changes what is learned, but for rounding."""

    precision: Literal["fp64", "fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the forward pass; fp64 is for proofs."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` leaves a GPU alone."""
    activation_checkpointing: bool = False
    """Keep only the inputs of residual blocks for the backward pass and compute the rest again: less memory, more time."""
    compile: bool = False
    """Compile the residual blocks with torch.compile: for one GPU; on a CPU it is slower, and needs a C++ compiler."""
    deterministic: bool = False
    """Ask the libraries for deterministic kernels (slower on a GPU; a CPU is deterministic anyway)."""
    log_every_steps: int = Field(50, gt=0)
    """Iterations between two points of every curve."""
    checkpoint_every_steps: int = Field(268, gt=0)
    """Iterations between two checkpoints; there is one after every evaluation too."""
    keep_checkpoints: int = Field(2, ge=2)
    """Newest checkpoints that are kept."""
    hang_timeout_seconds: float = Field(600, gt=1)
    """A job that stands still for so long is ended, and who held it up is named."""


class Tracking(_Section, hide_input_in_errors=True):
    """Where runs are compared."""

    experiment: str = "vcm"
    """MLflow experiment."""
    run_name: str | None = None
    """Name of the run in MLflow; by default that of the run's folder."""
    uri: str | None = None
    """MLflow server or store; by default MLFLOW_TRACKING_URI, else a SQLite file beside the run's folder."""
    parent: Path | None = None
    """Folder of the run above this one, whose means over seeds `reid runs gather` makes; begun where there is none."""

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError(
                "tracking.uri: whatever stands before the @ (a user, a password, a token) would be written into the run's "
                "folder and its checkpoints; give it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in "
                "MLFLOW_TRACKING_TOKEN, or the whole address in MLFLOW_TRACKING_URI"
            )
        return uri


class Config(_Section):
    """A run. The defaults are the paper."""

    seed: int = Field(0, ge=0, lt=2**63)
    """Of the first weights, the batches and the augmentation."""
    init: Path | None = None
    """Checkpoint, or folder of a run, whose weights this one starts from in place of `model.weights`."""
    data: Data = Data()
    model: Model = Model()
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    evaluation: Evaluation = Evaluation()
    engine: Engine = Engine()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.schedule.stage1_epochs + self.schedule.stage2_epochs == 0:
            raise ValueError("schedule: stage1_epochs and stage2_epochs are both 0; nothing would be trained")
        if sorted(self.optimizer.milestones) != list(self.optimizer.milestones):
            raise ValueError(
                f"optimizer.milestones: expected rising epochs, found {self.optimizer.milestones}"
            )
        if self.data.padding >= min(self.data.height, self.data.width):
            raise ValueError(
                f"data.padding: {self.data.padding} pixels can move a picture of {self.data.height} x "
                f"{self.data.width} out of sight; choose less"
            )
        rows = -(-self.data.height // (16 * self.model.last_stride))
        if self.model.variant.guide is not None and rows % self.model.num_parts:
            raise ValueError(
                f"model.num_parts: the {rows} rows of the last feature map do not divide into {self.model.num_parts} "
                "stripes; change data.height, model.last_stride or model.num_parts"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Iterations of the whole run."""
        return (self.schedule.stage1_epochs + self.schedule.stage2_epochs) * self.schedule.epoch_iterations

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that iteration `step`, from 0, lies in."""
        return step // self.schedule.epoch_iterations

    def stage(self, step: int) -> int:
        """0 in Step I of Algorithm 1, 1 in Step II."""
        return int(self.epoch(step) >= self.schedule.stage1_epochs)

    def rate(self, step: int) -> float:
        """What the peak learning rates are multiplied by in iteration `step` [A30]."""
        warmup = self.optimizer.warmup_epochs * self.schedule.epoch_iterations
        rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
        clips = 2 * self.data.num_identities * self.data.num_tracklets
        return rising * self._falling(step, warmup) * (clips / 32 if self.optimizer.scale_with_batch else 1.0)

    def _falling(self, step: int, warmup: float) -> float:
        """What is left of the peak in iteration `step`, after `warmup` iterations."""
        if self.optimizer.schedule == "cosine":
            passed = max(0.0, step - warmup) / max(1.0, self.num_steps - warmup)
            return (1 + math.cos(math.pi * passed)) / 2
        epochs = step / self.schedule.epoch_iterations
        return self.optimizer.decay ** sum(epochs >= milestone for milestone in self.optimizer.milestones)

    @property
    def triplet_distance(self) -> Distance:
        """`objective.triplet` with `auto` resolved."""
        if self.objective.triplet == "auto":
            return Distance.EUCLIDEAN_UNIT if self.model.weights == "none" else Distance.EUCLIDEAN
        return (
            Distance.SQUARED if self.objective.triplet == "squared_bn" else Distance(self.objective.triplet)
        )


class ConfigError(ValueError):
    """A mistake in a configuration: every one found, a line each."""


def from_yaml(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError naming the file and every mistake in it."""
    content = content_of(path, "launch/experiments/vcm.yaml")
    if holds_rows(content):
        raise ConfigError(
            f"{path}: these are the rows of an experiment, not a configuration: reid ablate --rows {path}"
        )
    return from_dict(content or {}, str(path))


def holds_rows(content: Any) -> bool:
    """Whether what a file holds is an experiment's rows or curves rather than a configuration."""
    return isinstance(content, dict) and not content.keys().isdisjoint({"rows", "curves"})


def content_of(path: Path, example: str) -> Any:
    """What a YAML file holds. Raises ConfigError with the reason and an `example` where it cannot be read."""
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a YAML file, such as {example}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is no YAML: {error}") from error


def from_dict(content: Any, source: str) -> Config:
    """Check a nested mapping. Raises ConfigError with `source` and every mistake, each with its key."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise refusal(error, source) from error


def refusal(error: ValidationError, source: str) -> ConfigError:
    """Every mistake that `error` found in `source`, a line each."""
    lines = [
        f"  {mistake['msg'].removeprefix('Value error, ')}"
        if mistake["type"] == "value_error"
        else f"  {'.'.join(map(str, mistake['loc'])) or 'the whole'}: {mistake['msg']}, found {mistake['input']!r}"
        for mistake in error.errors(include_url=False)
    ]
    return ConfigError("\n".join([f"{source}: {len(lines)} mistake(s) in the configuration", *lines]))


def changed(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """`config` with the values of `changes`, section by section; a value of None changes nothing."""
    content = config.model_dump(mode="json")
    for section, values in changes.items():
        content[section] |= {key: value for key, value in values.items() if value is not None}
    return from_dict(content, "the options given")


def to_yaml(config: Config) -> str:
    """The resolved configuration as a file that `from_yaml` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flatten(config: Config) -> dict[str, Any]:
    """Dotted key -> value, JSON types only."""
    content = config.model_dump(mode="json")
    return {
        (f"{section}.{key}" if isinstance(values, dict) else section): value
        for section, values in content.items()
        for key, value in (values.items() if isinstance(values, dict) else [(section, values)])
    }


def difference(config: Config, reference: Config | None = None) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in `reference`, value in `config`) where they differ. The reference is the paper."""
    old, new = flatten(reference or Config()), flatten(config)
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def is_learned(key: str) -> bool:
    """Whether a dotted key says what is learned; the others belong to the machine."""
    return not key.startswith(MACHINE)


def digest_of_learned(config: Config) -> str:
    """The same for runs that learn the same but for the seed, so that their scores may be averaged."""
    learned = {key: value for key, value in flatten(config).items() if is_learned(key) and key != "seed"}
    return hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()


def explanation(config: Config) -> str:
    """The difference from the paper as YAML, with the paper's values as comments: what is learned, then the machine."""
    found = difference(config)
    learned, machine = ([key for key in found if is_learned(key) is wanted] for wanted in (True, False))
    lines = {
        key: f"{key}: {json.dumps(new)}  # the paper: {json.dumps(old)}" for key, (old, new) in found.items()
    }
    text = [f"# {len(learned)} keys differ from the paper:", *map(lines.__getitem__, learned)]
    if machine:
        text += [f"# {len(machine)} keys fit it to this machine:", *map(lines.__getitem__, machine)]
    return "\n".join(text) + "\n"
