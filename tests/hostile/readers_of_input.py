"""What comes from outside: recordings, requests to the server, settings."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.hostile import corpus
from tests.hostile.mutations import damaged_bytes, damaged_tree
from tests.hostile.readers import Action, Maker, files, reader


@reader("audio files", "audio.ffmpeg_decoder:_open", "audio.soundfile_decoder:_open")
def _audio(folder: Path) -> Maker:
    from mrl.audio import audio_info, load_audio

    hostile = corpus.hostile_recordings()

    def read(file: Path) -> None:
        load_audio(file, duration=2.0)
        audio_info(file)
        load_audio(file, offset=0.05, sample_rate=8000)

    return files(folder, {**corpus.recordings(), **hostile}, read, fixed=tuple(hostile))


@reader("recordings in memory", "audio.ffmpeg_decoder:_open", "audio.soundfile_decoder:_open")
def _uploads(folder: Path) -> Maker:
    from mrl.serving import Limits
    from mrl.serving.service import decode_recording

    limits = Limits(max_seconds=5.0)
    return files(
        folder,
        {**corpus.recordings(), **corpus.hostile_recordings()},
        lambda file: decode_recording(file.read_bytes(), limits),
        fixed=tuple(corpus.hostile_recordings()),
    )


@reader("configurations", "training.config_loading:_read_yaml", "training.config_loading:_read_override")
def _configurations(folder: Path) -> Maker:
    import yaml

    from mrl.training import load_config

    tree = {
        "data": {"train": {"folder": "a", "where": {"part": ["x", "y"]}}, "validation": {"folder": "b"}, "crop_seconds": 0.4},
        "model": {"embed_dim": 32, "mrl_dims": [4, 16, 32]},
        "training": {"num_epochs": 3, "batch_size": 8, "output_dir": "run", "learning_rate": 1e-3},
    }
    good = yaml.safe_dump(tree)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    texts = {
        "yaml": good.encode(),
        "bomb.yaml": bomb.encode(),
        "deep.yaml": b"[" * 3000,
        "keys.yaml": b"? [a]\n: b\n",
        "int.yaml": b"a: " + b"9" * 5000,
    }
    texts |= {
        "date.yaml": b"a: 2001-99-99\n",
        "self.yaml": b"a: &a [*a]\n",
        "tag.yaml": b"a: !!python/object/apply:os.system [ls]\n",
    }
    damaged = files(folder, texts, lambda file: load_config([file]), fixed=tuple(texts))
    file = folder / "tree.yaml"

    def make(rng: random.Random) -> Action:
        if rng.random() < 0.4:
            return damaged(rng)
        if rng.random() < 0.2:
            override = damaged_bytes(rng, [b"training.batch_size=32", b"model.mrl_dims=[4, 8]", b"data.train.where={a: b}"])
            return lambda: load_config([], [override.decode("utf-8", "replace")])
        file.write_text(yaml.safe_dump(damaged_tree(rng, tree)), encoding="utf-8", errors="replace")
        return lambda: load_config([file])

    return make


@reader("tokens", "serving.gate:read_token")
def _tokens(folder: Path) -> Maker:
    from mrl.serving.gate import read_token

    return files(folder, {"token": b"a-token-for-tests-only\n"}, read_token)


_HEADS = (
    b"GET /api/voices HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer a-token-for-tests-only\r\nContent-Length: 0\r\n\r\n",
    b"POST /api/verify HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer a-token-for-tests-only\r\n"
    b"Content-Type: multipart/form-data; "
    b'boundary=b\r\nContent-Length: 95\r\n\r\n--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nanna\r\n--b--\r\n',
    b"DELETE /api/voices/anna HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
)


@reader("requests to the server", "serving:requests")
def _requests(folder: Path) -> Maker:
    """Bytes as they come from the network, through uvicorn's parser and the whole application, without a socket."""
    import asyncio
    import contextlib
    import weakref

    from tests.hostile.transport import answer_to
    from tests.serving.makers import application

    stack = contextlib.ExitStack()
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    app = stack.enter_context(application(folder / "v.sqlite"))

    def make(rng: random.Random) -> Action:
        sent = damaged_bytes(rng, list(_HEADS))

        def send() -> None:
            answer = loop.run_until_complete(answer_to(app, sent))
            status = answer[9:12]
            if answer and (
                not answer.startswith(b"HTTP/1.1 ") or (status[:1] == b"5" and status != b"503") or b"Traceback" in answer
            ):
                raise AssertionError(repr(answer[:200]))

        return send

    weakref.finalize(make, stack.close)
    return make


@reader("turns of speakers", "identification.turns:read_turns", "identification.turns:_json")
def _turns(folder: Path) -> Maker:
    """Each format with damaged bytes; JSON mostly with wrong values instead."""
    from mrl.identification import read_turns
    from tests.identification.test_turns import FILES

    def read(file: Path) -> None:
        turns = read_turns(file, recording="talk")
        turns.alone()
        turns.renamed(dict.fromkeys(turns.speakers, "Ada Lovelace"))

    def make(rng: random.Random) -> Action:
        name = rng.choice(list(FILES))
        file = folder / f"case{Path(name).suffix}"
        if name.endswith(".json") and rng.random() < 0.7:
            file.write_bytes(json.dumps(damaged_tree(rng, json.loads(FILES[name]))).encode("utf-8", "surrogatepass"))
        else:
            file.write_bytes(damaged_bytes(rng, [FILES[name].encode()]))
        return lambda: read(file)

    return make
