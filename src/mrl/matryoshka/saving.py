"""Model folders: ``model.safetensors`` + ``config.json`` + a model card. No pickle anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mrl.bounded import brief, read_json_object, read_safetensors
from mrl.errors import CheckpointError
from mrl.files import sha256_of, write_json, write_safetensors, write_text
from mrl.pretrained import Release, ReleaseRate, ReleaseResult, bundled_names
from mrl.version import __version__

# Weights in 16 bits for files that should be small; computing with them stays in 32 bits.


_LARGEST_ERROR = 2.0**-10
"""Relative to a tensor's norm. Rounding values in float16's range to its 11 bits costs at most half of that."""


def in_half_precision(tensors: Mapping[str, Tensor], buffers: Collection[str]) -> dict[str, Tensor]:
    """Return float32 tensors in float16, except those that would lose by it.

    Left as they are: ``buffers`` (running means and variances, filter banks: small, and a running variance may be of any size),
    tensors with values beyond float16's largest (65,504), and tensors whose values are so small that float16 keeps few bits
    of them.

    Args:
        tensors: a model's state.
        buffers: the names in it that are no weights.
    """
    return {name: tensor if name in buffers else _halved(tensor) for name, tensor in tensors.items()}


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.detach().half()
    error = torch.linalg.vector_norm(half.double() - tensor.detach().double())
    # Written so that infinities, which make the error infinite or NaN, fail it.
    fits = bool(error <= _LARGEST_ERROR * torch.linalg.vector_norm(tensor.detach().double()))
    return half if fits else tensor


# The part of a model card that says what its makers state: use, limits, data, error rates, how it was made.


def release_sections(release: Release) -> list[str]:
    """Return the lines of these sections, as Markdown."""
    lines = ["", "## For what, and for what not", ""]
    lines += [f"- {sentence}" for sentence in (*release.intended_use, *release.limits)]
    lines += ["", "## Error rates", ""]
    lines.append(
        "Equal error rates in %, cosine scores of whole recordings, with 95 % intervals that resample speakers. "
        "No speaker of these lists was trained on. They are not comparable with figures on other lists."
    )
    for result in release.results:
        lines += ["", *_table(result)]
    lines += ["", "## Data", "", "| recordings | for | speakers | utterances | hours | licence | source |", "|---" * 7 + "|"]
    lines += [
        f"| {corpus.name} | {corpus.purpose} | {'–' if corpus.speakers is None else corpus.speakers} | {corpus.utterances:,} "
        f"| {corpus.hours:.1f} | {corpus.licence} | {corpus.source} |"
        for corpus in release.corpora
    ]
    lines += ["", "## How it was made", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in release.making.items()]
    return lines


def _table(result: ReleaseResult) -> list[str]:
    note = f"; {result.note}" if result.note else ""
    lines = [f"**{result.trial_list}** ({result.trials:,} trials of {result.speakers} speakers{note})", ""]
    rows = [*result.model, *result.baseline]
    dims = sorted({rate.dim for rate in rows})
    lines += ["| dimensions | " + " | ".join(map(str, dims)) + " |", "|---" * (len(dims) + 1) + "|"]
    for system in dict.fromkeys(rate.system for rate in rows):
        cells = {rate.dim: _cell(rate) for rate in rows if rate.system == system}
        lines.append(f"| {system} | " + " | ".join(cells.get(dim, "–") for dim in dims) + " |")
    return lines


def _cell(rate: ReleaseRate) -> str:
    return f"{100 * rate.equal_error_rate:.2f} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


# The model card: what a stranger who finds the folder must know, generated from facts that are in ``config.json``.


def model_card(config: dict[str, Any], results: Sequence[ReleaseResult] = ()) -> str:
    """Return the text of ``README.md`` for a model folder.

    Args:
        config: of ``config.json``.
        results: measured besides those that the configuration states; they go into the card's machine-readable part.
    """
    dims = ", ".join(str(dim) for dim in config["mrl_dims"])
    source = config["pretrained_source"] or {}
    licence = source.get("licence") or "not stated"
    release = Release.from_dict(config["release"]) if config.get("release") else None
    changed = bool(config.get("exits") or config.get("cut"))  # then the name would load another model
    lines = [
        "---",
        "library_name: redimnet-mrl",
        "tags: [speaker-verification, speaker-recognition, matryoshka]",
        *([] if release is None else [f"license: {release.licence.lower()}"]),
        *_model_index("redimnet-mrl" if release is None else release.name, [*(release.results if release else ()), *results]),
        "---",
        "# Matryoshka speaker embeddings (ReDimNet)" if release is None else f"# {release.name}",
        "",
        *([] if release is None else [f"**{release.notice}**", ""]),
        f"Waveform in ({config['sample_rate']} Hz, mono), {config['embed_dim']} dimensions out; "
        "every prefix is an embedding of its own. "
        f"Trained or reported lengths: {dims}.",
        "",
        "```python",
        "from mrl import ReDimNetMRL",
        "",
        f'model = ReDimNetMRL.from_pretrained("{"THIS_FOLDER" if changed or release is None else release.name}")',
        'score = model("a.wav", target_dim=64) @ model("b.wav", target_dim=64)  # cosine, from -1 to 1',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| backbone weights | {_backbone_weights(config)} |",
        *(f"| {key.replace('_', ' ')} | {value} |" for key, value in source.items() if value is not None and key != "licence"),
        f"| licence of the pretrained weights | {licence} |" if release is None else f"| licence | {release.licence} |",
        *([] if release is None else [f"| parameters | {release.num_parameters:,} |"]),
        f"| SHA-256 of the weights | `{config['weights_sha256']}` |",
        f"| written by | redimnet-mrl {config['version']} |",
        "",
        "A short prefix saves storage and search time; the encoder runs in full for every length. "
        "A score is not a probability: choose a threshold on recordings like yours, one for each length.",
    ]
    if config["training"]:
        lines += [
            "",
            "## Training",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in config["training"].items()),
        ]
    if release is not None:
        lines += release_sections(release)
    return "\n".join(lines) + "\n"


def _model_index(name: str, results: Sequence[ReleaseResult]) -> list[str]:
    """Return the results in the form that the Hugging Face Hub reads, as lines of YAML: an error rate in % for every dim."""
    if not results:
        return []
    listed = [
        {
            "task": {"type": "speaker-verification", "name": "Speaker verification"},
            "dataset": {"type": result.trial_list, "name": result.trial_list},
            "metrics": [
                {
                    "type": "eer",
                    "name": f"Equal error rate in % with {rate.dim} dimensions",
                    "value": round(100 * rate.equal_error_rate, 3),
                    "args": {"dim": rate.dim, "low": round(100 * rate.low, 3), "high": round(100 * rate.high, 3)},
                }
                for rate in result.model
            ],
        }
        for result in results
    ]
    text = yaml.safe_dump({"model-index": [{"name": name, "results": listed}]}, sort_keys=False, allow_unicode=True)
    return text.splitlines()


def _backbone_weights(config: dict[str, Any]) -> str:
    cut = config.get("cut")
    if cut:
        return f"the first {cut['depth']} of {cut['stages']} stages, left by an early exit"
    return "unmodified" if config["backbone_is_unmodified"] else "fine-tuned"


FORMAT = "redimnet-mrl/1"


WEIGHTS = "model.safetensors"


CONFIG = "config.json"


CARD = "README.md"


def write_model_folder(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights, model card and ``config.json``, each atomically.

    The configuration is the description with format, version and the hash of the weights. It goes last, so a half-written pair is
    noticed.

    Args:
        folder: made if absent.
        tensors: the model's state.
        description: what :func:`read_model_folder` needs to give back, as JSON-able values.
    """
    target = Path(folder)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_safetensors(target / WEIGHTS, contiguous, {"format": FORMAT})
    config = {
        "format": FORMAT,
        "version": __version__,
        **description,
        "pretrained_source": _shareable(description["pretrained_source"]),
        "weights_sha256": sha256_of(target / WEIGHTS),
    }
    write_text(target / CARD, model_card(config))
    write_json(target / CONFIG, config)


