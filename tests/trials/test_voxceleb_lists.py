"""Fetching the official lists, from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrl.errors import DataError, DownloadError, InputError
from mrl.pretrained import TransferSettings
from mrl.trials import read_trials
from mrl.trials import voxceleb as voxceleb_lists
from mrl.trials.voxceleb import OFFICIAL_LISTS, SOURCES, fetch_official_list, find_official_list
from tests.pretrained.servers import Answers, serving

HASTY = TransferSettings(attempts=2, timeout_seconds=5.0, first_delay_seconds=0.01)


def content(trials: int, targets: int, *, name: str = "id10270") -> bytes:
    """A list of the right size; every trial is another pair."""
    lines = [b"%d %s/x/%05d.wav %s/y/00001.wav\n" % (number < targets, name.encode(), number, b"id1") for number in range(trials)]
    return b"".join(lines)


@pytest.fixture
def answers() -> Answers:
    return Answers(files={"veri_test.txt": content(37_720, 18_860)}, content_type="text/plain")


@pytest.fixture
def server(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(answers) as address:
        yield address


def test_numbers_and_names() -> None:
    published = {
        "voxceleb1-o": (37_720, "veri_test.txt"),
        "voxceleb1-o-cleaned": (37_611, "veri_test2.txt"),
        "voxceleb1-e": (581_480, "list_test_all.txt"),
        "voxceleb1-e-cleaned": (579_818, "list_test_all2.txt"),
        "voxceleb1-h": (552_536, "list_test_hard.txt"),
        "voxceleb1-h-cleaned": (550_894, "list_test_hard2.txt"),
    }
    assert {one.name: (one.trials, one.file_name) for one in OFFICIAL_LISTS} == published
    assert all(abs(one.targets / one.trials - 0.5) < 0.001 for one in OFFICIAL_LISTS)
    assert all(source.startswith("https://") and source.endswith("/meta/") for source in SOURCES)
    assert find_official_list("Vox1-H-cleaned").file_name == "list_test_hard2.txt"
    with pytest.raises(InputError, match="no official list 'voxceleb2-o'; there are voxceleb1-o, "):
        find_official_list("voxceleb2-o")


def test_fetched_once_and_recorded(server: str, answers: Answers, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch_official_list("vox1-o", tmp_path / "lists", source=server, settings=HASTY)
    assert path == tmp_path / "lists" / "voxceleb1-o.txt"
    assert path.read_bytes() == answers.files["veri_test.txt"]
    assert len(answers.requests) == 1
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == read_trials(path).sha256
    assert record == {"source": server + "veri_test.txt", "sha256": record["sha256"], "trials": 37_720, "targets": 18_860}
    assert not list(path.parent.glob("*.part*"))
    fetch_official_list("vox1-o", path.parent, source=server, settings=HASTY, force_reload=True)
    assert len(answers.requests) == 2


def test_sources_are_tried_in_turn(server: str, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxceleb_lists, "SOURCES", (server + "gone/nothing-", server))
    answers.statuses = [404]
    assert read_trials(fetch_official_list("voxceleb1-o", tmp_path, settings=HASTY)).num_target == 18_860
    assert [status for _, _, status in answers.requests] == [404, 200]


def test_a_passing_fault_is_overcome(server: str, answers: Answers, tmp_path: Path) -> None:
    answers.statuses = [503]
    answers.etags["veri_test.txt"] = '"one"'
    answers.cut_after = [100_000]
    settings = TransferSettings(attempts=3, timeout_seconds=5.0, first_delay_seconds=0.01)
    path = fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=settings)
    assert path.read_bytes() == answers.files["veri_test.txt"]
    assert answers.ranges == [None, None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (content(37_719, 18_860), "has 37,719 trials, 18,860 of them of one speaker, but voxceleb1-o has 37,720 and 18,860"),
        (content(37_720, 18_861), "has 37,720 trials, 18,861"),
        (b"<html>moved</html>", "web page"),
        (b"1 a b\n0 a\n", "line 2"),
    ],
)
def test_another_file_is_refused(body: bytes, message: str, server: str, answers: Answers, tmp_path: Path) -> None:
    answers.files["veri_test.txt"] = body
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=HASTY)
    assert "by other means" in str(caught.value) and ".part" not in str(caught.value)
    assert not list(tmp_path.glob("*.txt")) and not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".*.part"))


def test_a_list_that_changed_is_noticed(server: str, answers: Answers, tmp_path: Path) -> None:
    path = fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=HASTY)
    before = path.read_bytes()
    other = content(37_720, 18_860, name="id10271")
    path.write_bytes(other)
    with pytest.raises(DataError, match="at first use it had"):
        fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=HASTY)
    path.write_bytes(before)
    answers.files["veri_test.txt"] = other
    with pytest.raises(DownloadError, match="at first use it had"):
        fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=HASTY, force_reload=True)
    assert path.read_bytes() == before
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(DataError, match="not a record of a fetched list"):
        fetch_official_list("voxceleb1-o", tmp_path, source=server, settings=HASTY)


def test_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(DownloadError, match="holds no veri_test.txt"):
        fetch_official_list("voxceleb1-o", tmp_path / "lists", source=str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "veri_test.txt").write_bytes(content(37_720, 18_860))
    assert len(read_trials(fetch_official_list("voxceleb1-o", tmp_path / "lists", source=str(tmp_path / "mirror")))) == 37_720
    with pytest.raises(InputError, match="neither an http"):
        fetch_official_list("voxceleb1-o", tmp_path / "lists", source=str(tmp_path / "absent"))


@pytest.mark.shared
def test_the_real_list(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    packed = (shared / "corpora/trials/voxceleb1-o-original.txt.gz").read_bytes()
    (tmp_path / "mirror" / "veri_test.txt").write_bytes(gzip.decompress(packed))
    assert fetch_official_list("voxceleb1-o", tmp_path, source=str(tmp_path / "mirror")).is_file()
