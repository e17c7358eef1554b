"""The page in a real browser: a token, files, the microphone, results, a telephone's screen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrl.serving import Limits
from tests.serving.browser import Page, browser, find_browser
from tests.serving.makers import TOKEN, application, embedder, recording, running

_RESULT = "document.querySelector('#result').innerText"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for name, seed in (("anna-1", 1), ("anna-2", 8), ("bernd", 3), ("other", 5)):
        (folder / f"{name}.wav").write_bytes(recording(seed, seconds=3))
    (folder / "microphone.wav").write_bytes(recording(3, seconds=10, rate=48_000))
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("browser") / "v.sqlite"
    limits = Limits(max_bytes=400_000)
    with application(store, model=embedder(calibrated=True), limits=limits) as app, running(app) as place:
        yield place


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Page]:
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium or Chrome, which is not installed: the page itself is not tested")
    with browser(program, tmp_path_factory.mktemp("profile") / "new", microphone=files / "microphone.wav") as opened:
        yield opened


def _enrol(page: Page, name: str, *files: Path) -> None:
    page.run("document.querySelector('#tab-enrol').click()")
    page.run(f"document.querySelector('#enrol-name').value = {name!r}")
    page.choose_files("#enrol .file", *files)
    page.wait(f"document.querySelectorAll('#enrol .chosen li').length === {len(files)}")
    page.run("document.querySelector('#enrol button.primary').click()")
    page.wait(f"{_RESULT}.includes('{name} is enrolled') && !document.querySelector('#enrol button.primary').disabled")


def test_the_page(page: Page, address: str, files: Path, tmp_path: Path) -> None:
    page.resize(390, 844)
    page.open(f"{address}/")
    page.wait("document.querySelector('#token-form') && !document.querySelector('#token-form').hidden")
    page.run("document.querySelector('#token').value = 'not-the-token-at-all'")
    page.run("document.querySelector('#token-form button').click()")
    page.wait("document.querySelector('#token-note').textContent.includes('token is missing or wrong')")
    assert page.run("document.querySelector('#work').hidden")

    page.open(f"{address}/#token={TOKEN}")  # no reload: only the fragment differs
    page.wait("document.querySelector('#model') && document.querySelector('#model').textContent === 'tiny.onnx, 24 dims'")
    assert page.run("location.href") == f"{address}/"  # the token is out of the address
    _enrol(page, "Anna", files / "anna-1.wav", files / "anna-2.wav")
    _enrol(page, "Bernd", files / "bernd.wav")
    assert page.run("[...document.querySelectorAll('#voices li')].map((row) => row.innerText.replace(/\\s+/g, ' '))") == [
        "Anna 2 recordings, 6.0 s Delete",
        "Bernd 1 recording, 3.0 s Delete",
    ]

    page.run("document.querySelector('#tab-verify').click()")
    page.run("document.querySelector('#verify-name').value = 'Bernd'")
    page.choose_files("#verify .file", files / "bernd.wav")
    page.run("document.querySelector('#verify button.primary').click()")
    page.wait(f"{_RESULT}.includes('The voice of Bernd')")
    assert "Decided by 24 dims, prior 0.05: yes from a log-likelihood ratio of 2.94 on." in page.run(_RESULT)
    shown = "[...document.querySelectorAll('#result .score')].map((row) => row.innerText.replace(/\\s+/g, ' '))"
    assert page.run(shown) == [
        "8 dims 1.000 log-likelihood ratio 7.00",
        "16 dims 1.000",
        "24 dims 1.000 log-likelihood ratio 5.00",
    ]
    assert page.run("[...document.querySelectorAll('#result .fill')].map((fill) => fill.style.width)") == ["100%"] * 3

    page.run("document.querySelector('#tab-identify').click()")
    page.choose_files("#identify .file", files / "bernd.wav")
    page.run("document.querySelector('#identify button.primary').click()")
    page.wait(f"{_RESULT}.startsWith('Bernd')")
    assert page.run("document.querySelectorAll('#result .voice-scores').length") == 2
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")  # nothing sticks out of a telephone's screen
    page.screenshot(Path(os.environ.get("MRL_SCREENSHOT", tmp_path / "identified.png")))

    page.choose_files("#identify .file", files / "microphone.wav")  # a megabyte
    page.wait("document.querySelector('#identify .note').textContent.includes('0.4 MB at most')")


def test_the_microphone(page: Page, address: str) -> None:
    page.open("about:blank")
    page.open(f"{address}/#token={TOKEN}")
    page.wait("document.querySelector('#voices li button')")
    page.run("document.querySelector('#identify .record').click()")
    page.wait("document.querySelector('#identify .record').getAttribute('aria-pressed') === 'true'")
    page.wait("document.querySelector('#identify .note').textContent.startsWith('Recording: 2 s')")
    page.run("document.querySelector('#identify .record').click()")
    name = page.wait(
        "document.querySelector('#identify .chosen .name') && document.querySelector('#identify .chosen .name').innerText"
    )
    assert name.startswith("recording at ") and name.endswith(".webm")
    page.run("document.querySelector('#identify button.primary').click()")
    page.wait("document.querySelectorAll('#result .voice-scores').length === 2")
    assert page.run("document.querySelector('#result .voice-scores h3').innerText") == "Bernd"  # whom the microphone plays
    assert float(page.run("document.querySelector('#result .score:last-child .value').innerText")) > 0.8


def test_every_control_has_a_name(page: Page, address: str) -> None:
    page.open("about:blank")
    page.open(f"{address}/#token={TOKEN}")
    page.wait("document.querySelector('#voices li button')")
    for tab in ("identify", "verify", "enrol"):
        page.run(f"document.querySelector('#tab-{tab}').click()")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        controls = [
            node
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in ("button", "textbox", "combobox", "checkbox", "tab", "link")
        ]
        assert len(controls) >= 7
        assert [node for node in controls if not node["name"]["value"].strip()] == []
    page.run(
        "document.querySelector('#tab-enrol').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}))"
    )
    assert page.run("document.activeElement.id") == "tab-identify"


def test_nothing_comes_from_elsewhere_and_nothing_is_blocked(page: Page, address: str) -> None:
    page.events.clear()
    page.open("about:blank")
    page.open(f"{address}/#token={TOKEN}")
    page.wait("document.querySelector('#voices li')")
    page.open(f"{address}/docs")
    page.wait("document.querySelector('h3') && document.querySelector('h3').innerText === 'GET /api/health'")
    requested = [event["params"]["request"]["url"] for event in page.events if event.get("method") == "Network.requestWillBeSent"]
    assert len(requested) >= 7
    assert [url for url in requested if not url.startswith((f"{address}/", "blob:", "data:", "about:"))] == []
    complaints = [
        event["params"] for event in page.events if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
    ]
    assert complaints == []
