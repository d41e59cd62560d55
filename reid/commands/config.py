"""reid config: the configuration that a run would have."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from reid import config as configuration
from reid.arguments import parse
from reid.config import Config
from reid.configured import Flat, starting_point


@dataclass(frozen=True)
class ConfigArguments:
    """Print the resolved configuration and its difference from the paper.

    --config FILE gives a YAML file to start from; the flags below change it.
    """

    config: Flat
    schema: bool = False
    """Print the JSON schema of the configuration instead."""
    json: bool = False
    """Print JSON."""


def main(arguments: Sequence[str]) -> int:
    base, rest = starting_point(arguments)
    chosen = parse(ConfigArguments, rest, "config", ConfigArguments(config=base))
    if chosen.schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return 0
    if chosen.json:
        found = configuration.difference(chosen.config).items()
        changes = {key: {"paper": old, "here": new} for key, (old, new) in found}
        print(json.dumps({"config": chosen.config.model_dump(mode="json"), "difference": changes}, indent=2))
        return 0
    print(configuration.to_yaml(chosen.config))
    for line in configuration.explanation(chosen.config).splitlines():
        print(line if line.startswith("#") else f"#   {line}")
    return 0
