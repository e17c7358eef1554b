"""The command line under hostile names and impatient users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.embeddings.cache import EmbeddingCache
from mrl.errors import DataError, MRLError, printable
from mrl.files import atomic_path, remove_leftovers
from mrl.identification import VoiceStore, export_voices
from tests.identification.makers import filled_store


@pytest.mark.parametrize(
    "name", ["a\x1b[2Jb.npz", "a\nb.npz", "a\rb.npz", "\u202ea.npz", b"\xff\xfe.npz".decode("utf-8", "surrogateescape")]
)
def test_names_cannot_command_the_terminal(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / name
    file.write_bytes(b"x")
    assert run(["fit-projection", str(file), "--output", str(tmp_path / "h.safetensors")]) == 2
    told = capsys.readouterr().err
    assert told.endswith("\n") and told[:-1].isprintable()


def test_messages_are_one_printable_line() -> None:
    assert str(DataError("a\x1b[31m\nb\t\udcff")) == r"a\x1b[31m b \udcff"
    assert str(DataError("ä – ö")) == "ä – ö"
    assert len(str(MRLError("x" * 10_000))) == 2000
    assert printable("a" * 5, most=3) == "aa…"


_BUSY = """
import hashlib, sys
import mrl.cli.main as main
def run(args):
    try:
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000_000)  # one instruction of Python's, for many minutes
    except KeyboardInterrupt:  # the signal came before that instruction began
        return main.EXIT_INTERRUPTED
main.run = run
sys.exit(main.main())
"""

_DECODING = """
import sys, threading, hashlib
import mrl.cli.main as main
def run(args):
    from concurrent.futures import ThreadPoolExecutor
    from mrl.embeddings.mapping import _ended_at_once
    try:
        with _ended_at_once(ThreadPoolExecutor(1)) as pool:
            future = pool.submit(hashlib.pbkdf2_hmac, "sha256", b"a", b"b", 2_000_000_000)
            print("busy", flush=True)
            future.result()
    except KeyboardInterrupt:
        print("told", flush=True)
        return main.EXIT_INTERRUPTED
main.run = run
sys.exit(main.main())
"""


@pytest.mark.parametrize(("program", "told"), [(_BUSY, ""), (_DECODING, "told\n")])
def test_an_interrupt_ends_a_command(program: str, told: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, told)


_KILLED = """
import os, signal, sys
from pathlib import Path
from mrl.identification import VoiceStore, exchange
def line(voice):
    os.kill(os.getpid(), signal.SIGKILL)
exchange._to_json = line
exchange.export_voices(VoiceStore(sys.argv[1]), sys.argv[2])
"""


def test_a_killed_export_leaves_no_voice_print(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 2)
    place = tmp_path / "elsewhere" / "voices.jsonl"
    found = subprocess.run([sys.executable, "-c", _KILLED, str(store.path), str(place)], check=False)
    assert found.returncode == -signal.SIGKILL
    (left,) = list(place.parent.iterdir())
    assert left.name.endswith(".tmp.jsonl") and left.stat().st_mode & 0o077 == 0  # nobody else could read it
    store.remove(["v0000"])
    assert list(place.parent.iterdir()) == []
    export_voices(VoiceStore(store.path), place)
    assert [one.name for one in place.parent.iterdir()] == ["voices.jsonl"]


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".other.0123abcd.tmp.json").write_text("left")
    (tmp_path / ".hidden").write_text("somebody's own")
    with atomic_path(tmp_path / "a.json") as mine:
        mine.write_text("a")
        assert remove_leftovers(tmp_path) == []  # that of a living writer stays
        with atomic_path(tmp_path / "b.json") as other:
            other.write_text("b")
            assert mine.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json", "b.json"]


def test_a_recording_replaced_while_it_was_read_is_not_remembered(tmp_path: Path) -> None:
    shelf = EmbeddingCache(tmp_path / "cache").shelf({"model": "m"})
    file, steady = tmp_path / "a.wav", tmp_path / "b.wav"
    for one in (file, steady):
        one.write_bytes(b"before")
    assert shelf.find([file, steady]) == {}
    file.write_bytes(b"another recording")
    os.utime(file, ns=(time.time_ns(), time.time_ns()))
    import numpy as np

    shelf.add([file, steady], (np.ones((2, 3), np.float32),))
    assert list(shelf.find([file, steady])) == [1]
