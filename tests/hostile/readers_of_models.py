"""Hostile networks: checkpoints, model folders, exported files, and what is read beside them."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile import corpus
from tests.hostile.mutations import damaged_bytes, damaged_tree
from tests.hostile.readers import Action, Maker, files, reader, trees


@reader("checkpoints", "pretrained.checkpoint:_unpickle", "pretrained.checkpoint:_verify_archive", weight=0.1)
def _checkpoints(folder: Path) -> Maker:
    """Half of them archives with damaged bytes, half whole ones with something else in them than an official checkpoint has."""
    from mrl.pretrained import load_pretrained_redimnet

    good = corpus.checkpoint_bytes()
    config, state = corpus.network().to_official()
    file = folder / "case.pt"

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.5:
            file.write_bytes(damaged_bytes(rng, [good]))
        else:
            contents: Any = {"model_config": config, "state_dict": dict(state)}
            if rng.random() < 0.5:
                contents["model_config"] = damaged_tree(rng, config)
            if rng.random() < 0.6:
                name = rng.choice(list(state))
                tensor = corpus.hostile_tensor(rng, state[name])
                contents["state_dict"][name] = tensor
            try:
                with file.open("wb") as stream:
                    torch.save(contents, stream, _use_new_zipfile_serialization=rng.random() < 0.9)
            except (RuntimeError, ValueError, OverflowError, pickle.PicklingError, AttributeError, NotImplementedError):
                file.write_bytes(damaged_bytes(rng, [good]))
        return lambda: load_pretrained_redimnet(weights=file, progress=False)

    return make


@reader("model folders", "matryoshka.saving:read_model_config", "matryoshka.saving:read_model_folder", weight=0.3)
def _model_folders(folder: Path) -> Maker:
    """The description with wrong values, or the weights with damaged bytes and a hash that fits them."""
    from mrl.files import sha256_of
    from mrl.matryoshka import ReDimNetMRL

    place = corpus.write_model(folder / "model")
    weights, config = (place / "model.safetensors").read_bytes(), (place / "config.json").read_bytes()
    tree = json.loads(config)

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.4:
            data = damaged_bytes(rng, [weights])
            (place / "model.safetensors").write_bytes(data)
            fitting = {**tree, "weights_sha256": sha256_of(place / "model.safetensors")}
            (place / "config.json").write_text(json.dumps(fitting))
        else:
            (place / "model.safetensors").write_bytes(weights)
            data = json.dumps(damaged_tree(rng, tree)).encode("utf-8", "surrogatepass")
            (place / "config.json").write_bytes(data if rng.random() < 0.8 else damaged_bytes(rng, [config]))
        return lambda: ReDimNetMRL.from_pretrained(place)

    return make


@reader("calibrations", "embeddings.calibrated:_checked", "scoring.calibration:Calibration.from_dict")
def _calibrations(folder: Path) -> Maker:
    from mrl.embeddings.calibrated import load_calibration

    place = corpus.write_model(folder / "model")

    def read() -> None:
        found = load_calibration(place)
        if found is not None:
            for dim in found.dims:
                found.log_likelihood_ratios(dim, [0.5], [2.0], [3.0])
                found.threshold(dim)

    return trees(place / "calibration.json", json.loads((place / "calibration.json").read_text()), read)


@reader("ONNX files", "runtime.session:open_session", weight=0.1)
def _onnx(folder: Path) -> Maker:
    """The golden file with damaged bytes, and its description with wrong values."""
    import onnx

    from mrl.runtime import OnnxEmbedder
    from tests.runtime.golden.record import EXPORTED

    good = EXPORTED.read_bytes()
    model = onnx.load(str(EXPORTED))
    described = {one.key: one.value for one in model.metadata_props}
    file = folder / "case.onnx"
    sound = np.random.default_rng(1).standard_normal(1600).astype(np.float32) * np.float32(0.1)

    def read() -> None:
        OnnxEmbedder(file, threads=1)(sound)

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.5:
            file.write_bytes(damaged_bytes(rng, [good]))
        else:
            del model.metadata_props[:]
            texts = damaged_tree(rng, described)
            for key, value in texts.items() if isinstance(texts, dict) else ():
                text = value if isinstance(value, str) else json.dumps(value)
                model.metadata_props.add(key=str(key), value=text.encode("utf-8", "replace").decode())
            file.write_bytes(model.SerializeToString())
        return read

    return make


@reader(
    "descriptions of exported files",
    "runtime.description:Description.from_properties",
    "runtime.description:Description.from_dict",
)
def _descriptions(folder: Path) -> Maker:
    import onnx

    from mrl.runtime import Description
    from tests.runtime.golden.record import EXPORTED

    described = {one.key: one.value for one in onnx.load(str(EXPORTED)).metadata_props}
    values = {}
    for key, text in described.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text  # a word

    def make(rng: random.Random) -> Action:
        tree = damaged_tree(rng, values)
        if rng.random() < 0.5:
            return lambda: Description.from_dict(tree, "case.onnx").to_dict()
        texts = tree if isinstance(tree, dict) else {}
        texts = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in texts.items()}
        return lambda: Description.from_properties(texts, "case.onnx").to_dict()

    return make


@reader("heads", "embeddings.head:load_head")
def _heads(folder: Path) -> Maker:
    from mrl.embeddings import EmbeddingTable, fit_head, load_head, project_embeddings, save_head

    table = EmbeddingTable(tuple("abcdefgh"), torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).numpy(), {})
    save_head(fit_head(table, None, dims=(2, 4)), folder / "good.safetensors")

    def read(file: Path) -> None:
        project_embeddings(load_head(file), table)

    return files(folder, {"safetensors": (folder / "good.safetensors").read_bytes()}, read)


@reader(
    "exported files and what lies beside them",
    "deployment.checks:_read_card",
    "deployment.checks:_read_pairs",
    "deployment.formats:_parsed",
    weight=0.05,
)
def _exports(folder: Path) -> Maker:
    from mrl.deployment import check_export
    from tests.runtime.golden.record import EXPORTED

    for file in EXPORTED.parent.glob("tiny.onnx*"):
        shutil.copyfile(file, folder / file.name)
    names = ["tiny.onnx.json", "tiny.onnx.check.safetensors"]
    good = {name: (folder / name).read_bytes() for name in names}

    def make(rng: random.Random) -> Action:
        for name, data in good.items():
            (folder / name).write_bytes(data)
        name = rng.choice(names)
        (folder / name).write_bytes(damaged_bytes(rng, [good[name]]))
        return lambda: check_export(folder / "tiny.onnx")

    return make


@reader(
    "files of other runtimes",
    "deployment.formats:_OpenVinoRunner.__init__",
    "deployment.formats:_ProgramRunner.__init__",
    "deployment.formats:_is_program",
    weight=0.005,
)
def _other_runtimes(folder: Path) -> Maker:
    from mrl.deployment import open_runner

    program = folder / "good.pt2"
    torch.export.save(torch.export.export(torch.nn.Identity(), (torch.zeros(1),)), program)
    seeds = {
        "xml": b"<?xml version='1.0'?><net name='a' version='11'><layers/><edges/></net>",
        "pt2": program.read_bytes(),
        "state.pt2": corpus.checkpoint_bytes(),
        "onnx.xml": b"\x08\x07\x12\x07pytorch",
    }
    return files(folder, seeds, open_runner, fixed=("onnx.xml",))
