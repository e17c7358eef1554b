"""Every command line in the pages could be typed: verbs, options, configuration keys, released names and make targets exist."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
import yaml

from mrl.cli.main import VERBS, cli
from mrl.pretrained import find_bundled, find_by_name
from mrl.training import load_config
from tests.docs.markdown import ROOT, fenced_blocks, pages

_ENVIRONMENT = re.compile(r"[A-Z][A-Z_]*=")


def _command_lines() -> list[tuple[str, list[str]]]:
    """(place, words) of every command in bash blocks, without leading environment settings."""
    found: list[tuple[str, list[str]]] = []
    for page in pages():
        for block in fenced_blocks(page, "bash"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and _ENVIRONMENT.match(words[0]):
                    words.pop(0)
                if words:
                    found.append((block.place, words))
    return found


COMMANDS = _command_lines()


def _mrl_arguments(words: list[str]) -> list[str] | None:
    """Arguments of ``mrl``, if that is what the words call, directly or by train.py."""
    if Path(words[0]).name == "mrl":
        return words[1:]
    if words[:3] == ["python", "-m", "mrl"]:
        return words[3:]
    if words[0] == "torchrun" and words[3:5] == ["-m", "mrl"]:
        return words[5:]
    if Path(words[0]).name in ("python", "python3", "torchrun") and "train.py" in words:
        return ["train", *words[words.index("train.py") + 1 :]]
    return None


MRL_COMMANDS = [(place, arguments) for place, words in COMMANDS if (arguments := _mrl_arguments(words)) is not None]


def _parse(group: click.Group, arguments: list[str]) -> tuple[list[str], dict[str, object]]:
    """Parse as click would and return the verbs and the last one's parameters; a mistake raises click.UsageError."""
    position = next((at for at, word in enumerate(arguments) if not word.startswith("-")), None)
    if position is None:
        group.make_context("mrl", [*arguments])  # --version or --help
        return [], {}
    name = arguments[position]
    command = group.get_command(click.Context(group), name)
    assert command is not None, f"no verb {name!r}"
    if isinstance(command, click.Group):
        names, parameters = _parse(command, arguments[position + 1 :])
        return [name, *names], parameters
    try:
        context = command.make_context(name, arguments[position + 1 :])
    except click.exceptions.Exit:  # --help
        return [name], {}
    return [name], context.params


@pytest.fixture(autouse=True)
def _no_speaker_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--speakers`` is read while the command line is parsed, and the files that the pages name do not exist."""
    monkeypatch.setattr("mrl.trials.read_speakers", lambda path: {})


def test_there_are_commands_to_check() -> None:
    assert len(MRL_COMMANDS) > 30
    assert {_parse(cli, arguments)[0][0] for _, arguments in MRL_COMMANDS if arguments[0] in VERBS} == set(VERBS)


@pytest.mark.parametrize(
    ("place", "arguments"), MRL_COMMANDS, ids=[f"{place} {' '.join(words)}" for place, words in MRL_COMMANDS]
)
def test_mrl_commands_parse(place: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    try:
        verbs, parameters = _parse(cli, arguments)
    except click.exceptions.Exit:
        return
    if verbs == ["train"]:
        configs, overrides = parameters["configs"], parameters["overrides"]
        assert isinstance(configs, tuple) and isinstance(overrides, tuple)
        for config in configs:
            assert config.is_file(), f"{place}: {config} is not in the project"
        load_config(configs, overrides)
    if verbs[0] == "pretrained" and "name" in parameters and find_bundled(str(parameters["name"])) is None:
        find_by_name(str(parameters["name"]))
    if verbs == ["pretrained", "copy"]:
        assert find_bundled(str(parameters["model"])) is not None
    for name in ("model", "baseline"):
        value = parameters.get(name)
        if isinstance(value, str) and re.fullmatch(r"[bSM]\d?(-\S+)?", value) and not value.endswith(".pt"):
            find_by_name(value)


@pytest.mark.parametrize("place", ["make", "python"])
def test_other_commands(place: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    checked = 0
    for where, words in COMMANDS:
        if words[0] != place or _mrl_arguments(words) is not None:
            continue
        if place == "make":
            asked = [word for word in words[1:] if not _ENVIRONMENT.match(word)]
            assert set(asked) <= targets, f"{where}: {words}"
        elif words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{where}: {words}"
            if words[1] == "example_pretrained.py":
                runpy.run_path(str(ROOT / words[1]))["parse_arguments"](words[2:])
        checked += 1
    assert checked


def _options(verb: str) -> list[click.Option]:
    context = click.Context(cli)
    command = cli.get_command(context, verb)
    assert command is not None
    group = isinstance(command, click.Group)
    commands = [command.get_command(context, name) for name in command.list_commands(context)] if group else [command]
    return [parameter for one in commands if one for parameter in one.params if isinstance(parameter, click.Option)]


def _names(options: list[click.Option]) -> set[str]:
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_described(verb: str) -> None:
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    section = re.search(rf"^## mrl {verb}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no section on mrl {verb}"
    options = _options(verb)
    assert [option.name for option in options if not (option.help or "").strip()] == []
    names = _names(options)
    common, introduction = {"-q", "--quiet", "-v", "--verbose"}, text.split("\n## MODEL")[0]  # of every verb, described once
    for described_once, names_there in ((section[1], names - common), (introduction, names & common)):
        assert [name for name in sorted(names_there) if not re.search(rf"(?<![\w-]){name}(?![\w-])", described_once)] == []
    by_hand = re.sub(r"<!-- help: .*?<!-- end -->", "", section[1], flags=re.DOTALL)
    described = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", by_hand))
    assert described <= names, f"not options of mrl {verb}: {described - names}"
    # A help text may name another verb's options, but none that no verb has.
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", section[1]))
    unknown = mentioned - {"--help"}.union(*(_names(_options(other)) for other in VERBS))
    assert not unknown, f"options of no verb: {unknown}"


@pytest.mark.parametrize(
    "block", [block for page in pages() for block in fenced_blocks(page, "yaml")], ids=lambda block: str(block.place)
)
def test_yaml_blocks_are_configurations(block: object, tmp_path: Path) -> None:
    text = block.text  # type: ignore[attr-defined]
    path = tmp_path / "page.yaml"
    path.write_text(text, encoding="utf-8")
    found = load_config([path]).to_dict()
    for section, keys in yaml.safe_load(text).items():
        for key, value in keys.items():
            if not isinstance(value, dict):
                assert found[section][key] == value
