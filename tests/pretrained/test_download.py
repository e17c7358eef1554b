"""From a name, path or address to a verified file: cache, hashes, mirrors, locks, licences."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from mrl.errors import DownloadError, InputError
from mrl.pretrained import PretrainedCheckpoint, TransferSettings, fetch_checkpoint, find_by_name, resolve_weights
from mrl.pretrained import registry as registry_module
from mrl.pretrained.cache import checkpoint_folder, record_path
from mrl.pretrained.download import cached_checkpoint
from tests.pretrained.servers import Answers

B0 = find_by_name("b0-vox2-ptn")
B2 = find_by_name("b2-vox2-ft_lm")
VB2 = find_by_name("S-vb2-ptn")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def known(checkpoint: PretrainedCheckpoint, content: bytes) -> PretrainedCheckpoint:
    """The same checkpoint, had this content been published."""
    return dataclasses.replace(checkpoint, sha256=sha256(content), num_bytes=len(content))


@pytest.fixture
def mirrored(server: str, answers: Answers, content: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server as mirror of three released files, all with the same content."""
    answers.files = {checkpoint.file_name: content for checkpoint in (B0, B2, VB2)}
    answers.etags = {name: f'"{name}"' for name in answers.files}
    monkeypatch.setenv("MRL_MIRROR", server)
    return server


def only_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} if folder.exists() else set()


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cache_is_the_one_of_torch_hub(cache: Path, content: bytes) -> None:
    """torch.hub's own loader, which the official code calls, finds the same file under the same name."""
    assert checkpoint_folder() == cache
    cache.mkdir(parents=True)
    (cache / VB2.file_name).write_bytes(content)
    loaded = torch.hub.load_state_dict_from_url(VB2.url, progress=False)
    assert loaded["model_config"] == {"F": 60}
    mixed = find_by_name("M")
    assert os.path.basename(urlsplit(mixed.url).path) == mixed.file_name  # noqa: PTH119 (as torch.hub computes it)


def test_set_dir_moves_the_cache(cache: Path, tmp_path: Path) -> None:
    torch.hub.set_dir(str(tmp_path / "elsewhere"))
    assert checkpoint_folder() == tmp_path / "elsewhere" / "checkpoints"


def test_file_fetched_by_the_official_code_is_found(mirrored: str, answers: Answers, cache: Path, content: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / B0.file_name).write_bytes(content)
    local = fetch_checkpoint(B0)
    assert (local.path, local.sha256) == (cache / B0.file_name, sha256(content))
    assert answers.requests == []


def test_first_download_is_recorded(mirrored: str, cache: Path, content: bytes) -> None:
    local = fetch_checkpoint(B0)
    assert local.path.read_bytes() == content
    assert only_files(cache) == {B0.file_name, B0.file_name + ".mrl.json"}
    record = json.loads(record_path(B0.file_name).read_text(encoding="utf-8"))
    assert record == {
        "sha256": sha256(content),
        "num_bytes": len(content),
        "source": mirrored + B0.file_name,
        "licence_shown": False,
    }


def test_second_use_needs_no_server(mirrored: str, answers: Answers) -> None:
    fetch_checkpoint(B0)
    fetch_checkpoint(B0)
    assert len(answers.requests) == 1


def test_known_hash_is_checked(mirrored: str, cache: Path, content: bytes) -> None:
    local = fetch_checkpoint(known(B2, content))
    assert local.sha256 == sha256(content)
    assert only_files(cache) == {B2.file_name}  # nothing to record


def test_wrong_size_and_wrong_hash_are_refused(mirrored: str, answers: Answers, cache: Path, content: bytes) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(B2)
    assert f"holds {len(content):,} bytes where 20,582,650 were expected" in one_line(caught)
    same_size = dataclasses.replace(B2, num_bytes=len(content))
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(same_size)
    message = one_line(caught)
    assert sha256(content) in message and str(B2.sha256) in message
    assert "mrl pretrained download b2-vox2-ft_lm --force-reload" in message
    assert only_files(cache) == set()
    assert len(answers.requests) == 2


def test_damaged_cached_file_is_refused_and_fixed_by_force_reload(
    mirrored: str, cache: Path, content: bytes, hasty: TransferSettings
) -> None:
    wanted = known(B2, content)
    cache.mkdir(parents=True)
    (cache / B2.file_name).write_bytes(content[:-1])
    with pytest.raises(DownloadError, match="force_reload=True"):
        fetch_checkpoint(wanted)
    assert fetch_checkpoint(wanted, force_reload=True).path.read_bytes() == content


def test_change_after_first_use_is_refused(mirrored: str, answers: Answers, cache: Path, content: bytes, tmp_path: Path) -> None:
    fetch_checkpoint(B0)
    answers.files[B0.file_name] = content + b"\0"
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(B0, force_reload=True)
    assert sha256(content) in one_line(caught) and str(record_path(B0.file_name)) in one_line(caught)
    assert (cache / B0.file_name).read_bytes() == content  # the good file stays
    (cache / B0.file_name).write_bytes(content + b"\0")
    with pytest.raises(DownloadError, match="at first use it had"):
        fetch_checkpoint(B0)


