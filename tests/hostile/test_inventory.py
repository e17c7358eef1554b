"""Every reader of the package has a corpus of hostile files: a new one without fails here."""

from __future__ import annotations

import collections

from tests.hostile import readers_of_input, readers_of_models, readers_of_notes, readers_of_tables  # noqa: F401  (register readers)
from tests.hostile.inventory import reading_functions
from tests.hostile.readers import READERS

NOT_FROM_OTHERS = {
    "audio.channel:_encode": "what the augmentation has just encoded",
    "audio.channel:_decode": "what the augmentation has just encoded",
    "audio.speech:_silero_session": "a file of an installed package",
    "data.columns:UtteranceColumns._map": "arrays that this process, or the one that started it, has just written",
    "data.shard_encoding:encode_utterance": "copies a recording that has been decoded before",
    "deployment.checks:free_bytes": "the system's own account of its memory",
    "deployment.checks:_number": "the system's own account of its memory",
    "deployment.onnx_graph:quantised": "a graph that this process has just written",
    "distribution:Processes.exchange": "from the other processes of the same job",
    "hardware:_processor": "the system's own account of its processor",
    "identification.voice_matrix:_write": "a side file that is being made",
    "serving.app:page_file": "files of the package",
    "training.checkpoints:CheckpointFolder.save": "values that are about to be written",
    "training.folders:RunFolder.locked": "the first 1,000 bytes of a name, for a message",
    "training.logs:_identifier": "the first 1,000 bytes of a name",
    "training.plan:_resident_bytes": "the system's own account of this process",
    "transfer:_Transfer._open": "tests/test_transfer.py has servers that misbehave",
}


def test_every_reader_is_listed() -> None:
    covered = {name for reader in READERS for name in reader.covers}
    there = set(reading_functions())
    missing = there - covered - NOT_FROM_OTHERS.keys()
    assert not missing, f"without a hostile corpus (tests/hostile/readers_of_*.py): {sorted(missing)}"


def test_the_list_names_nothing_that_is_gone() -> None:
    there = set(reading_functions())
    named = {name for reader in READERS for name in reader.covers if not name.startswith("serving:")} | NOT_FROM_OTHERS.keys()
    assert not named - there, sorted(named - there)


def test_readers_have_one_name_each() -> None:
    counts = collections.Counter(reader.name for reader in READERS)
    assert counts.most_common(1)[0][1] == 1
