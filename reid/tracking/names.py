"""Every metric, parameter, tag and folder name that a run shows. No other file spells one.

MLflow groups charts by the part of a metric's name before the last `/`. Names hold letters, digits, `_ - . /` only.
"""

from enum import StrEnum

from reid.types import Direction

RANKS = (1, 5, 10, 20)


class Metric(StrEnum):
    """Metrics with a fixed name; those of an objective or a direction are made by the functions below."""

    LOSS = "train/loss"
    LEARNING_RATE = "train/lr"
    GRADIENT_NORM = "train/grad_norm"
    ACCURACY = "train/accuracy"
    MEAN_RANK1 = "mean/rank1"
    MEAN_MAP = "mean/map"
    CLIPS_PER_SECOND = "speed/clips_per_second"
    STEP_MS = "speed/step_ms"
    DATA_WAIT_FRACTION = "speed/data_wait_fraction"
    EVALUATION_SECONDS = "speed/eval_seconds"
    GPU_MEMORY_GB = "gpu/memory_gb_max"
    CPU_PERCENT = "system/cpu_percent"
    MEMORY_PERCENT = "system/memory_percent"
    RESIDENT_GB = "system/resident_gb"
    GPU_PERCENT = "system/gpu_percent"
    GPU_MEMORY_PERCENT = "system/gpu_memory_percent"
    GPU_WATTS = "system/gpu_watts"
    NONFINITE = "health/nonfinite"
    GRADIENT_SCALE = "health/grad_scale"
    RESUME_MISMATCH = "health/resume_mismatch"
    QUARANTINED_FRAMES = "health/quarantined_frames"
    STAGE = "stage"
    EPOCH = "epoch"


TERMS = ("cov_id", "att_id", "def_id", "def_tri", "p_id")


def objective(term: str) -> str:
    """A term of the paper's objectives, one of TERMS."""
    return f"train/{term}"


def rank(direction: Direction, k: int) -> str:
    return f"{direction}/rank{k}"


def first_rank(direction: Direction) -> str:
    return rank(direction, 1)


def mean_average_precision(direction: Direction) -> str:
    return f"{direction}/map"


def mean_inverse_penalty(direction: Direction) -> str:
    return f"{direction}/minp"


SCORES = (
    *(rank(direction, k) for direction in Direction for k in RANKS),
    *(mean_average_precision(direction) for direction in Direction),
    *(mean_inverse_penalty(direction) for direction in Direction),
    Metric.MEAN_RANK1,
    Metric.MEAN_MAP,
)


def deviation(score: str) -> str:
    """The sample deviation of one of SCORES over the children of a run; its mean has the name of the score."""
    return f"{score}_deviation"


def is_repeatable(metric: str) -> bool:
    """Whether a resumed run should see the same value again. Speed, memory and health belong to the machine."""
    return not metric.startswith(("speed/", "gpu/", "system/", "health/"))


class Param(StrEnum):
    """What people filter and sweep by."""

    VARIANT = "variant"
    RECIPE = "recipe"
    WEIGHTS = "weights"
    BACKBONE = "backbone"
    LAMBDA1 = "lambda1"
    LAMBDA2 = "lambda2"
    LAMBDA3 = "lambda3"
    LEARNING_RATE = "lr"
    TRIPLET = "triplet"
    IDENTITIES_PER_BATCH = "P"
    TRACKLETS_PER_IDENTITY = "K"
    FRAMES_PER_CLIP = "T"
    SIZE = "size"
    SEED = "seed"
    PRECISION = "precision"
    WORLD_SIZE = "world_size"
    STEPS = "steps"
    PROTOCOL = "protocol"
    DATASET = "dataset"
    DATASET_DIGEST = "dataset_digest"
    INIT = "init"


# What does not follow from a configuration.
FACTS = (Param.WORLD_SIZE, Param.DATASET, Param.DATASET_DIGEST)


class Tag(StrEnum):
    """Facts that may change while a run lives. Those that begin with `mlflow.` are shown by MLflow in places of its own."""

    DESCRIPTION = "mlflow.note.content"
    PARENT = "mlflow.parentRunId"
    SOURCE = "mlflow.source.name"
    COMMIT = "mlflow.source.git.commit"
    USER = "mlflow.user"
    DIRTY = "git_dirty"
    RUN_FOLDER = "run_folder"
    RUN_UID = "run_uid"
    CONFIG_SHA = "config_sha256"
    LEARNED_SHA = "learned_sha256"
    INIT_SHA = "init_sha256"
    SYNTHETIC = "synthetic"
    SLURM_JOB = "slurm_job"
    SLURM_NODES = "slurm_nodes"
    SLURM_RESTARTS = "slurm_restarts"
    RESTARTS = "restarts"
    HOST = "host"
    DRIVER = "driver"
    LAST_CHECKPOINT = "last_checkpoint"
    HEARTBEAT = "heartbeat"
    ENDED_BY = "ended_by"
    CHILDREN = "children"
    ACCEPTED_CHANGES = "accepted_changes"
    COLLAPSED = "collapsed"
    STAGE = "stage"
    ABLATION = "ablation"
    SWEEP = "sweep"
    ROW = "row"
    CHECKPOINT = "checkpoint"
    CHECKPOINT_SHA = "checkpoint_sha256"


def changed(param: str) -> str:
    """The tag that holds a parameter's later value: MLflow's parameters cannot change."""
    return f"changed.{param}"


def shared(param: str) -> str:
    """The tag of a run above others that holds what a parameter is in all of them, which the next one may change."""
    return f"{SHARED}{param}"


SHARED = "shared."
VIEW = "agreed"


class ExperimentTag(StrEnum):
    """Tags of an experiment, which MLflow's pages read."""

    KIND = "mlflow.experimentKind"
    DESCRIPTION = "mlflow.note.content"
    VIEW = f"mlflow.sharedViewState.{VIEW}"


class ModelTag(StrEnum):
    """Tags of the model that stands for a checkpoint."""

    PATH = "path"
    DIGEST = "sha256"
    STEP = "step"


CONTEXT_OF_DATASET = "mlflow.data.context"


CONFIGURATION = "config.yaml"  # the resolved configuration, in a run's folder


class Folder(StrEnum):
    """Where artifacts of a run lie in MLflow."""

    CONFIG = "config"
    PICTURES = "pictures"
    REPORT = "report"