def test_deleting_the_record_accepts_the_new_file(mirrored: str, answers: Answers, content: bytes) -> None:
    fetch_checkpoint(B0)
    record_path(B0.file_name).unlink()
    torch.save({"model_config": {"F": 1}, "state_dict": {"w": torch.ones(1)}}, str(record_path("x").parent / "new.pt"))
    answers.files[B0.file_name] = (record_path("x").parent / "new.pt").read_bytes()
    assert fetch_checkpoint(B0, force_reload=True).sha256 == sha256(answers.files[B0.file_name])


def test_damaged_record(mirrored: str) -> None:
    fetch_checkpoint(B0)
    record_path(B0.file_name).write_text("{", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"the record .*\.mrl\.json is damaged .*; delete it"):
        fetch_checkpoint(B0)


@pytest.mark.parametrize("wrong", [b"PK\x03\x04 cut off", b"not a checkpoint at all", b"<html>login</html>"])
def test_nonsense_is_never_recorded(mirrored: str, answers: Answers, cache: Path, hasty: TransferSettings, wrong: bytes) -> None:
    answers.files[B0.file_name] = wrong
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(B0, settings=hasty)
    assert B0.file_name in one_line(caught)
    assert only_files(cache) == set()


def test_nonsense_in_the_cache_is_never_recorded(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / B0.file_name).write_bytes(b"<html>")
    with pytest.raises(DownloadError, match="is a web page"):
        fetch_checkpoint(B0)
    assert only_files(cache) == {B0.file_name}


def test_truncated_body_leaves_no_file_under_its_name(
    mirrored: str, answers: Answers, cache: Path, content: bytes, hasty: TransferSettings
) -> None:
    answers.cut_after = [3000, 3000, 3000]
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(B0, settings=hasty)
    assert f"ended after 9,000 of {len(content):,} bytes (3 attempts)" in one_line(caught)
    assert not (cache / B0.file_name).exists()
    assert fetch_checkpoint(B0, settings=hasty).path.read_bytes() == content  # goes on from there
    assert answers.ranges[-1] == "bytes=9000-"
    assert only_files(cache) == {B0.file_name, B0.file_name + ".mrl.json"}


def test_parts_that_do_not_fit_are_fetched_again(mirrored: str, answers: Answers, cache: Path, content: bytes) -> None:
    answers.etags.clear()
    wanted = known(B2, content)
    answers.files[B2.file_name] = bytes(len(content))
    answers.cut_after = [3000]
    with pytest.raises(DownloadError):
        fetch_checkpoint(wanted, settings=TransferSettings(attempts=1))
    answers.files[B2.file_name] = content
    assert fetch_checkpoint(wanted).path.read_bytes() == content
    assert answers.ranges == [None, "bytes=3000-", None]


