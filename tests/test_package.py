"""The public face of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mrl


def test_import_is_light() -> None:
    program = (
        "import sys, mrl; heavy = {'torch', 'numpy', 'soundfile', 'av', 'matplotlib', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_decoding_audio_needs_no_torch() -> None:
    program = "import sys; from mrl import load_audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", mrl.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(mrl, name)
    if name != "__version__":
        assert (value.__doc__ or "").strip()


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="No mrl attribute load_pretrained"):
        _ = mrl.load_pretrained
    assert set(mrl.__all__) == set(dir(mrl))
