"""One address into one file: faults of the server, resumption."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from mrl.errors import DownloadError
from mrl.transfer import TransferSettings, fetch_url
from tests.pretrained.servers import Answers, serving

BODY = os.urandom(50_000)


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / ".f.pt.part"


def state_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def test_whole_file(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    assert fetch_url(server + "f.pt", partial, settings=hasty) is False
    assert partial.read_bytes() == BODY


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_status_is_tried_again(
    server: str, answers: Answers, partial: Path, hasty: TransferSettings, status: int
) -> None:
    answers.files["f.pt"] = BODY
    answers.statuses = [status, status]
    answers.retry_after = "0"
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY
    assert [entry[2] for entry in answers.requests] == [status, status, 200]


def test_passing_status_that_stays(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.statuses = [500] * 9
    with pytest.raises(DownloadError, match=r"HTTP 500 .*\(3 attempts\)"):
        fetch_url(server + "f.pt", partial, settings=hasty)
    assert len(answers.requests) == 3
    assert not partial.exists()


def test_404_is_not_tried_again(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    with pytest.raises(DownloadError, match=r"HTTP 404 .* for http://127\.0\.0\.1"):
        fetch_url(server + "absent.pt", partial, settings=hasty)
    assert len(answers.requests) == 1
    assert not partial.exists()


def test_cut_body_is_resumed(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    answers.cut_after = [10_000, 20_000]
    assert fetch_url(server + "f.pt", partial, settings=hasty) is True
    assert partial.read_bytes() == BODY
    assert answers.ranges == [None, "bytes=10000-", "bytes=30000-"]
    assert [entry[2] for entry in answers.requests] == [200, 206, 206]


def test_resumed_by_a_later_call(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    answers.cut_after = [10_000]
    with pytest.raises(DownloadError, match=r"ended after 10,000 of 50,000 bytes"):
        fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=1))
    assert partial.stat().st_size == 10_000
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY
    assert answers.ranges == [None, "bytes=10000-"]


def test_without_a_mark_a_cut_file_is_begun_again(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.cut_after = [10_000]
    assert fetch_url(server + "f.pt", partial, settings=hasty) is False
    assert partial.read_bytes() == BODY
    assert answers.ranges == [None, None]


def test_without_a_mark_nothing_is_left_behind(server: str, answers: Answers, partial: Path) -> None:
    answers.files["f.pt"] = BODY
    answers.cut_after = [10_000]
    with pytest.raises(DownloadError):
        fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=1))
    assert list(partial.parent.glob("*part*")) == []


def test_without_a_mark_but_with_a_known_hash_it_is_resumed(
    server: str, answers: Answers, partial: Path, hasty: TransferSettings
) -> None:
    answers.files["f.pt"] = BODY
    answers.cut_after = [10_000]
    assert fetch_url(server + "f.pt", partial, will_be_verified=True, settings=hasty) is True
    assert partial.read_bytes() == BODY
    assert answers.ranges == [None, "bytes=10000-"]


def test_range_ignored(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    answers.ignore_range = True
    answers.cut_after = [10_000]
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY
    assert [entry[2] for entry in answers.requests] == [200, 200]


@pytest.mark.parametrize("new_size", [5_000, 50_000, 60_000])
def test_file_replaced_between_the_parts(
    server: str, answers: Answers, partial: Path, hasty: TransferSettings, new_size: int
) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    answers.cut_after = [10_000]
    with pytest.raises(DownloadError):
        fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=1))
    answers.files["f.pt"] = replaced = os.urandom(new_size)
    answers.etags["f.pt"] = '"two"'
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == replaced


@pytest.mark.parametrize("new_size", [5_000, 60_000])
def test_size_changed_on_a_server_without_marks(
    server: str, answers: Answers, partial: Path, hasty: TransferSettings, new_size: int
) -> None:
    answers.files["f.pt"] = BODY
    answers.cut_after = [10_000]
    with pytest.raises(DownloadError):
        fetch_url(server + "f.pt", partial, will_be_verified=True, settings=TransferSettings(attempts=1))
    answers.files["f.pt"] = replaced = os.urandom(new_size)
    fetch_url(server + "f.pt", partial, will_be_verified=True, settings=hasty)
    assert partial.read_bytes() == replaced


def test_complete_part_needs_no_more_bytes(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert fetch_url(server + "f.pt", partial, settings=hasty) is True
    assert partial.read_bytes() == BODY
    assert [entry[2] for entry in answers.requests] == [200, 416]


def test_part_of_another_address_is_not_used(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files = {"f.pt": BODY, "g.pt": BODY[::-1]}
    answers.etags = {"f.pt": '"one"', "g.pt": '"one"'}
    answers.cut_after = [10_000]
    with pytest.raises(DownloadError):
        fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=1))
    fetch_url(server + "g.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY[::-1]


def test_damaged_note_means_beginning_again(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    partial.write_bytes(b"x" * 10)
    state_path(partial).write_text("{", encoding="utf-8")
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY


def test_silence(server: str, answers: Answers, partial: Path) -> None:
    answers.files["f.pt"] = BODY
    answers.stall_after = 1000
    settings = TransferSettings(attempts=1, timeout_seconds=0.3)
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+ was silent for 0\.3 s"):
        fetch_url(server + "f.pt", partial, settings=settings)


def test_answer_of_unknown_length(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    answers.no_length = True
    fetch_url(server + "f.pt", partial, settings=hasty)
    assert partial.read_bytes() == BODY


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_page(server: str, answers: Answers, partial: Path, hasty: TransferSettings, content_type: str) -> None:
    answers.files["f.pt"] = b"\n<!DOCTYPE html><html>Please log in</html>"
    answers.content_type = content_type
    with pytest.raises(DownloadError, match="web page instead of the file"):
        fetch_url(server + "f.pt", partial, settings=hasty)
    assert len(answers.requests) == 1
    assert list(partial.parent.glob("*part*")) == []


def test_unexpected_size(server: str, answers: Answers, partial: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    with pytest.raises(DownloadError, match=r"holds 50,000 bytes where 49,999 were expected"):
        fetch_url(server + "f.pt", partial, expected_bytes=49_999, settings=hasty)
    assert not partial.exists()


def test_nobody_listens(cache: Path, partial: Path, hasty: TransferSettings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match=rf"no connection to 127\.0\.0\.1:{port}: .*\(3 attempts\)"):
        fetch_url(f"http://127.0.0.1:{port}/f.pt", partial, settings=hasty)


def test_no_name_service(cache: Path, partial: Path, hasty: TransferSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DownloadError, match=r"no network: the host models\.example cannot be found"):
        fetch_url("https://models.example/f.pt", partial, settings=hasty)


def test_unusable_address(partial: Path, hasty: TransferSettings) -> None:
    with pytest.raises(DownloadError, match="is not a usable address"):
        fetch_url("http://127.0.0.1:1/a b.pt", partial, settings=hasty)


def test_back_off_doubles_and_retry_after_is_obeyed(
    server: str, answers: Answers, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("mrl.transfer.time.sleep", pauses.append)
    answers.files["f.pt"] = BODY
    answers.statuses = [500, 500, 500]
    fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=4, first_delay_seconds=0.5))
    assert pauses == [0.5, 1.0, 2.0]
    pauses.clear()
    answers.statuses = [503]
    answers.retry_after = "7"
    fetch_url(server + "f.pt", partial, settings=TransferSettings(attempts=2))
    assert pauses == [7.0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_full_disk(server: str, answers: Answers, tmp_path: Path, hasty: TransferSettings) -> None:
    answers.files["f.pt"] = BODY
    partial = tmp_path / ".f.pt.part"
    partial.symlink_to("/dev/full")
    note = {"url": server + "f.pt", "validator": '"one"', "total": len(BODY)}
    state_path(partial).write_text(json.dumps(note), encoding="utf-8")
    with pytest.raises(DownloadError, match=r"cannot write to .*No space left"):
        fetch_url(server + "f.pt", partial, settings=hasty)
    assert list(tmp_path.glob(".f.pt*")) == []
    assert len(answers.requests) == 1


def test_server_gone_between_the_parts(answers: Answers, cache: Path, partial: Path) -> None:
    answers.files["f.pt"] = BODY
    answers.etags["f.pt"] = '"one"'
    answers.cut_after = [10_000]
    with serving(answers) as address, pytest.raises(DownloadError):
        fetch_url(address + "f.pt", partial, settings=TransferSettings(attempts=1))
    with pytest.raises(DownloadError, match="no connection"):
        fetch_url(address + "f.pt", partial, settings=TransferSettings(attempts=1))
    assert partial.read_bytes() == BODY[:10_000]
