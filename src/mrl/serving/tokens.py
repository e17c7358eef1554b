"""The token that a request must carry, and when one is made up."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from mrl.errors import InputError

_SHORTEST = 16
_LONGEST = 500


def new_token() -> str:
    """Return a random token of 192 bits."""
    return secrets.token_urlsafe(24)


def checked_token(token: str) -> str:
    """Return a token that the user chose.

    Raises:
        InputError: it is too short to be a secret, or cannot be sent in a header.
    """
    if not (_SHORTEST <= len(token) <= _LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            f"a token has {_SHORTEST} to {_LONGEST} printable ASCII characters without spaces, this one has {len(token)}; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def read_token(path: str | os.PathLike[str]) -> str:
    """Return the token in a file, without white space around it.

    Raises:
        InputError: the file cannot be read or holds no usable token.
    """
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(_LONGEST * 2).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise InputError(f"the token file {os.fspath(path)} cannot be read ({error.strerror}); check its path") from error
    return checked_token(text)


def carries_token(authorization: bytes, token: str) -> bool:
    """Return whether an Authorization header is ``Bearer TOKEN``; the time taken tells nothing of the token."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())