def read_model_folder(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read ``config.json`` and the weights that it describes.

    Raises:
        CheckpointError: the folder or a file in it is absent, damaged or of another kind, or the two do not belong together.
    """
    source = Path(folder)
    config = read_model_config(source)
    weights = source / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{source} has no {WEIGHTS}; copy the whole model folder again")
    if sha256_of(weights) != config["weights_sha256"]:
        raise CheckpointError(
            f"{weights} is not the file that {CONFIG} beside it describes (SHA-256 differs); copy the whole folder again"
        )
    tensors: dict[str, Tensor] = read_safetensors(weights, framework="torch", error=CheckpointError, advice=_ADVICE).tensors
    for name, tensor in tensors.items():
        if tensor.is_floating_point() == name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{weights}: {brief(name)} holds {tensor.dtype}, another data type than belongs there; {_ADVICE}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{weights}: {brief(name)} holds NaN or infinity; {_ADVICE}")
    return config, tensors


def _shareable(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep the file's name, not where it lay on the machine that saved the model."""
    return {**source, "file": Path(source["file"]).name} if source and source.get("file") else source


def read_model_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``config.json`` of a model folder.

    Raises:
        CheckpointError: absent, not JSON, of another format or lacking a key.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        bundled = f" and no model of the package ({', '.join(bundled_names()) or 'there is none'})"
        what = f"is not a folder{bundled}" if not Path(folder).is_dir() else f"has no {CONFIG}"
        raise CheckpointError(f"{folder} {what}; expected a model folder as save_pretrained writes it ({CONFIG} and {WEIGHTS})")
    config = read_json_object(path, error=CheckpointError, advice=_ADVICE)
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{path} has the format {brief(config.get('format'))}; this version reads {FORMAT!r}")
    needed = ("embed_dim", "mrl_dims", "backbone_is_unmodified", "pretrained_source", "model_config", "weights_sha256")
    missing = [key for key in needed if key not in config]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; copy the model folder again")
    for key, (fits, expected) in _KINDS.items():
        if key in config and not fits(config[key]):
            raise CheckpointError(f"{path}: {key} is {brief(config[key])}, expected {expected}; {_ADVICE}")
    return config


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


_ADVICE = "copy the whole model folder again"
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "embed_dim": (_is_count, "a whole number above 0"),
    "mrl_dims": (lambda value: isinstance(value, list) and all(map(_is_count, value)), "whole numbers above 0"),
    "exits": (lambda value: isinstance(value, list) and all(map(_is_count, value)), "whole numbers above 0"),
    "sample_rate": (_is_count, "a whole number of Hz"),
    "backbone_is_unmodified": (lambda value: isinstance(value, bool), "true or false"),
    "model_config": (lambda value: isinstance(value, dict), "an object"),
    "weights_sha256": (lambda value: isinstance(value, str), "a text"),
    "training": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "release": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "pretrained_source": (
        lambda value: (
            value is None or (isinstance(value, dict) and all(each is None or isinstance(each, str) for each in value.values()))
        ),
        "texts by name, or null",
    ),
}
"""What a value in ``config.json`` must be, where it is there."""
