"""The files of the page, by the addresses that they are served under. No address is ever turned into a path."""

from __future__ import annotations

from importlib import resources

_HTML, _CSS, _SCRIPT = "text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"

PAGE_FILES = {"/": ("index.html", _HTML), "/page.css": ("page.css", _CSS), "/page.js": ("page.js", _SCRIPT)}
"""Name in the package's data and media type of each."""


def page_file(address: str) -> tuple[bytes, str]:
    """Return content and media type of one of the :data:`PAGE_FILES`."""
    name, kind = PAGE_FILES[address]
    return (resources.files("mrl.serving") / "page" / name).read_bytes(), kind
