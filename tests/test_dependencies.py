"""Packages that parse foreign bytes are declared at versions without published advisories. `make audit` finds new ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
AUDIT_S = 600

# Packages that parse foreign bytes, the first version without a published fault, and the latest advisory before it.
FIXED = {
    "python-multipart": ("0.0.31", "GHSA-v9pg-7xvm-68hf"),
    "starlette": ("1.3.1", "GHSA-82w8-qh3p-5jfq"),
    "pillow": ("12.3.0", "CVE-2026-59200"),
    "cryptography": ("48.0.1", "CVE-2026-34073"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "httptools": ("0.6.3", "CVE-2024-27982"),
    "uvicorn": ("0.11.7", "CVE-2020-7695"),
    "paramiko": ("5.0.0", "CVE-2026-44405"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
}


def declared() -> dict[str, Requirement]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = map(Requirement, content["project"]["dependencies"])
    return {re.sub("[-_.]+", "-", each.name).lower(): each for each in requirements}


def test_no_version_with_a_published_fault_can_be_installed() -> None:
    for name, (fixed, advisory) in FIXED.items():
        requirement = declared()[name]
        floors = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==", "~=")]
        assert floors, f"{name} has no least version"
        assert max(floors) >= Version(fixed), f"{requirement} admits releases with {advisory}: declare {name}>={fixed}"


@pytest.mark.timeout(AUDIT_S + 60)
@pytest.mark.skipif(os.environ.get("WORKBENCH_AUDIT") != "1", reason="asks an index for every package: make audit")
def test_no_installed_package_has_a_published_advisory() -> None:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S)
    try:
        found = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        pytest.skip(f"the advisories cannot be read: {(result.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    checked = [each for each in found if "vulns" in each]
    if not checked:
        pytest.skip("the index that is configured here has no advisories")
    faults = {
        f"{each['name']} {each['version']}": [fault["id"] for fault in each["vulns"]] for each in checked if each["vulns"]
    }
    assert not faults
