"""Tar shards: what plain tar readers see, random access, resume after a kill, and every kind of damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.audio import load_audio
from mrl.data import Corpus, CropDataset, Draw, ShardIndex, Utterance, load_batches, read_shards, write_shards
from mrl.data.shard_encoding import TarWriter, finished_bytes, member_bytes
from mrl.data.shards import ROW, Shard, write_index
from mrl.errors import AudioLoadingError, DataError, InputError
from tests.audio.sounds import sweep, write_with_ffmpeg

MEGABYTES = 0.03  # three or four of the recordings below
SpeechFolder = Path


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> SpeechFolder:
    """4 speakers x 5 utterances of noise, 0.15 to 0.24 s, 16 bits; sessions v0 and v1."""
    folder = tmp_path_factory.mktemp("speech")
    random = np.random.default_rng(0)
    for speaker in range(4):
        for number in range(5):
            path = folder / f"id{speaker}" / f"v{number % 2}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = random.integers(-9000, 9000, 2400 + 80 * (speaker + 4 * number)).astype(np.int16)
            soundfile.write(path, noise, 16000)
    return folder


def _corpus(folder: Path) -> Corpus:
    from mrl.data import scan_speaker_folders

    return scan_speaker_folders(folder)


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != ".writing.lock"}


@pytest.fixture(scope="session")
def finished(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "shards"
    report = write_shards(_corpus(speech), folder, shard_megabytes=MEGABYTES, root=speech)
    assert (len(report.index), report.kept, report.left_out) == (20, 0, ())
    assert len(report.index.shards) >= 5 and all(shard.size <= MEGABYTES * 1e6 for shard in report.index.shards)
    return folder


def _copy(finished: Path, to: Path) -> Path:
    return Path(shutil.copytree(finished, to))


def test_plain_tar_readers_see_pairs_in_the_layout_of_webdataset(speech: Path, finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    tars = sorted(name for name in names if name.endswith(".tar"))
    assert names - {".writing.lock"} == {"shards.json", "index.npy", "names.json", *tars}
    number = 0
    origins = []
    for name in tars:
        with tarfile.open(finished / name) as tar:
            members = tar.getmembers()
            assert all(member.isreg() and member.mode == 0o644 and member.mtime == 0 for member in members)
            for audio, facts in zip(members[::2], members[1::2], strict=True):
                assert (audio.name, facts.name) == (f"{number:09d}.flac", f"{number:09d}.json")
                described = json.load(tar.extractfile(facts))  # type: ignore[arg-type]
                with soundfile.SoundFile(tar.extractfile(audio)) as sound:
                    decoded = sound.read(dtype="int16")
                origin = speech / described["origin"]
                assert np.array_equal(decoded, soundfile.read(origin, dtype="int16")[0])  # bit for bit
                speaker, session, _ = described["origin"].split("/")
                assert described == {
                    "key": f"{number:09d}",
                    "speaker": speaker,
                    "session": session,
                    "seconds": len(decoded) / 16000,
                    "sample_rate": 16000,
                    "channels": 1,
                    "origin": described["origin"],
                }
                origins.append(described["origin"])
                number += 1
    assert len(set(origins)) == 20 and origins != sorted(origins)
    first = [origin[:3] for origin in origins[:8]]
    assert len(set(first)) >= 3  # speakers are mixed


def test_random_access_and_the_corpus(speech: Path, finished: Path) -> None:
    index = ShardIndex.load(finished)
    assert isinstance(index.rows, np.memmap) and index.num_speakers == 4
    corpus = read_shards(finished)
    assert corpus.speakers == ("id0", "id1", "id2", "id3")
    for number in (19, 0, 7):
        one = index.utterance(number)
        assert one == corpus.utterances[number] and one.slice == corpus.utterances[number].slice
        assert one.path.parent.name.startswith("shard-") and one.path.name == f"{number:09d}.flac"
        audio = load_audio(one.source)
        assert one.seconds == len(audio) / 16000 and one.session in ("v0", "v1")
        place = [path for path in (speech / one.speaker / one.session).iterdir() if np.array_equal(load_audio(path), audio)]
        assert len(place) == 1
    corpus.check_files()
    assert corpus.fingerprint() == read_shards(finished).fingerprint()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_crops_are_those_of_the_files(speech: Path, finished: Path, num_workers: int) -> None:
    shards = read_shards(finished)
    with_origin = {}
    for name in sorted(finished.glob("*.tar")):
        with tarfile.open(name) as tar:
            for member in tar.getmembers()[1::2]:
                facts = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                with_origin[facts["key"]] = speech / facts["origin"]
    files = Corpus.in_order(
        Utterance(with_origin[one.path.stem], one.speaker, seconds=one.seconds, session=one.session) for one in shards.utterances
    )
    draws = [[Draw(number, 1, 5 * number) for number in range(first, first + 4)] for first in range(0, 20, 4)]
    batches = zip(
        load_batches(CropDataset(shards, 0.1, seed=2), draws, num_workers=num_workers),
        load_batches(CropDataset(files, 0.1, seed=2), draws),
        strict=True,
    )
    for ours, theirs in batches:
        assert np.array_equal(ours.audio, theirs.audio) and np.array_equal(ours.labels, theirs.labels)


def test_as_they_are(tmp_path: Path) -> None:
    write_with_ffmpeg(tmp_path / "a.M4A", sweep(44100, 0.5), 44100, "aac")
    soundfile.write(tmp_path / "b.wav", np.stack([sweep(8000, 0.4)] * 2, axis=1), 8000)
    corpus = Corpus.of([Utterance(tmp_path / "a.M4A", "a", seconds=0.5), Utterance(tmp_path / "b.wav", "b")])
    index = write_shards(corpus, tmp_path / "shards", encoding="as-is").index
    for one in index.corpus().utterances:
        original = tmp_path / ("a.M4A" if one.speaker == "a" else "b.wav")
        assert one.path.suffix == original.suffix.lower() and one.slice is not None
        assert one.slice.read() == original.read_bytes()
        assert np.array_equal(load_audio(one.source), load_audio(original))
        assert one.seconds == pytest.approx(0.5 if one.speaker == "a" else 0.4)
    for stretch in (Utterance(tmp_path / "b.wav", "b", 0.1), Utterance(tmp_path / "b.wav", "b", 0.0, 0.2)):
        with pytest.raises(DataError, match=r"b\.wav: the utterance is a stretch .*use --encode flac"):
            write_shards(Corpus.of([stretch]), tmp_path / "other", encoding="as-is")
    with pytest.raises(InputError, match="encoding is 'mp3', expected flac or as-is"):
        write_shards(corpus, tmp_path / "other", encoding="mp3")


def test_flac_holds_just_the_stretch(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "b.wav", np.stack([sweep(8000, 0.8)] * 2, axis=1), 8000, subtype="FLOAT")
    corpus = Corpus.of([Utterance(tmp_path / "b.wav", "b", 0.3, 0.25, "x"), Utterance(tmp_path / "b.wav", "b", 0.6)])
    for one in write_shards(corpus, tmp_path / "shards").index.corpus().utterances:
        start, seconds = (0.3, 0.25) if one.session == "x" else (0.6, 0.2)
        expected = load_audio(tmp_path / "b.wav", offset=start, duration=seconds)
        assert one.start == 0.0 and one.seconds == pytest.approx(seconds)
        assert np.max(np.abs(load_audio(one.source) - expected)) <= 2**-16  # half a step of 16 bits


@pytest.mark.parametrize("at", [0, 2])
def test_a_killed_run_resumes(speech: Path, finished: Path, tmp_path: Path, at: int) -> None:
    """SIGKILL in the middle of a shard; the half-written one is not seen, the finished ones are kept."""
    program = (
        "import os, signal, sys\n"
        "from mrl.data import scan_speaker_folders, shard_writing, write_shards\n"
        "from mrl.data.shard_encoding import TarWriter\n"
        "add, left = TarWriter.add, [int(sys.argv[3])]\n"
        "def dying(self, name, data):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0:\n"
        "        self._stream.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return add(self, name, data)\n"
        "TarWriter.add = dying\n"
        "write_shards(scan_speaker_folders(sys.argv[1]), sys.argv[2], shard_megabytes=0.03, root=sys.argv[1], progress=False)\n"
    )
    index = ShardIndex.load(finished)
    members = 2 * sum(shard.utterances for shard in index.shards[:at]) + 3
    folder = tmp_path / "shards"
    killed = subprocess.run([sys.executable, "-c", program, str(speech), str(folder), str(members)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob("shard-*.tar"))) == at and len(list(folder.glob(".shard-*.tmp.tar"))) == 1
    with pytest.raises(DataError, match="holds (unfinished|no) shards"):
        read_shards(folder)
    report = write_shards(_corpus(speech), folder, shard_megabytes=MEGABYTES, root=speech, num_workers=3)
    assert report.kept == at
    assert _contents(folder) == _contents(finished)
    again = write_shards(_corpus(speech), folder, shard_megabytes=MEGABYTES, root=speech)  # all is there: verifies
    assert again.kept == len(index.shards)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_to_an_unfinished_folder_is_fixed(
    speech: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Files of shards are lost, cut or altered between the kill and the resume; the result is that of an undisturbed run."""
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("mrl.data.shard_writing.write_index", killed)
        with pytest.raises(KeyboardInterrupt):
            write_shards(_corpus(speech), folder, shard_megabytes=MEGABYTES, root=speech)
    files = sorted(folder.glob("shard-*"))
    damaged = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True))
    for path in damaged:
        content = bytearray(path.read_bytes())
        match data.draw(st.sampled_from(["lost", "cut", "altered"])):
            case "lost":
                path.unlink()
            case "cut":
                path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            case _:
                content[data.draw(st.integers(0, len(content) - 1))] ^= 255
                path.write_bytes(content)
    report = write_shards(_corpus(speech), folder, shard_megabytes=MEGABYTES, root=speech)
    touched = {path.name.removesuffix(".json") for path in damaged}
    assert report.kept == len(report.index.shards) - len(touched)
    assert _contents(folder) == _contents(finished)


