"""From YAML files and command-line overrides to one checked configuration.

Later files win over earlier ones key by key, overrides win over files. Relative paths in a file start from that file's folder,
relative paths in an override from the working directory.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mrl.bounded import LIMITS, brief, parse_yaml, read_text
from mrl.data.manifest import MANIFEST_SUFFIXES
from mrl.errors import ConfigError
from mrl.files import write_text
from mrl.training.config import TrainConfig

_COMMAND_LINE = "command line"
PATH_KEYS = (
    "data.train.folder",
    "data.train.manifest",
    "data.train.root",
    "data.train.exclude",
    "data.train.shards",
    "data.validation.trials",
    "data.validation.root",
    "data.validation.folder",
    "data.augmentation.noise_folders",
    "data.augmentation.rir_folders",
    "training.output_dir",
    "advanced.weights",
    "advanced.cache_dir",
    "distillation.teacher",
    "distillation.root",
)
_PATHS_OR_NAMES = ("distillation.teacher",)  # a name of a model has neither a folder nor a suffix
WHOLE_MAPPINGS = ("data.train.where", "data.corpus_shares")
"""Settings that are mappings of the user's own: a later file replaces them, and no key of theirs is known beforehand."""

# Setting one of these in a later file or override takes back the others of its group from earlier ones.
_ALTERNATIVES = (
    (("data", "train"), ("folder", "manifest", "shards"), ("root", "where")),
    (("data", "validation"), ("folder", "trials"), ("root",)),
)


def load_config(paths: Sequence[str | os.PathLike[str]], overrides: Sequence[str] = ()) -> TrainConfig:
    """Read one or more YAML files and apply overrides such as ``training.batch_size=32``.

    Args:
        paths: files, later ones win.
        overrides: ``section.key=value``, the value written as in YAML.

    Raises:
        ConfigError: a file is missing or not YAML, a key is unknown (the nearest known one is named), or a value is unusable.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for path in paths:
        source = Path(path)
        _apply(merged, origin, _read_yaml(source), str(source), source.parent)
    for override in overrides:
        _apply(merged, origin, _read_override(override), _COMMAND_LINE, Path())
    try:
        return with_absolute_paths(TrainConfig.model_validate(merged))
    except ValidationError as error:
        raise ConfigError(_describe(error, origin)) from None


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return the same configuration with relative paths (also default ones) taken from the working directory."""
    everything = config.to_dict()
    tree = config.model_dump(mode="json", exclude_unset=True)  # what was not given stays distinct from what was
    for key in PATH_KEYS:
        *sections, name = key.split(".")
        _resolve_paths(everything, [*sections, name], Path())
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = _at(everything, sections).get(name)
    return TrainConfig.model_validate(tree)


def save_config(config: TrainConfig, path: str | os.PathLike[str]) -> None:
    """Write all settings, defaults included, as YAML that :func:`load_config` reads back to the same.

    Names of a checkpoint that were not given are left out beside a file of weights, which names its own.
    """
    tree = config.to_dict()
    if config.advanced.weights is not None:
        for name in {"model_name", "train_type", "pretrained_dataset"} - config.advanced.model_fields_set:
            del tree["advanced"][name]
    write_text(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))


def _apply(merged: dict[str, Any], origin: dict[str, str], source: dict[str, Any], name: str, folder: Path) -> None:
    _rename_old_spellings(source, name)
    _refuse_unknown(TrainConfig, source, (), name)
    for key in PATH_KEYS:
        _resolve_paths(source, key.split("."), folder)
    for place, alternatives, companions in _ALTERNATIVES:
        given = _at(source, place)
        kept = _at(merged, place)
        if any(given.get(key) is not None for key in alternatives):
            for key in (*alternatives, *companions):
                kept.pop(key, None)
    _merge(merged, source, (), origin, name)


