"""From what a user names to systems that can be compared: models and files of embeddings, each with a short name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrl.dims import default_dims
from mrl.embeddings import Embedder, open_embedder
from mrl.embeddings.embedder import Output
from mrl.embeddings.formats import READABLE_SUFFIXES, EmbeddingTable, embeddings_sha256, holds_embeddings, load_embeddings
from mrl.embeddings.opening import CHECKPOINT_SUFFIXES
from mrl.errors import InputError
from mrl.evaluation.settings import SystemSettings
from mrl.scoring.cosine import check_dims

UNMODIFIED_BACKBONE = "unmodified backbone"
"""Name of the backbone inside a Matryoshka model that was never trained further."""

TRAINED_BACKBONE = "own backbone (trained)"
"""Name of the backbone inside a Matryoshka model that was trained along with it: no longer the one published."""

BASELINE = "baseline"
"""Name of another network that is measured beside the model."""


@dataclass(frozen=True, eq=False)
class NetworkSystem:
    """A network, and the backbone inside it where that is to be measured beside it.

    Attributes:
        name: for tables and plots.
        spec: what the user called it.
        model: the network.
        dims: prefix lengths to be measured.
        sha256: of its weights.
        own_name: name of the backbone inside it as a system of its own; None where it is not measured.
        own_dims: the prefix lengths of that one.
    """

    name: str
    spec: str
    model: Embedder
    dims: tuple[int, ...]
    sha256: str
    own_name: str | None = None
    own_dims: tuple[int, ...] = ()

    @property
    def depth(self) -> int | None:
        """Number of stages of the network if it is the beginning of another one; None for a whole network."""
        return self.model.depth

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What is wanted of one pass of this network, in the order of :attr:`names`."""
        return ("embedding",) if self.own_name is None else ("raw", "backbone")

    @property
    def names(self) -> tuple[str, ...]:
        """The systems that come out of one pass of this network."""
        return (self.name,) if self.own_name is None else (self.name, self.own_name)


@dataclass(frozen=True, eq=False)
class TableSystem:
    """Embeddings from a file."""

    name: str
    spec: str
    table: EmbeddingTable
    dims: tuple[int, ...]
    sha256: str


System = NetworkSystem | TableSystem


@dataclass(frozen=True, eq=False)
class Lineup:
    """Everything that is compared in one evaluation.

    Attributes:
        systems: in the order given; a baseline comes last.
        reference: (name, dim) that all others are compared with; None where there is only one system.
    """

    systems: tuple[System, ...]
    reference: tuple[str, int] | None

    @property
    def networks(self) -> tuple[NetworkSystem, ...]:
        """Those that need recordings."""
        return tuple(system for system in self.systems if isinstance(system, NetworkSystem))


def open_lineup(specs: Sequence[str], settings: SystemSettings | None = None) -> Lineup:
    """Open everything that is to be compared.

    The reference is the baseline where there is one; otherwise the first unmodified backbone (as a system named, or the one
    inside a Matryoshka model), a backbone trained along with a model, or the first system, in this order.

    Args:
        specs: model folders, official checkpoints, exported files, released names or embedding files.
        settings: what is measured of them.

    Raises:
        InputError: unusable names, options or dims; otherwise as :func:`mrl.embeddings.open_embedder` and ``load_embeddings``.
    """
    how = settings or SystemSettings()
    dims, depth, baseline = how.dims, how.depth, how.baseline
    if not specs:
        raise InputError("there is no system to evaluate")
    if len(set(specs)) != len(specs):
        raise InputError(f"systems are named twice: {', '.join(specs)}")
    tables = [spec for spec in specs if holds_embeddings(spec)]
    for option, value in (("weights", how.weights), ("baseline", baseline)):
        if value is not None and len(tables) == len(specs):
            raise InputError(f"{option} does not go with a file of embeddings ({specs[0]}); leave it out")
    at_depth = "" if depth is None else f" (depth {depth})"
    names = tuple(f"{name}{at_depth}" for name in short_names(specs))
    opened = {name: _open(spec, how) for name, spec in zip(names, specs, strict=True)}
    if len(specs) == 1 and not tables:  # beside its own backbone, a single model needs no name of its own
        single = opened.pop(names[0])
        names = (("matryoshka" if _own_dims(single) else "backbone") + at_depth,)
        opened[names[0]] = single
    common = sorted({dim for model in opened.values() for dim in _own_dims(model)})
    wanted = tuple(dims) if dims is not None else tuple(common) or None
    widths = {name: _width(model) for name, model in opened.items()}
    if wanted is not None:
        check_dims(wanted, max(widths.values()))
    systems: list[System] = []
    for name, spec in zip(names, specs, strict=True):
        model, chosen = opened[name], _dims_of(opened[name], wanted if dims is not None or len(specs) > 1 else None)
        if isinstance(model, EmbeddingTable):
            systems.append(TableSystem(name, spec, model, chosen, embeddings_sha256(spec)))
        else:
            systems.append(NetworkSystem(name, spec, model, chosen, model.model_hash))
    if baseline is not None:
        other = open_embedder(baseline, device=how.device)
        below = _with_whole(wanted if wanted is not None else default_dims(other.embed_dim), other.embed_dim)
        systems.append(NetworkSystem(BASELINE, baseline, other, below, other.model_hash))
        return Lineup(tuple(systems), (BASELINE, other.embed_dim))
    if how.own_backbone:
        systems = _with_own_backbones(systems)
    return Lineup(tuple(systems), _reference(systems))


