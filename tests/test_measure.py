"""Launch measurements: virtee's published vectors, an independent digest over pages, a policy, and one line for each error."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.snp import processor
from workbench.__main__ import main
from workbench.attest import verify
from workbench.attest.measurement import Boot, measure

# A published OVMF (edk2-stable202405, AmdSevX64): the digest over its last 4 KiB, and the facts of its metadata that are measured.
PAGES = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
RESET, HASHES = 0x80B004, 0x810C00
SECTIONS = (  # address, bytes, kind: 1 memory, 2 secrets, 3 CPUID, 4 calling area, 16 hashes of the kernel
    (0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4), (0x810000, 0x1000, 16), (0x811000, 0xF000, 1),
)  # fmt: skip
SERIAL = "console=ttyS0 loglevel=7"

# virtee/sev-snp-measure v0.0.13 (5b6a79e), tests/test_guest.py: vCPUs, features, kernel and initrd (empty files), command line.
VECTORS: list[tuple[int, int, bool, str, str]] = [
    (1, 0x21, True, "", "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198"),
    (1, 0x01, True, "", "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5"),
    (1, 0x21, True, SERIAL, "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb28c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"),
    (1, 0x01, True, SERIAL, "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"),
    (1, 0x21, False, "", "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b"),
    (1, 0x01, False, "", "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"),
    (4, 0x21, True, "", "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942"),
    (4, 0x01, True, "", "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a92441310ba6c4933de877c36e23046ad5"),
]  # fmt: skip


def firmware(sections: Sequence[tuple[int, int, int]] = SECTIONS, pages: int = 1) -> bytes:
    """Return a minimal OVMF with only the table at its end: GUIDs with the reset address, the hash table, the sections."""

    def entry(name: str, data: bytes) -> bytes:
        return data + (len(data) + 18).to_bytes(2, "little") + uuid.UUID(name).bytes_le

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    metadata = b"ASEV" + numbers(16 + 12 * len(sections), 1, len(sections), *(value for row in sections for value in row))
    table = entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", numbers(RESET))
    table += entry("7255371f-3a3b-4b04-927b-1da6efa8d454", numbers(HASHES, 0x400))
    table += entry("dc886566-984a-4798-a75e-5585a7bf67cc", numbers(2048))  # the offset of the metadata from the end
    footer = (len(table) + 18).to_bytes(2, "little") + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    end = table + footer + bytes(32)
    return bytes(4096 * pages - 2048) + metadata + bytes(2048 - len(metadata) - len(end)) + end


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ovmf.fd").write_bytes(firmware())
    (tmp_path / "kernel").touch()
    (tmp_path / "initrd").touch()
    return tmp_path


def options(files: Path, *more: str, kernel: bool = True) -> list[str]:
    boot = ["--kernel", str(files / "kernel"), "--initrd", str(files / "initrd")] if kernel else []
    return ["measure", "--ovmf", str(files / "ovmf.fd"), *boot, *more]


def test_published_measurements_are_computed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for vcpus, features, kernel, append, published in VECTORS:
        more = ["--vcpus", str(vcpus), "--guest-features", hex(features), "--append", append, "--ovmf-hash", PAGES]
        assert main(options(files, *more, kernel=kernel)) == 0
        assert capsys.readouterr().out == f"{published}\n", (vcpus, features, kernel, append)


def test_linux_from_6_8_on_and_katas_vcpu_are_the_defaults(files: Path) -> None:
    boot = Boot(files / "ovmf.fd", files / "kernel", files / "initrd", SERIAL, ovmf_hash=PAGES)
    assert measure(boot).hex() == VECTORS[3][-1]


def digest_of_pages(firmware: bytes) -> str:
    """Return AMD 56860's PAGE_INFO digest.

    Its fields: previous digest, page, length, a normal page, no permissions, an address below 4 GiB.
    """
    digest, start = bytes(48), (1 << 32) - len(firmware)
    for offset in range(0, len(firmware), 4096):
        page = hashlib.sha384(firmware[offset : offset + 4096]).digest()
        info = digest + page + b"\x70\0\x01\0\0\0\0\0" + (start + offset).to_bytes(8, "little")
        digest = hashlib.sha384(info).digest()
    return digest.hex()


def test_the_firmwares_own_pages_are_measured(files: Path) -> None:
    for pages in (1, 3):
        content = firmware(pages=pages)
        (files / "ovmf.fd").write_bytes(content)
        boot = Boot(files / "ovmf.fd", files / "kernel")
        other = Boot(files / "ovmf.fd", files / "kernel", ovmf_hash=digest_of_pages(content))
        assert measure(boot) == measure(other) != measure(Boot(files / "ovmf.fd", files / "kernel", ovmf_hash=PAGES))


def test_whatever_the_guest_starts_with_changes_the_measurement(files: Path) -> None:
    (files / "another").write_bytes(b"x")
    ovmf, kernel, another = files / "ovmf.fd", files / "kernel", files / "another"
    boots = [
        Boot(ovmf), Boot(ovmf, kernel), Boot(ovmf, another), Boot(ovmf, kernel, another), Boot(ovmf, kernel, append="a"),
        Boot(ovmf, kernel, append="b"), Boot(ovmf, kernel, vcpus=2), Boot(ovmf, kernel, vcpu_type="EPYC-Genoa"),
        Boot(ovmf, kernel, vcpu_type="EPYC-Turin"), Boot(ovmf, kernel, guest_features=0x21),
    ]  # fmt: skip
    assert len({measure(boot) for boot in boots}) == len(boots)
    assert measure(Boot(ovmf, kernel)) == measure(Boot(ovmf, kernel, files / "initrd")), "as QEMU does it"


def test_the_page_names_all_options() -> None:
    page = (Path(__file__).parent.parent / "docs" / "attestation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(--[\w-]+)` \|", page, re.MULTILINE)) == {
        "--ovmf", "--kernel", "--initrd", "--append", "--vcpus", "--vcpu-type", "--guest-features", "--ovmf-hash",
    }  # fmt: skip


def test_json_repeats_what_was_measured(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--vcpus", "4", "--guest-features", "33", "--ovmf-hash", PAGES.upper(), "--json"]
    assert main(options(files, *more)) == 0
    assert json.loads(capsys.readouterr().out) == {
        "measurement": VECTORS[6][-1],
        **{name: str(files / file) for name, file in (("ovmf", "ovmf.fd"), ("kernel", "kernel"), ("initrd", "initrd"))},
        "append": "",
        "vcpus": 4,
        "vcpu_type": "EPYC-v4",
        "guest_features": "0x21",
    }


def test_a_policy_with_the_measurement_accepts_the_guests_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(files, "--vcpus", "2")) == 0
    measurement = capsys.readouterr().out.strip()
    ours = processor("Genoa")
    verify(ours.report(measurement=bytes.fromhex(measurement)), ours.policy(measurements=(measurement,)), b"")


def line(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(command) != 0
    out, err = capsys.readouterr()
    assert out == ""
    (only,) = err.splitlines()
    return only


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--ovmf", "{}/nowhere.fd"), "nowhere.fd cannot be read: No such file or directory"),
    (("--ovmf", "{}"), "cannot be read: Is a directory"),
    (("--ovmf", "{}/kernel"), "kernel has 0 bytes: an OVMF has whole pages of 4096"),
    (("--ovmf", "{}/odd"), "odd has 5000 bytes: an OVMF has whole pages"),
    (("--ovmf", "{}/zeros"), "zeros is no OVMF that SEV-SNP can start this way ("),
    (("--ovmf", "{}/noise"), "noise is no OVMF that SEV-SNP can start this way"),
    (("--ovmf", "{}/nohashes"), "nohashes is no OVMF that SEV-SNP can start this way (Kernel specified but OVMF metadata doesn't"),
    (("--ovmf", "{}/unknown"), "unknown is no OVMF that SEV-SNP can start this way (9 is not a valid SectionType"),
    (("--ovmf", "{}/uneven"), "uneven is no OVMF that SEV-SNP can start this way"),
    (("--kernel", "{}/nowhere"), "nowhere cannot be read: No such file or directory"),
    (("--initrd", "{}/nowhere"), "nowhere cannot be read: No such file or directory"),
    (("--vcpu-type", "EPYC-Genua"), "unknown vCPU type 'EPYC-Genua': did you mean 'EPYC-Genoa'"),
    (("--vcpus", "4097"), "vcpus is from 1 to 4096, got 4097"),
    (("--guest-features", "0"), "guest features are 64 bits, of which SNPActive (1) is set, got 0x0"),
    (("--guest-features", "-1"), "got -0x1"),
    (("--guest-features", "0x10000000000000000"), "got 0x10000000000000000"),
    (("--ovmf-hash", "00"), "the OVMF's hash is 48 bytes in hexadecimal, got '00'"),
]  # fmt: skip


def test_what_cannot_be_measured_is_refused_in_a_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = firmware()
    (files / "odd").write_bytes(bytes(5000))
    (files / "zeros").write_bytes(bytes(8192))
    (files / "noise").write_bytes(content[:-60] + bytes(range(100, 128)) + content[-32:])
    (files / "nohashes").write_bytes(firmware(SECTIONS[:4]))
    (files / "unknown").write_bytes(firmware([*SECTIONS, (0, 4096, 9)]))
    (files / "uneven").write_bytes(firmware([(0x800000, 0x901, 1)]))
    for more, reason in REFUSED:
        command = options(files, "--vcpus", "1", *(text.replace("{}", str(files)) for text in more))
        assert reason in line(capsys, *command), more
    for more in (("--append", "x"), ("--initrd", "/dev/null")):
        assert "with a kernel only" in line(capsys, *options(files, "--vcpus", "1", *more, kernel=False)), more
    (files / "ovmf.fd").write_bytes(bytes(8192))
    assert "Can't find SEV_ES_RESET_BLOCK_GUID entry" in line(capsys, *options(files, "--vcpus", "1", kernel=False))


def test_options_that_are_missing_or_no_numbers_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--vcpus", "0"), ("--vcpus", "two"), ("--vcpus", "1", "--guest-features", "all")):
        with pytest.raises(SystemExit) as caught:
            main(options(files, *more))
        assert caught.value.code == 2
        assert "workbench measure: error:" in capsys.readouterr().err, more


def test_without_the_extra_a_line_says_how_to_install_it(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: dict[str, Any] = dict.fromkeys(("sevsnpmeasure", "sevsnpmeasure.guest", "sevsnpmeasure.vcpu_types"))
    for name, module in hidden.items():
        monkeypatch.setitem(sys.modules, name, module)
    expected = "measurements need the package sev-snp-measure: pip install -e '.[measure]' in the checkout"
    assert line(capsys, *options(files, "--vcpus", "1")).endswith(expected)
