"""The backbone families: the one place outside their folders, and the registry of released files, that names them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mrl.backbone.base import Backbone
from mrl.backbone.config import BackboneConfig
from mrl.backbone.redimnet.network import ReDimNet
from mrl.backbone.redimnet2.network import ReDimNet2
from mrl.backbone.size import require_size
from mrl.bounded import brief
from mrl.errors import CheckpointError, InputError

_NETWORKS: tuple[type[Backbone], ...] = (ReDimNet, ReDimNet2)
FAMILIES: dict[str, type[Backbone]] = {network.family: network for network in _NETWORKS}
"""Network by the name of its family, in the order of their publication."""

SCRATCH_NAMES: tuple[str, ...] = tuple(name for network in _NETWORKS for name in network.variants)
"""The untrained networks that :func:`scratch_backbone` builds."""


def family_named(name: str | None) -> type[Backbone]:
    """Return a family's network; None means the first family, for files of version 0.1 name none.

    Raises:
        CheckpointError: there is no family of that name; the message lists those that exist.
    """
    network = _NETWORKS[0] if name is None else FAMILIES.get(name)
    if network is None:
        raise CheckpointError(f"the network family {name!r} is unknown; this version has {', '.join(FAMILIES)}")
    return network


def family_of(model_config: Mapping[str, Any]) -> type[Backbone]:
    """Return the network that an official ``model_config`` is for; it does not say so, but families have keys of their own."""
    return next(network for network in reversed(_NETWORKS) if network.claims(model_config))


def backbone_from_official(model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Backbone:
    """Build the network that an official file of any family describes, in eval mode.

    Raises:
        ConfigError: ``model_config`` has an unknown key or an unsupported value.
        CheckpointError: the weights lack an entry, have one too many, or one of another shape.
    """
    network = family_of(model_config)
    counted = [name for name, tensor in state_dict.items() if tensor.is_floating_point() == name.endswith("num_batches_tracked")]
    if counted:
        raise CheckpointError(f"{brief(counted[0])} holds {state_dict[counted[0]].dtype}, another data type than belongs there")
    require_size(lambda: network.from_model_config(model_config), state_dict)
    return network.from_official(model_config, state_dict)


def scratch_backbone(name: str) -> Backbone:
    """Return a network with random weights by its size, such as ``b0`` or ``redimnet2-b3``.

    Raises:
        InputError: there is none of that name; the message lists those that exist.
    """
    network = _scratch_network(name)
    return network(network.variants[name])


def scratch_config(name: str) -> BackboneConfig:
    """Return the configuration of such a network.

    Raises:
        InputError: there is none of that name; the message lists those that exist.
    """
    return _scratch_network(name).variants[name]


def _scratch_network(name: str) -> type[Backbone]:
    for network in _NETWORKS:
        if name in network.variants:
            return network
    near = difflib.get_close_matches(str(name), SCRATCH_NAMES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"no from-scratch variant {name!r}; {hint}There are {', '.join(SCRATCH_NAMES)}")
