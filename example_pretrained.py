"""A walk through the package: load a released ReDimNet, make a Matryoshka model of it, embed and compare two recordings.

    python example_pretrained.py                                     downloads b2 (20 MB) once
    python example_pretrained.py --weights b2-vox2-ft_lm.pt          works offline
    python example_pretrained.py --model mrl-b0-demo                 works offline with the small model of the package
    python example_pretrained.py --audio first.wav second.wav        your own recordings instead of synthetic voices

Explanations and figures are in docs/reference/pretrained-models.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mrl import (
    ReDimNetMRL,
    bundled_models,
    create_mrl_from_pretrained,
    get_model_info,
    load_audio,
    load_pretrained_redimnet,
)
from mrl.audio import SAMPLE_RATE, write_synthetic_corpus
from mrl.embeddings import cosine_similarity
from mrl.errors import InputError, MRLError
from mrl.pretrained import find_by_name


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load a released ReDimNet, make it a Matryoshka model, compare two recordings.")
    parser.add_argument("--model-name", help="released network: b0 to b6, S, M, or redimnet2-b0 to -b6 (default: b2)")
    parser.add_argument("--train-type", help="ptn, ft_lm, ft_mix or lm (default: the fine-tuned one)")
    parser.add_argument("--dataset", help="vox2, vb2 or vb2+vox2+cnc (default: that of the fine-tuned one)")
    parser.add_argument("--weights", help="checkpoint file, its address, or a folder of released files, instead of a download")
    parser.add_argument("--model", help="a Matryoshka model that is there already, instead: mrl-b0-demo or a model folder")
    parser.add_argument("--embed-dim", type=int, help="length of the full Matryoshka embedding (default: 256)")
    parser.add_argument("--audio", nargs=2, metavar=("A", "B"), help="two recordings (default: two synthetic voices)")
    return parser.parse_args(arguments)


def walk_through(options: argparse.Namespace, first: str, second: str) -> None:
    # A file in --weights says itself what it is, and must be what is named here; a folder of released files needs the names.
    model_name = find_by_name(options.model_name).model_name if options.model_name else None
    released = (model_name, options.train_type, options.dataset)

    print("1. The released network")
    network = load_pretrained_redimnet(*released, weights=options.weights)
    info = get_model_info(network)
    source = info["pretrained_source"]
    print(f"   from {source['file']}")
    print(f"   licence of the weights: {source['licence'] or 'not known, it is a file of your own'}")
    print(f"   {info['parameters']:,} parameters, {info['embed_dim']} numbers per recording")

    recordings = listen(first, second)
    # Unequal lengths go in as a list; each result is that of the recording alone.
    with torch.inference_mode():
        raw = network(recordings)
    lengths = ", ".join(f"{length:.2f}" for length in raw.norm(dim=1).tolist())
    print(f"   raw embeddings {tuple(raw.shape)}, of lengths {lengths}, as the official network returns them")

    print("\n3. A Matryoshka model of it, before any training")
    embed_dim = 256 if options.embed_dim is None else options.embed_dim
    model = create_mrl_from_pretrained(*released, embed_dim=embed_dim, weights=options.weights)
    print(f"   {model.embed_dim} numbers, every prefix an embedding of unit length; reported: {list(model.mrl_dims)}")
    show_a_prefix(model, first)

    print("\n4. One voice or two?")
    baseline = cosine_similarity(raw[0], raw[1])
    verify(model, recordings)
    print(f"   the released network itself, {network.embed_dim} numbers: {baseline:+.4f}")
    if model.embed_dim >= network.embed_dim:
        print(f"   From {network.embed_dim} on the scores are the released network's: the head starts as a rotation of it.")
    say_what_a_score_is()


def use_a_trained_model(name_or_folder: str, first: str, second: str) -> None:
    print("1. A Matryoshka model")
    model = ReDimNetMRL.from_pretrained(name_or_folder)
    info = get_model_info(model)
    licence = (info["pretrained_source"] or {}).get("licence")
    print(f"   from {name_or_folder}; licence of the weights: {licence or 'not known, it is a model of your own'}")
    bundled = [each for each in bundled_models() if each.name == name_or_folder]
    if bundled and not Path(name_or_folder).is_dir():
        print(f"   {bundled[0].release.notice}")
    print(f"   {info['parameters']:,} parameters, {info['embed_dim']} numbers; trained for {list(model.mrl_dims)}")
    recordings = listen(first, second)
    show_a_prefix(model, first)
    print("\n3. One voice or two?")
    verify(model, recordings)
    say_what_a_score_is()


def listen(first: str, second: str) -> list[npt.NDArray[np.float32]]:
    print("\n2. Two recordings")
    recordings = [load_audio(first), load_audio(second)]
    for name, samples in zip((first, second), recordings, strict=True):
        print(f"   {'/'.join(Path(name).parts[-2:])}: {len(samples) / SAMPLE_RATE:.2f} s")
    return recordings


def show_a_prefix(model: ReDimNetMRL, recording: str) -> None:
    with torch.inference_mode():
        odd = model(recording, target_dim=min(50, model.embed_dim))
    print(f"   any other prefix may be asked for: target_dim={len(odd)} gives {tuple(odd.shape)}, length {odd.norm().item():.4f}")


def verify(model: ReDimNetMRL, recordings: list[npt.NDArray[np.float32]]) -> None:
    with torch.inference_mode():
        every_length = model(recordings, return_all_dims=True)
    print("   numbers   bytes (float32)   cosine")
    for dim, pair in every_length.items():
        print(f"   {dim:7d}   {4 * dim:15d}   {cosine_similarity(pair[0], pair[1]):+.4f}")


def say_what_a_score_is() -> None:
    print("   A cosine lies in [-1, 1]. Which value means 'same speaker' must be calibrated on recordings like yours,")
    print("   for each length: mrl evaluate MODEL --trials LIST --root FOLDER shows the error rates.")


def run(options: argparse.Namespace, first: str, second: str) -> None:
    if options.model is not None:
        use_a_trained_model(options.model, first, second)
    else:
        walk_through(options, first, second)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        others = [options.model_name, options.train_type, options.dataset, options.weights, options.embed_dim]
        if options.model is not None and any(option is not None for option in others):
            raise InputError("--model is complete in itself: of the other options only --audio goes with it")
        if options.audio:
            run(options, *options.audio)
        else:
            with tempfile.TemporaryDirectory() as folder:
                print("No --audio given: two synthetic voices, which show how it works, not how well.\n")
                voices = write_synthetic_corpus(folder, num_speakers=2, utterances_per_speaker=1, seed=0)
                run(options, *map(str, voices))
    except (MRLError, OSError) as error:
        print(f"example_pretrained.py: error: {error}", file=sys.stderr)
        return 2
    print("\nNext: train the prefixes on your own recordings, python train.py --config config.yaml (docs/how-to/train.md)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
