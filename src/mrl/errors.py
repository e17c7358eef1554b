"""Errors that a user can act on.

Every message is one clear line that says what was found, what was expected, and how to fix it. The command line prints it
without a traceback and exits with status 2.
"""

from __future__ import annotations


class MRLError(Exception):
    """Base of all errors that this package raises on purpose.

    Messages name files, voices and what was found in them, which others may have chosen: as text they are one line that a
    terminal only shows.
    """

    def __str__(self) -> str:
        """Return the message on one line, with every character that is not printable written out."""
        return printable(super().__str__())


def printable(text: str, *, most: int = 2000) -> str:
    """Return a text on one line without control characters, which are written out (``\\x1b``), cut after ``most`` characters.

    Line breaks and tabs become spaces.
    """
    if not text.isprintable():
        text = " ".join(text.split())
        text = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii") for character in text
        )
    return text if len(text) <= most else f"{text[: most - 1]}…"


class InputError(MRLError, ValueError):
    """An argument has a value, shape or type that cannot be used."""


class ConfigError(MRLError, ValueError):
    """A configuration (YAML file, override, model_config) has an unknown key or an unusable value."""


class AudioLoadingError(MRLError):
    """A recording cannot be decoded or holds nothing usable; the message joins what every decoder said."""


class CheckpointError(MRLError):
    """A checkpoint or model folder is damaged, incomplete, of another kind, or does not fit the network."""


class ExportError(MRLError):
    """A model cannot be exported, or the exported file does not give what the network gives."""


class DownloadError(MRLError):
    """A released checkpoint could not be fetched or failed verification."""


class DataError(MRLError):
    """A corpus, manifest, trial list or embedding file is missing, malformed or inconsistent."""


class TrainingError(MRLError):
    """Training cannot start or continue (non-finite loss, nothing to train, wrong resume)."""


class MissingDependencyError(MRLError, ImportError):
    """An optional package is needed; the message names the extra to install."""


class ProcessError(MRLError):
    """The processes of one job cannot find each other, have lost each other, or were given different work."""


class ReportedElsewhereError(MRLError):
    """An error that all processes of a job know of and that the first one reports; the command line ends quietly."""
