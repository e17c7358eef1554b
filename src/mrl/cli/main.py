"""The command ``mrl``: finds the verb, and turns errors into one line and an exit status.

A verb's module is imported when the verb is used, so that ``mrl --help`` needs neither torch nor patience.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from mrl.cli.interrupting import EXIT_INTERRUPTED, ended_by_interrupt
from mrl.cli.output import add_common_options
from mrl.errors import MRLError, ProcessError, ReportedElsewhereError, printable
from mrl.processes import ProcessPlace
from mrl.version import __version__

EXIT_ERROR = 2

VERBS: dict[str, str] = {
    "pretrained": "List, download and check the released ReDimNet checkpoints.",
    "embed": "Turn recordings into embeddings, in one file or a folder of shards.",
    "verify": "Compare two recordings, or an enrolled voice and a recording.",
    "enroll": "Enrol a voice from recordings.",
    "identify": "Identify the speakers of recordings among the enrolled voices.",
    "label": "Name the speakers of a diarised recording by the enrolled voices.",
    "voices": "List, rename, remove, export and import enrolled voices.",
    "serve": "Serve a local web page: record or upload, enrol, verify, identify.",
    "data": "Scan, check and count corpora for training.",
    "train": "Train a Matryoshka model in two stages.",
    "trials": "Fetch, make and check trial lists.",
    "evaluate": "Measure the error rate at every dimension on a trial list.",
    "calibrate": "Calibrate a model folder or an exported file: log-likelihood ratios and thresholds.",
    "quantise-report": "Measure what storing embeddings in fewer bytes costs.",
    "push": "Share a model folder on the Hugging Face Hub.",
    "export": "Write a model for ONNX Runtime, OpenVINO or torch.export.",
    "fit-exits": "Add early exits to a model: faster embeddings from its first stages.",
    "fit-projection": "Fit a Matryoshka head to embeddings from any toolkit.",
    "reproduce": "Measure released checkpoints and compare with the published figures.",
    "demo": "Run the whole pipeline in minutes, on synthetic voices or your recordings.",
}
"""Each verb with its line of help; the verb's command is ``command`` in the module ``mrl.cli.VERB``, or stands in PLACES."""

PLACES: dict[str, tuple[str, str]] = {"enroll": ("voices", "enrol"), "identify": ("voices", "identify")}
"""Verbs that share a module, with its name and that of the command in it."""

ALIASES: dict[str, str] = {"enrol": "enroll"}
"""Other spellings of verbs."""


class LazyGroup(click.Group):
    """A group that imports a command when it is used, so that its help needs neither torch nor patience.

    Args:
        table: each command with its line of help; it is ``command`` in a module of ``mrl.cli`` named after it.
        heading: over the list of commands in the help.
        places: (module, name in it) of commands that stand elsewhere.
        aliases: other spellings of commands.
    """

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, str],
        heading: str = "Commands",
        places: Mapping[str, tuple[str, str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._table, self._heading = table, heading
        self._places, self._aliases = places or {}, aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self._aliases.get(cmd_name, cmd_name)
        if verb not in self._table:
            return None
        module, name = self._places.get(verb, (verb.replace("-", "_"), "command"))
        return add_common_options(getattr(importlib.import_module(f"mrl.cli.{module}"), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version would import every command for its line of help.
        with formatter.section(self._heading):
            formatter.write_dl(list(self._table.items()))


class VerbGroup(LazyGroup):
    """The verbs; errors are reported in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            with _messages_on_standard_error(debug):
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except ReportedElsewhereError:
            # Ending with an error might make torchrun stop the process that is about to report it.
            raise click.exceptions.Exit(0) from None
        except (MRLError, OSError) as error:
            if debug:
                traceback.print_exc()
            where = "mrl" if ctx.invoked_subcommand is None else f"mrl {ctx.invoked_subcommand}"
            place = _place()
            where += "" if place.is_first else f" ({place})"
            command = None if ctx.invoked_subcommand is None else self.get_command(ctx, ctx.invoked_subcommand)
            click.echo(f"{where}: error: {_in_options(_one_line(error), command)}", err=True)
            raise click.exceptions.Exit(EXIT_ERROR) from error


@click.group(
    cls=VerbGroup,
    table=VERBS,
    places=PLACES,
    aliases=ALIASES,
    heading="Verbs",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mrl")
@click.option("--debug", is_flag=True, envvar="MRL_DEBUG", help="Show tracebacks and detailed messages [also MRL_DEBUG=1].")
def cli(debug: bool) -> None:
    """Matryoshka speaker embeddings from pretrained ReDimNet models: one network, every prefix a good embedding."""


def run(args: Sequence[str]) -> int:
    """Run ``mrl`` with these arguments and return its exit status: 0, 1 (partly failed), 2 (error) or 130 (interrupted)."""
    try:
        result = cli.main(args=list(args), prog_name="mrl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("mrl: interrupted", err=True)
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    # Outside standalone mode, click returns the status given to ctx.exit().
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def main() -> int:
    """Entry point of the command ``mrl``."""
    with ended_by_interrupt():
        status = run(sys.argv[1:])
    if status == EXIT_INTERRUPTED:
        # Threads that still decode would keep the process alive until they are done.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status


@contextlib.contextmanager
def _messages_on_standard_error(debug: bool) -> Iterator[None]:
    """Show what the library logs, from INFO upwards, while a verb runs."""
    library = logging.getLogger("mrl")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MessageFormatter())
    level = library.level
    library.setLevel(logging.DEBUG if debug else logging.INFO if _place().is_first else logging.ERROR)
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


class _MessageFormatter(logging.Formatter):
    """Plain text for information; the level's name before anything graver."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        text = "\n".join(printable(line, most=len(line)) for line in text.split("\n"))  # names of files, chosen by others
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _place() -> ProcessPlace:
    """Return which process of a job this is; one that cannot tell speaks for itself."""
    try:
        return ProcessPlace.from_environment()
    except ProcessError:
        return ProcessPlace()


def _in_options(message: str, command: click.Command | None) -> str:
    """Return a message of the library with its parameters as options: ``max_seconds`` becomes ``--max-seconds``."""
    names = {"target_dim": "--dim"}
    members = command.commands.values() if isinstance(command, click.Group) else [command] if command else []
    for parameter in (parameter for member in members for parameter in member.params):
        if isinstance(parameter, click.Option) and parameter.name and "_" in parameter.name:
            names[parameter.name] = max(parameter.opts, key=len)
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b(?=[ =,;:]|$)", lambda word: names.get(word[0], word[0]), message)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([error.strerror, *names])
    return " ".join(str(error).split()) or type(error).__name__
