"""Options that several verbs share, in bundles: each fills one object, which the command is given whole."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click
from click.shell_completion import CompletionItem

from mrl.dims import DEFAULT_MODEL

if TYPE_CHECKING:
    from mrl.embeddings import Embedder

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """Which model to open, and where it goes."""

    spec: str
    weights: str | None = None
    depth: int | None = None
    device: str = "cpu"

    def open(self) -> Embedder:
        """Open it; see :func:`mrl.embeddings.open_embedder`."""
        from mrl.embeddings import open_embedder

        return open_embedder(self.spec, weights=self.weights, device=self.device, depth=self.depth)


class Criterion(TypedDict):
    """By what to decide; see :func:`mrl.scoring.decision_rule`."""

    threshold: float | None
    prior: float | None
    max_false_accept: float | None


class NumberList(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas, such as ``16,64,192`` or ``1.5,3``."""

    def __init__(self, kind: Callable[[str], float] = int, example: str = "whole numbers such as 16,64,192") -> None:
        self.name = "numbers"
        self._kind, self._example = kind, example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self._example}", param, ctx)


class DimList(NumberList):
    """Prefix lengths separated by commas, such as ``16,64,192``."""


class NameList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas, such as ``telephone,opus``."""

    name = "names"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(",") if part.strip())


class ColumnValue(click.ParamType):  # type: ignore[type-arg]
    """``COLUMN=VALUE``."""

    name = "column=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        column, equals, wanted = str(value).partition("=")
        if not column or not equals:
            self.fail(f"{value!r} is not of the form COLUMN=VALUE, such as part=eval", param, ctx)
        return column, wanted


def row_filter(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return for each column the values that pass: those given for the same column are alternatives."""
    wanted: dict[str, list[str]] = {}
    for column, value in pairs:
        wanted.setdefault(column, []).append(value)
    return wanted


