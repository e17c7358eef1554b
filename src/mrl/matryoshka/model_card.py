"""The model card: what a stranger who finds the folder must know, generated from facts that are in ``config.json``."""

from __future__ import annotations

from typing import Any

from mrl.matryoshka.release_card import release_sections
from mrl.pretrained import Release


def model_card(config: dict[str, Any]) -> str:
    """Return the text of ``README.md`` for a model folder."""
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
        "---",
        "# Matryoshka speaker embeddings (ReDimNet)" if release is None else f"# {release.name}",
        "",
        *([] if release is None else [f"**{release.notice}**", ""]),
        f"Waveform in ({config['sample_rate']} Hz, mono), {config['embed_dim']} numbers out; "
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


def _backbone_weights(config: dict[str, Any]) -> str:
    cut = config.get("cut")
    if cut:
        return f"the first {cut['depth']} of {cut['stages']} stages, left by an early exit"
    return "unmodified" if config["backbone_is_unmodified"] else "fine-tuned"
