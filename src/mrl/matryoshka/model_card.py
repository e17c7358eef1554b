"""The model card: what a stranger who finds the folder must know, generated from facts that are in ``config.json``."""

from __future__ import annotations

from typing import Any


def model_card(config: dict[str, Any]) -> str:
    """Return the text of ``README.md`` for a model folder."""
    dims = ", ".join(str(dim) for dim in config["mrl_dims"])
    source = config["pretrained_source"] or {}
    licence = source.get("licence") or "not stated"
    lines = [
        "---",
        "library_name: redimnet-mrl",
        "tags: [speaker-verification, speaker-recognition, matryoshka]",
        "---",
        "# Matryoshka speaker embeddings (ReDimNet)",
        "",
        f"Waveform in ({config['sample_rate']} Hz, mono), {config['embed_dim']} numbers out; "
        "every prefix is an embedding of its own. "
        f"Trained or reported lengths: {dims}.",
        "",
        "```python",
        "from mrl import ReDimNetMRL",
        "",
        'model = ReDimNetMRL.from_pretrained("THIS_FOLDER")',
        'score = model("a.wav", target_dim=64) @ model("b.wav", target_dim=64)  # cosine, from -1 to 1',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| backbone weights | {'unmodified' if config['backbone_is_unmodified'] else 'fine-tuned'} |",
        *(f"| {key.replace('_', ' ')} | {value} |" for key, value in source.items() if value is not None and key != "licence"),
        f"| licence of the pretrained weights | {licence} |",
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
    return "\n".join(lines) + "\n"
