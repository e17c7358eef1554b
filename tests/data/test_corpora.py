"""Where speakers and sessions stand in the layouts of public corpora."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.data import find_recordings
from mrl.errors import DataError, InputError
from mrl.trials.speakers import public_name

VIDEO = "5r0dWxy17C8"


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def told(root: Path, **options: object) -> list[tuple[str | None, str, str | None, str | None]]:
    found = find_recordings(root, **options)  # type: ignore[arg-type]
    return [(one.corpus, one.speaker, one.session, one.columns.get("split")) for one in found.recordings]


def test_voxceleb(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        f"vox1_dev_wav/wav/id10001/{VIDEO}/00001.wav",
        f"vox1_test_wav/wav/id10270/{VIDEO}/00001.wav",
        "vox2/dev/aac/id00012/21Uxsk56VDQ/00001.m4a",
        "vox2/dev/aac/id00012/2DLq_Kkc1r8/00007.m4a",
        "vox2/test/aac/id00017/01dfn2spqyE/00001.m4a",
        "notes/readme.wav",
    )
    assert told(root) == [
        ("voxceleb1", "id10001", VIDEO, "dev"),
        ("voxceleb1", "id10270", VIDEO, "test"),
        ("voxceleb2", "id00012", "21Uxsk56VDQ", "dev"),
        ("voxceleb2", "id00012", "2DLq_Kkc1r8", "dev"),
        ("voxceleb2", "id00017", "01dfn2spqyE", "test"),
    ]
    found = find_recordings(root, corpus="voxceleb2", split="dev")
    assert [one.full_speaker for one in found.recordings] == ["voxceleb2/id00012"] * 2
    assert found.layout == "voxceleb2" and len(found.passed_over) == 4
    # The split is told by the folder that is given, too.
    assert told(root / "vox2/dev/aac", split="dev") == told(root, corpus="voxceleb2", split="dev")
    with pytest.raises(DataError, match="none of the 2 recordings below .* matches the layout voxceleb in the part 'test'"):
        find_recordings(root / "vox2/dev/aac", split="test")


def test_cnceleb(tmp_path: Path) -> None:
    root = make(
        tmp_path / "CN-Celeb_flac",
        "data/id00010/interview-01-002.flac",
        "data/id00010/live_broadcast-02-001.flac",
        "data/id00801/singing-03-004.flac",
        "eval/enroll/id00800-enroll.flac",
        "eval/test/id00800-singing-01-001.flac",
    )
    make(tmp_path / "CN-Celeb2_flac", "data/id10270/vlog-01-001.flac")
    assert told(root) == [
        ("cnceleb1", "id00010", "interview-01", "dev"),
        ("cnceleb1", "id00010", "live_broadcast-02", "dev"),
        ("cnceleb1", "id00800", "enroll", "test"),
        ("cnceleb1", "id00800", "singing-01", "test"),
        ("cnceleb1", "id00801", "singing-03", "test"),
    ]
    assert told(tmp_path, corpus="cnceleb2") == [("cnceleb2", "id10270", "vlog-01", "dev")]
    assert len(told(tmp_path, corpus="cnceleb", split="dev")) == 3
    genres = [one.columns.get("genre") for one in find_recordings(root).recordings]
    assert genres == ["interview", "live_broadcast", None, "singing", "singing"]


def test_voxblink2(tmp_path: Path) -> None:
    root = make(tmp_path, "id000000/DwgYRqnQZHM/00000.wav", "id111283/DwgYRqnQZHM/00003.wav")
    assert told(root) == [
        ("voxblink2", "id000000", "DwgYRqnQZHM", None),
        ("voxblink2", "id111283", "DwgYRqnQZHM", None),
    ]
    assert find_recordings(root).layout == "voxblink2"


def test_folders_are_what_remains(tmp_path: Path) -> None:
    root = make(tmp_path, "ann/a.wav", "ann/monday/b.m4a", "ann/monday/late/c.flac", "bob/d.WAV", "loose.wav", "bob/notes.txt")
    assert told(root) == [
        (None, "ann", None, None),
        (None, "ann", "monday", None),
        (None, "ann", "monday", None),
        (None, "bob", None, None),
    ]
    found = find_recordings(root)
    assert (found.layout, [path.name for path in found.passed_over]) == ("folders", ["loose.wav"])
    assert found.corpus().speakers == ("ann", "bob")
    with pytest.raises(InputError, match="give the folder of the split"):
        find_recordings(root, split="dev")
    with pytest.raises(DataError, match="all 1 recordings are in .* itself"):
        find_recordings(make(tmp_path / "flat", "a.wav"))
    # A folder of speakers that are called like VoxCeleb's may be read as plain folders.
    make(tmp_path / "plain", f"id10001/{VIDEO}/1.wav")
    assert told(tmp_path / "plain", corpus="folders") == [(None, "id10001", VIDEO, None)]


def test_most_recordings_decide(tmp_path: Path) -> None:
    make(tmp_path, f"id10001/{VIDEO}/1.wav", "ann/a.wav")
    assert find_recordings(tmp_path).layout == "folders"
    make(tmp_path, f"id10001/{VIDEO}/2.wav")
    assert find_recordings(tmp_path).layout == "voxceleb"


def test_manifests(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "path,speaker,start,duration,seconds,session,corpus,age,sample_rate\nb.wav,s,0,1.5,,x,k,7,16000\na.wav,s,,,2.5,,k,,8000\n"
    )
    a, b = find_recordings(path, root="/data").recordings
    assert (a.path, a.full_speaker, a.start, a.seconds, a.session, a.sample_rate, a.columns) == (
        Path("/data/a.wav"), "k/s", 0.0, None, None, 8000, {},
    )  # fmt: skip
    assert (b.start, b.seconds, b.session, b.columns) == (0.0, 1.5, "x", {"age": "7"})
    assert [one.seconds for one in find_recordings(path, trust_lengths=True).recordings] == [2.5, 1.5]
    assert len(find_recordings(path, where={"age": 7}).recordings) == 1
    path.write_text("path,speaker,sample_rate\na.wav,s,fast\n")
    with pytest.raises(DataError, match="line 2: sample_rate is 'fast'; expected Hz"):
        find_recordings(path)
    with pytest.raises(InputError, match="choose rows of a manifest by where"):
        find_recordings(path, split="dev")


def kaldi(folder: Path, scp: str, speakers: str, segments: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text(scp)
    (folder / "utt2spk").write_text(speakers)
    if segments is not None:
        (folder / "segments").write_text(segments)
    return folder


def test_kaldi_data_directory(tmp_path: Path) -> None:
    folder = kaldi(tmp_path / "train", "b-1 /a b/1.wav\n\na-1 wav/2.flac\nc-1 wav/3.wav\n", "a-1 a\nb-1 b\nd-1 d\n")
    found = find_recordings(folder)
    assert found.layout == "kaldi"
    assert [(each.path, each.full_speaker, each.start, each.seconds, each.columns) for each in found.recordings] == [
        (folder / "wav/2.flac", "a", 0.0, None, {"utterance": "a-1"}),
        (Path("/a b/1.wav"), "b", 0.0, None, {"utterance": "b-1"}),
    ]
    assert found.passed_over == (folder / "wav/3.wav",)  # without a speaker
    assert find_recordings(folder, root="/data").recordings[0].path == Path("/data/wav/2.flac")
    cut = kaldi(tmp_path / "cut", "call /c.wav\n", "a-1 a\nb-1 b\nb-2 b\n", "a-1 call 0.5 2.25\nb-1 call 3 -1\nb-2 lost 0 1\n")
    found = find_recordings(cut, corpus="kaldi")
    assert [(each.speaker, each.start, each.seconds) for each in found.recordings] == [("a", 0.5, 1.75), ("b", 3.0, None)]
    assert found.passed_over == (Path("lost"),)
    assert found.corpus().speakers == ("a", "b")


@pytest.mark.parametrize(
    ("scp", "segments", "message"),
    [
        ("a sph2pipe -f wav 1.sph |\n", None, r"wav.scp, line 1: 'sph2pipe -f wav 1.sph \|' is a command, which is not run"),
        ("a raw/feats.ark:9\n", None, "line 1: 'raw/feats.ark:9' is a place in an archive"),
        ("a\n", None, "line 1: found 'a', expected 'utterance file'"),
        ("a 1.wav\n\na 2.wav\n", None, "line 3: 'a' is listed twice"),
        ("b 1.wav\n", None, "none of the 1 utterances has a recording in wav.scp and a speaker in utt2spk"),
        ("r 1.wav\n", "a r 0\n", "segments, line 1: found 'r 0' after the utterance, expected 'utterance recording start end'"),
        ("r 1.wav\n", "a r 2 1\n", "a stretch from 2.0 s to 1.0 s; expected 0 or more, and an end after the start"),
        ("r 1.wav\n", "a r nan 1\n", "a stretch from nan s"),
    ],
)
def test_kaldi_tables_that_cannot_be_used(tmp_path: Path, scp: str, segments: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_recordings(kaldi(tmp_path, scp, "a s\n", segments), corpus="kaldi")


def test_kaldi_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="utt2spk cannot be read"):
        find_recordings(tmp_path, corpus="kaldi")
    with pytest.raises(InputError, match="give that of the split"):
        find_recordings(kaldi(tmp_path, "a 1.wav\n", "a s\n"), split="dev")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="corpus is 'librispeech', expected one of auto, folders"):
        find_recordings(tmp_path, corpus="librispeech")
    with pytest.raises(InputError, match="split is 'train'"):
        find_recordings(tmp_path, split="train")
    with pytest.raises(InputError, match="root and where belong to a manifest"):
        find_recordings(tmp_path, where={"a": 1})
    with pytest.raises(DataError, match="no recordings in this folder"):
        find_recordings(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        find_recordings(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "path",
    ["a.wav", "ls1688/a.opus", "id10270/short/1.wav", "id1027/5r0dWxy17C8/1.wav", "id00010/a.flac", "test/a.wav", ""],
)
def test_other_paths_name_no_speaker(path: str) -> None:
    assert public_name(path) is None


def test_backslashes() -> None:
    name = public_name(rf"D:\vox\id10270\{VIDEO}\1.wav")
    assert name is not None and (name.speaker, name.split) == ("id10270", "test")