def test_a_full_disk_keeps_the_finished_shards(
    speech: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [13]
    add = TarWriter.add

    def full(self: TarWriter, name: str, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "add", full)
        with pytest.raises(OSError, match="No space"):
            write_shards(_corpus(speech), tmp_path / "shards", shard_megabytes=MEGABYTES, root=speech)
    assert not list((tmp_path / "shards").glob(".shard-*.tmp.*"))
    report = write_shards(_corpus(speech), tmp_path / "shards", shard_megabytes=MEGABYTES, root=speech)
    assert report.kept >= 1 and _contents(tmp_path / "shards") == _contents(finished)


def test_a_truncated_shard_is_found_when_it_is_opened(finished: Path, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "shards")
    shard = folder / "shard-00001.tar"
    size = shard.stat().st_size
    os.truncate(shard, size - 1)
    with pytest.raises(DataError, match=rf"shard-00001\.tar has {size - 1} bytes, its index says {size}: it is cut off; copy it"):
        read_shards(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.tar is missing or cannot be read \(No such file"):
        read_shards(folder)


def test_an_altered_shard_is_found_by_reading_and_by_verifying(finished: Path, tmp_path: Path) -> None:
    folder = _copy(finished, tmp_path / "shards")
    index = ShardIndex.load(folder)
    index.verify(progress=False)
    victim = index.utterance(5)
    assert victim.slice is not None
    content = bytearray(victim.file.read_bytes())
    content[victim.slice.offset + victim.slice.length // 2] ^= 1
    victim.file.write_bytes(content)
    name = rf"{victim.file.name}/000000005\.flac"
    with pytest.raises(AudioLoadingError, match=rf"{name}: its bytes are not those that were written"):
        CropDataset(read_shards(folder), 0.1)[Draw(5, 0, 0)]
    assert load_audio(index.utterance(4).source).any()
    with pytest.raises(DataError, match=rf"{victim.file.name} was changed: its SHA-256 is"):
        index.verify(progress=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shards.json", r"shards\.json is not JSON"),
        ("index.npy", r"index\.npy was changed: its SHA-256"),
        ("names.json", r"names\.json was changed: its SHA-256"),
    ],
)
def test_a_cut_index_is_reported(finished: Path, tmp_path: Path, name: str, message: str) -> None:
    folder = _copy(finished, tmp_path / "shards")
    os.truncate(folder / name, (folder / name).stat().st_size - 3)
    with pytest.raises(DataError, match=message):
        read_shards(folder)


def test_folders_that_hold_something_else(speech: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no shards \(shards\.json is missing\)"):
        read_shards(tmp_path)
    before = _contents(finished)
    with pytest.raises(DataError, match=r"with other settings or utterances \(different: encoding, seed\); choose another"):
        write_shards(_corpus(speech), finished, shard_megabytes=MEGABYTES, root=speech, encoding="as-is", seed=3)
    fewer = Corpus.of(_corpus(speech).utterances[1:])
    with pytest.raises(DataError, match=r"\(different: corpus\)"):
        write_shards(fewer, finished, shard_megabytes=MEGABYTES, root=speech)
    assert _contents(finished) == before
    (tmp_path / "shard-00000.tar").touch()
    with pytest.raises(DataError, match="holds tar files of unknown origin"):
        write_shards(fewer, tmp_path)
    with FileLock(finished / ".writing.lock"), pytest.raises(DataError, match="another process is writing shards into"):
        write_shards(_corpus(speech), finished, shard_megabytes=MEGABYTES, root=speech)
    with pytest.raises(InputError, match=r"shard_megabytes must be above 0"):
        write_shards(fewer, tmp_path / "x", shard_megabytes=0)
    with pytest.raises(InputError, match="at their own speed"):
        write_shards(fewer.with_speed_copies([0.9]), tmp_path / "x")


def test_unreadable_recordings_stop_or_are_left_out(speech: Path, tmp_path: Path) -> None:
    shutil.copytree(speech, tmp_path / "speech")
    corpus = _corpus(tmp_path / "speech")
    bad = [corpus.utterances[number].path for number in (3, 11)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AudioLoadingError, match=r"\.wav: the file is cut off"):
        write_shards(corpus, tmp_path / "shards", shard_megabytes=MEGABYTES)
    report = write_shards(corpus, tmp_path / "shards", shard_megabytes=MEGABYTES, leave_out_unreadable=True)  # goes on
    assert sorted(one.path for one in report.left_out) == sorted(map(str, bad))
    assert all("cut off" in one.reason for one in report.left_out)
    assert len(report.index) == 18 == len(read_shards(tmp_path / "shards"))
    again = write_shards(corpus, tmp_path / "shards", shard_megabytes=MEGABYTES, leave_out_unreadable=True)
    assert again.left_out == report.left_out
    none = Corpus.of([Utterance(path, "x") for path in bad])
    with pytest.raises(DataError, match="none of the 2 utterances could be read; the first: "):
        write_shards(none, tmp_path / "none", leave_out_unreadable=True)


def test_a_name_of_another_encoding_is_reported_at_the_start(tmp_path: Path) -> None:
    corpus = Corpus.of([Utterance(tmp_path / "a.wav", "M\udcfcller")])
    with pytest.raises(DataError, match=r"M\\udcfcller is not valid Unicode"):
        write_shards(corpus, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_an_utterance_larger_than_a_shard_has_one_of_its_own(speech: Path, tmp_path: Path) -> None:
    index = write_shards(_corpus(speech), tmp_path / "shards", shard_megabytes=0.001).index
    assert [shard.utterances for shard in index.shards] == [1] * 20


def test_a_large_index_stays_on_disk(tmp_path: Path) -> None:
    """200,000 utterances (10 MB of index): opening it and reading some takes a small part of that memory."""
    rows = np.zeros(200_000, dtype=ROW)
    rows["offset"] = np.arange(len(rows)) * 100_000
    rows["suffix"] = b".flac"
    rows["session"] = -1
    (tmp_path / "shard-00000.tar").write_bytes(b"12345")
    write_index(
        tmp_path,
        [Shard("shard-00000.tar", 5, hashlib.sha256(b"12345").hexdigest(), len(rows))],
        rows,
        speakers=["a"],
        sessions=[],
        facts={},
    )
    tracemalloc.start()
    index = ShardIndex.load(tmp_path)
    found = [index.utterance(number) for number in (0, 123_456, 199_999)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.slice.offset // 100_000 for one in found if one.slice] == [0, 123_456, 199_999]
    assert peak < 4e6 < rows.nbytes


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 3000), max_size=8))
def test_tar_files_are_as_long_as_computed(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    with TarWriter(path) as tar:
        offsets = [tar.add(f"{number}", content) for number, content in enumerate(contents)]
        assert tar.size == sum(map(member_bytes, contents))
        expected = finished_bytes(tar.size)
        digest = tar.finish()
    data = path.read_bytes()
    assert len(data) == expected and hashlib.sha256(data).hexdigest() == digest
    assert [data[offset : offset + len(content)] for offset, content in zip(offsets, contents, strict=True)] == contents
    with tarfile.open(path) as reader:
        assert [(member.name, member.size) for member in reader] == [(f"{n}", size) for n, size in enumerate(sizes)]
