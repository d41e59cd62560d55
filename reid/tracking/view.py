"""How MLflow's pages show an experiment: as a place of training runs, with a text, and with the columns worth comparing.

MLflow keeps a view that somebody shares as a tag of the experiment, and shows it at an address that names it:
/#/experiments/ID/runs?viewStateShareKey=agreed    (with &compareRunsMode=CHART the charts)
"""

import json

from reid.tracking import names
from reid.types import Direction

METRICS = (
    *(
        score(direction)
        for direction in Direction
        for score in (names.first_rank, names.mean_average_precision)
    ),
    names.Metric.MEAN_MAP,
    names.Metric.LOSS,
    names.Metric.CLIPS_PER_SECOND,
)
PARAMS = (
    names.Param.VARIANT,
    names.Param.SEED,
    names.Param.LAMBDA1,
    names.Param.LAMBDA2,
    names.Param.LAMBDA3,
)
TAGS = (names.Tag.SYNTHETIC, names.Tag.CHILDREN)


def experiment_tags(experiment_id: str) -> dict[str, str]:
    """What an experiment is given that does not have it."""
    here = f"#/experiments/{experiment_id}/runs?viewStateShareKey={names.VIEW}"
    description = (
        f"Visible-infrared video person re-identification: [runs with the agreed columns]({here}), "
        f"[their curves]({here}&compareRunsMode=CHART). Scores are fractions. The step is the iteration; in a run above "
        "others, the number of those that have finished."
    )
    columns = [
        *(f"metrics.`{name}`" for name in METRICS),
        *(f"params.`{name}`" for name in PARAMS),
        *(f"tags.`{name}`" for name in TAGS),
    ]
    return {
        names.ExperimentTag.KIND: "custom_model_development",
        names.ExperimentTag.DESCRIPTION: description,
        names.ExperimentTag.VIEW: json.dumps({"selectedColumns": columns}),
    }
