"""The networks, by name. Each is one file; a new one adds one line to NETWORKS."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from fassst_ros.types import ConfigError

if TYPE_CHECKING:
    from fassst_ros.networks.base import SegmentationNetwork

NETWORKS = {
    "fassst": "fassst_ros.networks.fassst:FASSST",
    "sparseinst": "fassst_ros.networks.sparseinst:SparseInst",
}


def build_network(name: str, **config: Any) -> SegmentationNetwork:
    """Make the network called `name` with its own arguments, weights at their initial values.

    Raises ConfigError for an unknown name or argument, listing what is known, and for an argument of a
    wrong type; ValueError for a value that the network refuses.
    """
    target = NETWORKS.get(name)
    if target is None:
        raise ConfigError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    module, attribute = target.split(":")
    network: type[SegmentationNetwork] = getattr(import_module(module), attribute)
    _check_arguments(name, network, config)
    return network(**config)


def _check_arguments(name: str, network: type[SegmentationNetwork], config: Mapping[str, Any]) -> None:
    """Arguments come from YAML: names and simple types are checked by the annotations of `network`."""
    kinds = {k: v for k, v in get_type_hints(network.__init__).items() if k != "return"}
    unknown = [argument for argument in config if argument not in kinds]
    if unknown:
        raise ConfigError(
            f"network {name!r}: unknown argument {', '.join(unknown)}; known: {', '.join(kinds)}"
        )
    for argument, value in config.items():
        kind = kinds[argument]
        if kind is int and (type(value) is not int or value < 1):
            expected = "a whole number from 1 on"
        elif kind is bool and not isinstance(value, bool):
            expected = "true or false"
        elif kind is str and not isinstance(value, str):
            expected = "a string"
        else:
            continue
        raise ConfigError(f"network {name!r}: {argument} is {value!r}; expected {expected}")