def short_names(specs: Sequence[str]) -> tuple[str, ...]:
    """Return a short name for each system: the last part of its path without suffix, and more of it only where two are alike."""
    candidates = [_candidates(spec) for spec in specs]
    level = [0] * len(specs)
    while True:
        names = [candidates[place][min(level[place], len(candidates[place]) - 1)] for place in range(len(specs))]
        alike = [place for place, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return tuple(names)
        for place in alike:
            level[place] += 1


def _candidates(spec: str) -> list[str]:
    """Return names of a system from the shortest to the whole of what the user wrote, which is unique."""
    path = Path(spec)
    parts = [part for part in path.parts if part not in (path.anchor, ".", "..")] or [spec]
    known = path.suffix.lower() in (*CHECKPOINT_SUFFIXES, *READABLE_SUFFIXES)
    short = [parts[-1].removesuffix(path.suffix)] if known else []
    return [*short, *("/".join(parts[-count:]) for count in range(1, len(parts) + 1)), spec]


def _open(spec: str, how: SystemSettings) -> Embedder | EmbeddingTable:
    path = Path(spec)
    if not holds_embeddings(path):
        return open_embedder(spec, weights=how.weights, device=how.device, depth=how.depth)
    if how.depth is not None:
        raise InputError(f"depth does not go with a file of embeddings ({spec}); make it with mrl embed --depth {how.depth}")
    return load_embeddings(path)


def _width(model: Embedder | EmbeddingTable) -> int:
    return int(model.matrix.shape[1]) if isinstance(model, EmbeddingTable) else model.embed_dim


def _own_dims(model: Embedder | EmbeddingTable) -> tuple[int, ...]:
    return () if isinstance(model, EmbeddingTable) else model.mrl_dims


def _dims_of(model: Embedder | EmbeddingTable, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    width = _width(model)
    if wanted is None:
        return _own_dims(model) or default_dims(width)
    return check_dims(wanted, width) if max(wanted) <= width else _with_whole(wanted, width)


def _with_whole(dims: Sequence[int], width: int) -> tuple[int, ...]:
    return (*sorted({dim for dim in dims if dim < width}), width)


def _with_own_backbones(systems: Sequence[System]) -> list[System]:
    """Let the first model of each different backbone be measured together with it."""
    known = {system.sha256 for system in systems if isinstance(system, NetworkSystem) and not system.model.mrl_dims}
    inside: dict[int, Embedder] = {}
    for place, system in enumerate(systems):
        backbone = system.model.backbone if isinstance(system, NetworkSystem) else None
        if backbone is not None and backbone.model_hash not in known:
            known.add(backbone.model_hash)
            inside[place] = backbone
    networks = [system for place, system in enumerate(systems) if isinstance(system, NetworkSystem) and place in inside]
    kinds = [system.model.backbone_is_unmodified for system in networks]
    result = list(systems)
    for (place, backbone), system, unmodified in zip(inside.items(), networks, kinds, strict=True):
        name = UNMODIFIED_BACKBONE if unmodified else TRAINED_BACKBONE
        if kinds.count(unmodified) > 1:
            name = f"{name} of {system.name}"
        result[place] = replace(system, own_name=name, own_dims=_with_whole(system.dims, backbone.embed_dim))
    return result


def _reference(systems: Sequence[System]) -> tuple[str, int] | None:
    networks = [system for system in systems if isinstance(system, NetworkSystem)]
    plain = [(system.name, max(system.dims)) for system in networks if not system.model.mrl_dims]
    own = {True: [], False: []}  # type: dict[bool, list[tuple[str, int]]]
    for system in networks:
        if system.own_name is not None:
            own[system.model.backbone_is_unmodified].append((system.own_name, max(system.own_dims)))
    several = len(systems) + len(own[True]) + len(own[False]) > 1
    candidates = [*plain, *own[True], *own[False], (systems[0].name, max(systems[0].dims))]
    return candidates[0] if several else None
