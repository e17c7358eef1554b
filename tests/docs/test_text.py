"""Links lead somewhere, and no file tells on whose machine it was written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mrl.version import __version__
from tests.docs.markdown import ROOT, anchors, links, pages

_BINARY = {".npz", ".npy", ".wav", ".flac", ".png", ".pt", ".onnx", ".safetensors", ".gz", ".parquet"}
_TELLING = {
    "the path of a machine": re.compile(r"(?<![\w.~-])/(?:work|root|workspace|home/(?!someone/)\w+|Users/\w+|mnt/\w+)/"),
    "a package index": re.compile(
        r"\bpypi\.org/simple|\bdownload\.pytorch\.org|\bartifactory\b|files\.pythonhosted|https?://\S*/simple/"
    ),
    "an option that names a package index": re.compile(r"--(?:extra-index-url|index-url|find-links|trusted-host)[ =]"),
}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_project(page: Path) -> None:
    broken = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(link)
    assert broken == []


def test_pages_that_the_code_names_exist() -> None:
    named = {
        (name.rstrip("."), str(file.relative_to(ROOT)))
        for folder in ("src", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bdocs/(?!(?:results|images)\b)[\w./-]+", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert sorted((name, file) for name, file in named if not (ROOT / name).exists()) == []


def _text_files() -> list[Path]:
    """What git tracks, or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("which files belong to the project is known to git only, and this is not a git checkout")
    files = [ROOT / name for name in listed.split("\0") if name]
    return [file for file in files if file.is_file() and file.suffix not in _BINARY]


def test_no_machine_is_named() -> None:
    files = _text_files()
    assert len(files) > 100
    found = [
        f"{file.relative_to(ROOT)}:{number}: {what}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        for what, pattern in _TELLING.items()
        if pattern.search(line) and file != Path(__file__).resolve()
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("see /work/main/src", "the path of a machine"),
        ("cached in /root/.cache", "the path of a machine"),
        ('open("/home/ann/x.wav")', "the path of a machine"),
        ("pip install --extra-index-url https://example.org", "an option that names a package index"),
        ("https://mirror.example.org/pypi/simple/torch", "a package index"),
    ],
)
def test_the_search_finds_what_it_should(line: str, what: str) -> None:
    assert [name for name, pattern in _TELLING.items() if pattern.search(line)] == [what]


def test_ordinary_text_is_not_taken_for_a_machine() -> None:
    for line in ("data.train.folder=/speech/train", "~/.cache/torch/hub", "--no-emit-index-url", "docs/work/x", "a/home/b"):
        assert not any(pattern.search(line) for pattern in _TELLING.values())


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\] - (unreleased|\d{{4}}-\d\d-\d\d)$", text, re.MULTILINE)


def test_extras_in_the_installation_page_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    declared = set(re.findall(r"^([a-z]+) = \[", extras, re.MULTILINE))
    text = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    named = {name for names in re.findall(r"\.\[([a-z,]+)\]", text) for name in names.split(",")}
    assert named and named <= declared
