"""For commands that are told a whole configuration: a file to start from, and a flag for every key."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from reid import config as configuration
from reid.arguments import named_file
from reid.config import Config

Flat = Annotated[Config, tyro.conf.arg(name="")]


def starting_point(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """The configuration that --config names, or the paper's, and the arguments left."""
    file, rest = named_file(arguments)
    return configuration.from_yaml(file) if file else Config(), rest
