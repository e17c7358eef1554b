"""The frame of the command line: lazy verbs, errors in one line, exit statuses."""

from __future__ import annotations

import logging
import subprocess
import sys
import types

import click
import pytest

from mrl.cli import main as frame
from mrl.errors import InputError
from mrl.version import __version__


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb ``trial`` whose command does what ``module.action`` says."""
    module = types.ModuleType("mrl.cli.trial")

    @click.command()
    @click.option("--times", type=int, default=1)
    @click.pass_context
    def command(ctx: click.Context, times: int) -> None:
        module.action(ctx, times)

    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mrl.cli.trial", module)
    monkeypatch.setitem(frame.VERBS, "trial", "Try something.")
    monkeypatch.delenv("MRL_DEBUG", raising=False)
    return module


def set_action(module: types.ModuleType, error: BaseException) -> None:
    def action(ctx: click.Context, times: int) -> None:
        raise error

    module.action = action  # type: ignore[attr-defined]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["--version"]) == 0
    assert capsys.readouterr().out == f"mrl, version {__version__}\n"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.run(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, line in frame.VERBS.items():
        assert name in printed and line.split()[0] in printed


def test_help_imports_neither_torch_nor_verbs() -> None:
    code = (
        "import sys; from mrl.cli.main import run; status = run(['--help'])\n"
        "allowed = ('mrl.cli', 'mrl.cli.main', 'mrl.cli.interrupting', 'mrl.cli.output')\n"
        "heavy = [name for name in sys.modules if name.startswith(('torch', 'numpy', 'mrl.cli')) and name not in allowed]\n"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "mrl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mrl, version {__version__}\n"


@pytest.mark.parametrize("name", list(frame.VERBS))
def test_every_verb_has_its_command(name: str) -> None:
    command = frame.cli.get_command(click.Context(frame.cli), name)
    assert isinstance(command, click.Command) and (command.help or "").strip()


def test_enrol_is_another_spelling_of_enroll(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(frame.cli)
    assert frame.cli.get_command(context, "enrol") is frame.cli.get_command(context, "enroll") is not None
    assert frame.run(["enrol", "--help"]) == 0
    assert "Enrol a voice" in capsys.readouterr().out


def test_verb_runs_with_its_options(verb: types.ModuleType) -> None:
    seen = []
    verb.action = lambda ctx, times: seen.append(times)  # type: ignore[attr-defined]
    assert frame.run(["trial", "--times", "3"]) == 0
    assert seen == [3]


def test_own_errors_are_one_line(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    set_action(verb, InputError("found 3,\n  expected 4; give 4"))
    assert frame.run(["trial"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "mrl trial: error: found 3, expected 4; give 4\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/data/out.npz"), "No space left on device: /data/out.npz"),
        (PermissionError(13, "Permission denied", "a", None, "b"), "Permission denied: a: b"),
        (OSError("something odd"), "something odd"),
    ],
)
def test_errors_of_the_system_are_one_line(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    set_action(verb, error)
    assert frame.run(["trial"]) == 2
    assert capsys.readouterr().err == f"mrl trial: error: {line}\n"


@pytest.mark.parametrize("by_option", [True, False])
def test_debug_shows_the_traceback(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    set_action(verb, InputError("wrong"))
    if not by_option:
        monkeypatch.setenv("MRL_DEBUG", "1")
    assert frame.run(["--debug", "trial"] if by_option else ["trial"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and printed.endswith("mrl trial: error: wrong\n")


def test_bugs_are_not_hidden(verb: types.ModuleType) -> None:
    set_action(verb, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        frame.run(["trial"])


def test_interruption(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    set_action(verb, KeyboardInterrupt())
    assert frame.run(["trial"]) == 130
    assert capsys.readouterr().err.strip() == "mrl: interrupted"


@pytest.mark.parametrize("status", [0, 1, 3])
@pytest.mark.parametrize("how", ["ctx.exit", "SystemExit"])
def test_exit_status_of_a_verb(verb: types.ModuleType, status: int, how: str) -> None:
    if how == "SystemExit":
        set_action(verb, SystemExit(status))
    else:
        verb.action = lambda ctx, times: ctx.exit(status)  # type: ignore[attr-defined]
    assert frame.run(["trial"]) == status


@pytest.mark.parametrize(("args", "reason"), [(["tryal"], "No such command"), (["trial", "--tims", "3"], "No such option")])
def test_usage_errors(verb: types.ModuleType, capsys: pytest.CaptureFixture[str], args: list[str], reason: str) -> None:
    assert frame.run(args) == 2
    assert reason in capsys.readouterr().err


def test_messages_of_the_library_are_shown_while_a_verb_runs(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mrl.somewhere")

    def action(ctx: click.Context, times: int) -> None:
        logger.debug("detail")
        logger.info("reading")
        logger.warning("odd")

    verb.action = action  # type: ignore[attr-defined]
    handlers, level = list(logging.getLogger("mrl").handlers), logging.getLogger("mrl").level
    assert frame.run(["trial"]) == 0
    assert capsys.readouterr().err == "reading\nwarning: odd\n"
    assert frame.run(["--debug", "trial"]) == 0
    assert capsys.readouterr().err == "detail\nreading\nwarning: odd\n"
    assert (logging.getLogger("mrl").handlers, logging.getLogger("mrl").level) == (handlers, level)


def test_reader_of_a_pipe_may_leave() -> None:
    code = "import sys; from mrl.cli.main import run; sys.exit(run(['pretrained', 'list', '--json']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