def _at(tree: Mapping[str, Any], place: Sequence[str]) -> dict[str, Any]:
    node: Any = tree
    for key in place:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, error=ConfigError, max_bytes=LIMITS.settings_bytes)
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    tree = parse_yaml(text, str(path), _Loader, error=ConfigError)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, expected sections ({', '.join(TrainConfig.model_fields)})")
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_override(override: str) -> dict[str, Any]:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"override {brief(override)} is not of the form section.key=value, such as training.batch_size=32")
    value = parse_yaml(text, f"the value of override {brief(override)}", _Loader, error=ConfigError)
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _rename_old_spellings(source: dict[str, Any], name: str) -> None:
    """``data.train_dataset`` and ``data.val_dataset`` are one path each: a folder or a list."""
    data = source.get("data")
    if not isinstance(data, dict):
        return
    for old, new in (("train_dataset", "train"), ("val_dataset", "validation")):
        if old not in data:
            continue
        path = data.pop(old)
        if not isinstance(path, str):
            raise ConfigError(f"{name}: data.{old} must be a path (found {path!r}); for more settings use data.{new}")
        if new in data:
            raise ConfigError(f"{name}: give data.{new} or the older data.{old}, not both")
        if new == "train":
            data[new] = {"manifest" if path.lower().endswith(MANIFEST_SUFFIXES) else "folder": path}
        else:
            data[new] = {"trials" if path.lower().endswith((".txt", ".txt.gz", ".lst", ".trials")) else "folder": path}


def _refuse_unknown(model: type[BaseModel], source: Mapping[Any, Any], place: tuple[str, ...], name: str) -> None:
    for key, value in source.items():
        dotted = ".".join((*place, str(key)))
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            raise ConfigError(f"{name}: unknown key {dotted}{_nearest(str(key), model, place)}")
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if value is None:
                raise ConfigError(f"{name}: {dotted} is empty; give it keys ({', '.join(inner.model_fields)}) or leave it out")
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{name}: {dotted} is {brief(value)}, expected keys such as {', '.join(list(inner.model_fields)[:4])}"
                )
            _refuse_unknown(inner, value, (*place, str(key)), name)


def _nearest(key: str, model: type[BaseModel], place: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, list(model.model_fields), n=1)
    if near:
        return f"; did you mean {'.'.join((*place, near[0]))}?"
    elsewhere = _all_keys(TrainConfig)
    same = [dotted for dotted in elsewhere if dotted.rsplit(".", 1)[-1] == key]
    near_elsewhere = same or difflib.get_close_matches(".".join((*place, key)), elsewhere, n=1)
    if near_elsewhere:
        return f"; did you mean {near_elsewhere[0]}?"
    return f"; known here: {', '.join(model.model_fields)}"


def _all_keys(model: type[BaseModel], place: tuple[str, ...] = ()) -> list[str]:
    keys: list[str] = []
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys.extend(_all_keys(inner, (*place, key)))
        else:
            keys.append(".".join((*place, key)))
    return keys


def _resolve_paths(tree: Any, keys: Sequence[str], folder: Path) -> None:
    for key in keys[:-1]:
        tree = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or keys[-1] not in tree:
        return
    value = tree[keys[-1]]
    if isinstance(value, str) and ".".join(keys) in _PATHS_OR_NAMES and not ({"/", os.sep} & {*value} or Path(value).suffix):
        return
    if isinstance(value, str):
        tree[keys[-1]] = _resolved(value, folder)
    elif isinstance(value, list):
        tree[keys[-1]] = [_resolved(each, folder) if isinstance(each, str) else each for each in value]


def _resolved(text: str, folder: Path) -> str:
    if "://" in text:
        return text
    return os.path.normpath(Path.cwd() / folder / Path(text).expanduser())


def _merge(into: dict[str, Any], source: Mapping[str, Any], place: tuple[str, ...], origin: dict[str, str], name: str) -> None:
    for key, value in source.items():
        inner = (*place, key)
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and ".".join(inner) not in WHOLE_MAPPINGS:
            _merge(into[key], value, inner, origin, name)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value, inner, origin, name)
            origin[".".join(inner)] = name
        else:
            into[key] = value
            origin[".".join(inner)] = name


def _describe(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        names = [str(part) for part in problem["loc"]]
        file = next((origin[".".join(names[:end])] for end in range(len(names), 0, -1) if ".".join(names[:end]) in origin), None)
        message = problem["msg"].removeprefix("Value error, ")
        where = ".".join(_without_union_members(names))
        given = f" (found {brief(problem['input'])})" if problem["type"] != "value_error" else ""
        lines.append(f"{file + ': ' if file else ''}{where + ': ' if where else ''}{message}{given}")
    return "; ".join(lines)


def _without_union_members(names: Sequence[str]) -> list[str]:
    """Pydantic names the tried member of a union behind the key; a reader wants the key alone."""
    known = set(_all_keys(TrainConfig))
    for end in range(len(names), 0, -1):
        if ".".join(names[:end]) in known:
            return list(names[:end]) + [name for name in names[end:] if name.isdigit()]
    return list(names)