class ModelName(click.ParamType):  # type: ignore[type-arg]
    """A model as users name it; the shell completes bundled and released names, and paths."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from mrl.pretrained import bundled_names, list_pretrained

        names = [*bundled_names(), *(name for released in list_pretrained() for name in (released.model_name, released.name))]
        fitting = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]
        return fitting or [CompletionItem(incomplete, type="file")]


model_option = click.option(
    "--model",
    type=ModelName(),
    default=DEFAULT_MODEL,
    show_default=True,
    envvar="MRL_MODEL",
    help="Model folder, .pt checkpoint, .onnx file, released name such as b2, or mrl-b0-demo (bundled) [also MRL_MODEL].",
)
weights_option = click.option(
    "--weights", help="Where to take a released checkpoint from: a file, a URL, or a folder of released files."
)
device_option = click.option("--device", default="cpu", show_default=True, help="Device to run on, such as cpu, cuda or cuda:1.")
depth_option = click.option(
    "--depth", type=int, help="Stop after this many stages; needs a model folder with early exits (mrl fit-exits)."
)
dim_option = click.option("--dim", type=int, help="Number of dimensions to compare; all by default.")
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    envvar="MRL_STORE",
    help="Voice store, a file; by default redimnet-mrl/voices.sqlite in the user's data folder [also MRL_STORE].",
)

dims_option = click.option("--dims", type=DimList(), help="Dimensions, such as 16,64,192; the model's own by default.")
bootstrap_option = click.option(
    "--bootstrap", type=int, default=1000, show_default=True, help="Number of bootstrap resamples for the intervals; 0 for none."
)
cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder that caches embeddings, to resume and to reuse them."
)

EXTRACTION_OPTIONS: dict[str, dict[str, Any]] = {
    "batch_seconds": {"type": float, "default": 60.0, "help": "Maximum audio per forward pass, in seconds."},
    "max_seconds": {"type": float, "default": None, "help": "Truncate recordings to this many seconds."},
    "window_seconds": {
        "type": float,
        "default": 20.0,
        "help": "Length of the windows of a recording of more than 1.5 times this many seconds.",
    },
    "overlap_seconds": {"type": float, "default": 0.0, "help": "Overlap of these windows, in seconds."},
    "vad": {
        "type": click.Choice(["none", "energy", "silero"]),
        "default": "energy",
        "help": "Cut gaps without speech of more than a second, by their power or by Silero VAD (extra vad).",
    },
    "minimum_speech": {"type": float, "default": 0.0, "help": "Refuse recordings with less speech than this, in seconds."},
    "num_workers": {"type": int, "default": 2, "help": "Number of decoding threads."},
}
"""One for each setting of :class:`mrl.embeddings.Extraction` that users choose, by its name there."""

LEAST_SPEECH = 0.25
"""Seconds of speech that a decision about a recording needs: with less, one in four is wrong."""

FOR_MANY = ("batch_seconds", "num_workers")
"""Settings that make no difference to single recordings."""


def extraction_options(*, without: Collection[str] = (), **defaults: Any) -> Decorator:
    """Add the options of :data:`EXTRACTION_OPTIONS`; the command gets ``how``, an :class:`mrl.embeddings.Extraction`.

    Args:
        without: settings that the command does not offer.
        defaults: other defaults than those of the class.
    """
    options = {}
    for name, about in EXTRACTION_OPTIONS.items():
        if name not in without:
            settings = {**about, "default": defaults.get(name, about["default"])}
            options[name] = click.option(f"--{name.replace('_', '-')}", show_default=True, **settings)

    def fill(values: dict[str, Any]) -> dict[str, Any]:
        from mrl.embeddings import Extraction

        return {"how": Extraction(**{name: values.pop(name) for name in options})}

    return _bundle(list(options.values()), fill)


def model_options(*, depth: bool = False) -> Decorator:
    """Add ``--model``, ``--weights``, ``--device`` and, if asked for, ``--depth``; the command gets ``model``."""

    def fill(values: dict[str, Any]) -> dict[str, Any]:
        spec, chosen = values.pop("model"), {name: values.pop(name) for name in names}
        return {"model": ModelChoice(spec, **chosen)}

    names = ["weights", "depth", "device"] if depth else ["weights", "device"]
    return _bundle([model_option, weights_option, *([depth_option] if depth else []), device_option], fill)


def decision_options() -> Decorator:
    """Add ``--threshold``, ``--prior`` and ``--max-far``; the command gets ``criterion``."""

    def fill(values: dict[str, Any]) -> dict[str, Any]:
        threshold, prior, rate = (values.pop(name) for name in ("threshold", "prior", "max_far"))
        return {"criterion": Criterion(threshold=threshold, prior=prior, max_false_accept=rate)}

    options = [
        click.option(
            "--threshold",
            type=click.FloatRange(-1.0, 1.0),
            help="Accept if the cosine is at least this, for any number of voices; ignores a calibration.",
        ),
        click.option(
            "--prior",
            type=float,
            help="Prior probability that the speaker is the same, or is enrolled; needs a calibrated model (mrl calibrate).",
        ),
        click.option(
            "--max-far",
            type=float,
            help="Decide at this probability of accepting a stranger (as any voice) instead; needs a calibrated model.",
        ),
    ]
    return _bundle(options, fill)


def _bundle(options: Sequence[Callable[[Any], Any]], fill: Callable[[dict[str, Any]], dict[str, Any]]) -> Decorator:
    """Return a decorator that adds options and hands the command what ``fill`` makes of their values, which it takes out."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def filled(*args: Any, **values: Any) -> Any:
            made = fill(values)
            return command(*args, **made, **values)

        with_options: Command = filled
        for option in reversed(options):
            with_options = option(with_options)
        return with_options

    return decorate


def _read_speakers(values: dict[str, Any]) -> dict[str, Any]:
    path = values.pop("speakers")
    if path is None:
        return {"speakers": None}
    from mrl.trials import read_speakers

    return {"speakers": read_speakers(path)}


speakers_option = _bundle(
    [
        click.option(
            "--speakers",
            type=click.Path(path_type=Path),
            help="File with lines 'utterance speaker', if paths do not name the speaker.",
        )
    ],
    _read_speakers,
)
"""The command gets ``speakers``: utterance -> speaker as the file says, None without one. It is read when the command runs."""