def test_404_and_no_network_say_where_to_put_the_file(
    server: str, cache: Path, hasty: TransferSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRL_MIRROR", server)
    for reason in ("HTTP 404", "no connection"):
        with pytest.raises(DownloadError) as caught:
            fetch_checkpoint(VB2, settings=hasty)
        message = one_line(caught)
        assert reason in message
        assert VB2.url in message and str(cache / VB2.file_name) in message and "MRL_MIRROR" in message
        assert only_files(cache) == set()
        monkeypatch.setenv("MRL_MIRROR", "http://127.0.0.1:9/")  # the port "discard": nobody listens


def test_official_address_is_asked_without_a_mirror(
    server: str, answers: Answers, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The '+' of the data set is sent as it stands."""
    monkeypatch.setattr(registry_module, "RELEASE_URL", server)
    mixed = find_by_name("M")
    answers.files[mixed.file_name] = content
    fetch_checkpoint(mixed)
    assert answers.requests[0][0].endswith("/M-vb2+vox2+cnc-ft_mix.pt")


def test_mirror_variable_as_folder(tmp_path: Path, cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / B0.file_name).write_bytes(content)
    for value in (str(mirror), mirror.as_uri()):
        monkeypatch.setenv("MRL_MIRROR", value)
        assert fetch_checkpoint(B0, force_reload=True).path == cache / B0.file_name
    assert (cache / B0.file_name).read_bytes() == content
    with pytest.raises(DownloadError) as caught:
        fetch_checkpoint(VB2)
    assert f"the mirror {mirror} holds no {VB2.file_name}" in one_line(caught)
    monkeypatch.setenv("MRL_MIRROR", str(tmp_path / "absent"))
    with pytest.raises(DownloadError, match="neither a folder nor an"):
        fetch_checkpoint(VB2)


def test_weights_as_local_file(tmp_path: Path, cache: Path, content: bytes) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    for weights in (path, str(path), path.as_uri()):
        local = resolve_weights(weights)
        assert (local.path, local.sha256, local.checkpoint) == (path, sha256(content), None)
    assert only_files(cache) == set()


def test_own_file_under_a_released_name_is_used_and_said(
    tmp_path: Path, cache: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / B2.file_name
    path.write_bytes(content)
    assert resolve_weights(path).checkpoint is None
    assert "another SHA-256" in caplog.text


def test_own_file_with_a_known_hash_is_recognised(
    tmp_path: Path, cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = tmp_path / "renamed.pt"
    renamed.write_bytes(content)
    wanted = known(B2, content)
    monkeypatch.setattr(registry_module, "_CHECKPOINTS", (wanted,))
    assert resolve_weights(renamed).checkpoint == wanted


def test_weights_as_folder(tmp_path: Path, cache: Path, content: bytes) -> None:
    (tmp_path / "mirror").mkdir()
    path = tmp_path / "mirror" / B0.file_name
    path.write_bytes(content)
    assert resolve_weights(tmp_path / "mirror", B0).path == path  # in place
    with pytest.raises(DownloadError, match=f"holds no {VB2.file_name}"):
        resolve_weights(tmp_path / "mirror", VB2)
    with pytest.raises(InputError, match="is a mirror"):
        resolve_weights(tmp_path / "mirror")
    path.write_bytes(content + b"\0")
    with pytest.raises(DownloadError, match="at first use it had"):
        resolve_weights(tmp_path / "mirror", B0)


def test_weights_as_address(server: str, answers: Answers, cache: Path, content: bytes) -> None:
    answers.files = {"mine.pt": content, B0.file_name: content}
    first = resolve_weights(server + "mine.pt")
    assert first.path.parent == cache and first.path.name.startswith("mine-") and first.checkpoint is None
    assert resolve_weights(server + "mine.pt") == first
    assert len(answers.requests) == 1
    # Another address with the same file name is another file.
    assert resolve_weights(server + "other/mine.pt").path != first.path
    assert resolve_weights(server + B0.file_name).path == cache / B0.file_name
    assert resolve_weights(server, B0).path == cache / B0.file_name


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("absent.pt", "no such file or folder"),
        ("ftp://host/f.pt", "only http, https and file addresses"),
        ("http://host", "names no file"),
    ],
)
def test_unusable_weights(cache: Path, weights: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        resolve_weights(weights)


def test_licence_is_shown_once_per_cache(mirrored: str, caplog: pytest.LogCaptureFixture, answers: Answers) -> None:
    fetch_checkpoint(VB2)
    told = [record for record in caplog.records if "CC-BY-NC-SA-4.0" in record.getMessage()]
    assert len(told) == 1 and told[0].levelno == logging.WARNING
    caplog.clear()
    fetch_checkpoint(VB2)
    fetch_checkpoint(VB2, force_reload=True)
    assert caplog.messages == []
    assert json.loads(record_path(VB2.file_name).read_text(encoding="utf-8"))["sha256"] is not None


def test_commercial_weights_show_no_licence(mirrored: str, caplog: pytest.LogCaptureFixture) -> None:
    fetch_checkpoint(B0)
    assert caplog.messages == []


def test_two_threads_download_once(mirrored: str, answers: Answers) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch_checkpoint(B0).path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert len(answers.requests) == 1


def test_two_processes_download_once(mirrored: str, answers: Answers, cache: Path, content: bytes) -> None:
    code = (
        "import sys, torch; from mrl.pretrained import fetch_checkpoint, find_by_name;"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(fetch_checkpoint(find_by_name('b0-vox2-ptn')).sha256)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == [sha256(content) + "\n"] * 2
    assert len(answers.requests) == 1
    assert only_files(cache) == {B0.file_name, B0.file_name + ".mrl.json"}


def test_process_killed_in_the_middle_leaves_a_usable_cache(mirrored: str, answers: Answers, cache: Path, content: bytes) -> None:
    answers.stall_after = 4000
    code = "from mrl.pretrained import fetch_checkpoint, find_by_name; fetch_checkpoint(find_by_name('b0-vox2-ptn'))"
    process = subprocess.Popen([sys.executable, "-c", code])
    partial = cache / f".{B0.file_name}.part"
    waiting = threading.Event()
    while process.poll() is None and not (partial.exists() and partial.stat().st_size == 4000):
        waiting.wait(0.02)
    process.kill()
    process.wait()
    assert not (cache / B0.file_name).exists()
    answers.stall_after = None
    assert fetch_checkpoint(B0).path.read_bytes() == content
    assert answers.ranges == [None, "bytes=4000-"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_cache_with_the_file_is_usable(cache: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir(parents=True)
    (cache / B0.file_name).write_bytes(content)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert fetch_checkpoint(B0).sha256 == sha256(content)
    finally:
        cache.chmod(stat.S_IRWXU)
    assert "cannot record" in caplog.text


def test_unwritable_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot write to the cache .*; set TORCH_HOME"):
        fetch_checkpoint(B0)


def test_unwritable_record_is_said(mirrored: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mrl.pretrained.download.write_record", refuse)
    fetch_checkpoint(B0)
    assert "cannot record what was found about b0-vox2-ptn.pt" in caplog.text


def test_cached_checkpoint_never_downloads(mirrored: str, answers: Answers) -> None:
    with pytest.raises(DownloadError, match="mrl pretrained download b0-vox2-ptn"):
        cached_checkpoint(B0)
    assert answers.requests == []
