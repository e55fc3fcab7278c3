"""The networks, by name. Each is one file; a new one adds one line to NETWORKS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fassst_ros.types import ConfigError

if TYPE_CHECKING:
    from fassst_ros.networks.base import SegmentationNetwork

NETWORKS = {
    "fassst": "fassst_ros.networks.fassst:FASSST",
    "sparseinst": "fassst_ros.networks.sparseinst:SparseInst",
}


def build_network(name: str, **config: Any) -> SegmentationNetwork:
    """Make the network called `name` with its own arguments, weights at their initial values.

    Raises ConfigError for an unknown name or argument, listing what is known.
    """
    target = NETWORKS.get(name)
    if target is None:
        raise ConfigError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    module, attribute = target.split(":")
    try:
        network: SegmentationNetwork = getattr(import_module(module), attribute)(**config)
    except TypeError as err:
        raise ConfigError(f"network {name!r}: {err}") from err
    return network
