"""Collect the files that the machine of a stage (edge or cloud) receives.

The files are the package as a wheel, lock files, the program of the remote agent, weights and certificates. The remote agent
runs the stage there.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import __version__
from ..certs import folder_of
from . import agent
from .plan import Deployment, Which

__all__ = ["Wheel", "certificates_of", "locks", "program", "weights_of", "wheel"]

PACKAGE = Path(__file__).resolve().parent.parent
LOCKS = Path(__file__).resolve().parent / "locks"
PARTS = ("torch", "cuda", "base")
DISTRIBUTION = "pmc2-workbench"
EPOCH = (2020, 1, 1, 0, 0, 0)  # a fixed time, so that equal packages have equal bytes and are sent only once


@dataclass(frozen=True)
class Wheel:
    """The package as a wheel. `name` is the file's name, and `python` is the minimum Python version, such as "3.11"."""

    name: str
    content: bytes
    python: str


@cache
def wheel() -> Wheel:
    """Build a wheel from the source files of this package. The package may be installed, or imported from a checkout."""
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    needs = importlib.metadata.requires(DISTRIBUTION) or []
    least = re.search(r">=\s*(\d+\.\d+)", metadata["Requires-Python"] or "")
    stem = f"{DISTRIBUTION.replace('-', '_')}-{__version__}"
    files = {str(path.relative_to(PACKAGE.parent)): path.read_bytes() for path in _sources(PACKAGE)}
    files[f"{stem}.dist-info/METADATA"] = _metadata(needs)
    files[f"{stem}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: pmc2\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{stem}.dist-info/entry_points.txt"] = b"[console_scripts]\nworkbench = workbench.__main__:main\n"
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join(f"{name},{_digest(content)},{len(content)}\n" for name, content in files.items()).encode() + (
        f"{record},,\n".encode()
    )
    return Wheel(f"{stem}-py3-none-any.whl", _zipped(files), least[1] if least else "3.11")


@cache
def locks() -> dict[str, bytes]:
    """Return the lock files as {name: content}. The names are "torch", "cuda" and "base".

    Together, the lock files pin every package of a Python environment.
    """
    return {name: (LOCKS / f"{name}.txt").read_bytes() for name in PARTS}


@cache
def program() -> bytes:
    """Return the remote agent's program: the package `agent` as a zip file that Python executes."""
    files = {f"agent/{path.name}": path.read_bytes() for path in _sources(Path(agent.__file__).parent)}
    start = b"import sys\nfrom agent.program import main\nsys.exit(main(sys.argv[1:]))\n"
    return _zipped({**files, "__main__.py": start})


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _zipped(files: Mapping[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def _metadata(needs: list[str]) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {__version__}"]
    return "\n".join(lines + [f"Requires-Dist: {each}" for each in needs if "extra ==" not in each]).encode() + b"\n"


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def certificates_of(deployment: Deployment, which: Which) -> dict[str, str]:
    """Return the PEM files of the stage `which`, as {remote file name: text}.

    The files are the stage's certificate and key, and the certificate of the certificate authority. No stage gets the key of
    the certificate authority.
    """
    own = folder_of(deployment.certs, which)
    return {f"certs/{name}": (own / name).read_text() for name in ("ca.pem", f"{which}.pem", f"{which}.key")}


def weights_of(deployment: Deployment, which: Which) -> dict[str, Path]:
    """Return the weights files of the stage `which`, as {remote file name: local path}.

    Only the edge gets the generator, the network that protects pictures. In the cloud, the generator's weights would help to
    invert the protection. Raises WeightsError if a file is missing.
    """
    from .. import data, weights  # these import torch

    pair = deployment.pair
    family = data.load(pair.dataset).family
    names = [weights.generator_name(pair.target, pair.auxiliary)] if which == "edge" else [weights.classifier_name(pair.target)]
    if pair.codec in ("neural", "compressai"):
        names.append(weights.compressor_name(pair.target, pair.auxiliary))
    return {f"data/weights/{family}/{path.name}": path for name in names for path in weights.files(name, family)}
