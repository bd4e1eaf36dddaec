"""Configuration outside the table of `test_as_openssh.py`: another home, no OpenSSH, and advice that works when followed."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from tests.support.sshd import LOOPBACK, Ground, keygen, public
from workbench.errors import RemoteError
from workbench.remote import SshHost
from workbench.ssh import configuration, host_keys
from workbench.ssh.addresses import Address, route
from workbench.ssh.host_keys import check_host_key


@pytest.fixture
def at_home(machines: Ground, own_home: Path) -> Path:
    folder = own_home / ".ssh"
    folder.mkdir(mode=0o700)
    shutil.copy(machines["edge"].key, folder / "id_ed25519")
    shutil.copy(machines["edge"].key, folder / "named")
    (folder / "known_hosts").write_text(machines["edge"].known)
    return folder


def entered(config: Path | None = None) -> bool:
    with SshHost("edge", config=config) as host:
        return host.run(["echo", "x"]).out == b"x\n"


def refusal(config: Path | None = None) -> str:
    with SshHost("edge", config=config) as host, pytest.raises(RemoteError) as caught:
        host.run(["true"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


BLOCK = "Host edge\n  HostName 127.0.0.1  # my box\n  Port {port} # high\n  IdentitiesOnly yes\n"


@pytest.fixture(params=["with OpenSSH", "without OpenSSH"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without OpenSSH":
        monkeypatch.setattr(configuration.shutil, "which", lambda _: None)


def test_home_is_where_the_environment_says(at_home: Path, machines: Ground, reader: None) -> None:
    default, named = at_home / "id_ed25519", at_home / "named"
    for more, key in (
        ("", default),
        ("  IdentityFile ${HOME}/.ssh/named # mine\n", named),
        ("  IdentityFile ~/.ssh/named\n", named),
        ("  IdentityFile %d/.ssh/named\n", named),
        ("  UserKnownHostsFile ~/.ssh/none ~/.ssh/known_hosts\n", default),
        ("  UserKnownHostsFile=~/.ssh/known_hosts\n", default),
        ('  IdentityFile "~/.ssh/named"\n  ConnectTimeout 1m\n', named),
    ):
        (at_home / "config").write_text(BLOCK.format(port=machines["edge"].port) + more)
        (address,) = route("edge", None)
        assert [path for path in address.keys if path.is_file()] == [key], more
        assert [path for path in address.known_files if path.is_file()][:1] == [at_home / "known_hosts"], more
    assert entered()


def test_a_folder_among_the_included_is_passed_over(at_home: Path, machines: Ground, reader: None) -> None:
    (at_home / "config.d" / "a folder").mkdir(parents=True)
    (at_home / "config.d" / "10-edge").write_text(BLOCK.format(port=machines["edge"].port))
    (at_home / "config").write_text("Include config.d/* nothing/*  # of others\n")
    assert entered()


def test_the_name_in_any_case_without_openssh(at_home: Path, machines: Ground, reader: None) -> None:
    port = machines["edge"].port
    (at_home / "config").write_text(f"Host edge\n HostName LOCALHOST\n Port {port}\n")
    (at_home / "known_hosts").write_text(machines["edge"].known.replace(LOOPBACK, "LocalHost"))
    assert entered()
    subprocess.run(["ssh-keygen", "-H", "-f", str(at_home / "known_hosts")], check=True, capture_output=True, timeout=30)
    assert entered()


def test_a_variable_that_is_not_set_is_named(at_home: Path, reader: None) -> None:
    (at_home / "config").write_text("Host edge\n HostName 127.0.0.1\n IdentityFile ${WB_TEST_NOTHING}/key\n")
    assert "WB_TEST_NOTHING" in refusal()


def test_a_configuration_that_others_may_write_is_refused(at_home: Path) -> None:
    (at_home / "config").write_text("Host edge\n HostName 127.0.0.1\n")
    (at_home / "config").chmod(0o666)
    assert f"Bad owner or permissions): `chmod go-w {at_home / 'config'}`" in refusal()


def test_a_program_called_ssh_that_is_not_openssh_is_left_alone(
    at_home: Path, machines: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (at_home / "config").write_text(BLOCK.format(port=machines["edge"].port))
    other = tmp_path / "ssh"  # Dropbear's ignores -G, and connects
    other.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Dropbear v2025" >&2 || touch {tmp_path}/connected\n')
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert entered()
    assert not (tmp_path / "connected").exists()


def test_a_program_of_match_that_hangs_is_one_line(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "ASK_S", 0.5)
    (own_home / "c").write_text('Match exec "exec sleep 5"\n Port 1\n')
    assert "did not end within 0.5 s: does a Match exec" in refusal(own_home / "c")


# The error line for an untrusted host


def test_a_file_that_keeps_no_key_is_named_instead_of_written_to(machines: Ground) -> None:
    for nowhere in ("/dev/null", "none", "/dev/null /dev/null"):
        path = machines.config()
        path.write_text(f"UserKnownHostsFile {nowhere}\n{path.read_text()}")
        said = refusal(path)
        assert f"UserKnownHostsFile {nowhere.split()[0]} keeps no key" in said
        assert ">>" not in said


def test_the_way_to_accept_a_key_works_without_a_folder(machines: Ground, own_home: Path) -> None:
    edge = machines["edge"]
    (own_home / "c").write_text(f"Host edge\n HostName {LOOPBACK}\n Port {edge.port}\n IdentityFile {edge.key}\n")
    path = own_home / "a folder" / "known_hosts"
    (own_home / "c").write_text(f'{(own_home / "c").read_text()} UserKnownHostsFile "{path}"\n')
    command = refusal(own_home / "c").rpartition("accept it by `")[2].rstrip("`")
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=30)
    assert entered(own_home / "c")


def test_what_would_trust_more_is_named_in_the_refusal(machines: Ground, own_home: Path) -> None:
    settings = ("StrictHostKeyChecking no", "NoHostAuthenticationForLocalhost yes", "VerifyHostKeyDNS yes")
    key = public(machines["edge"].folder / "host_key")
    said = refusal(machines.config(known=f"@cert-authority * {key}\n", more="\n".join([*settings, ""])))
    for setting in settings:
        assert f"({setting} is not followed, host keys are always checked)" in said
    assert f"the certificate authority of {own_home / 'known_hosts'}:1 is not followed" in said


@pytest.fixture
def address(tmp_path: Path) -> tuple[Address, paramiko.PKey]:
    key = paramiko.ECDSAKey.generate()
    known = tmp_path / "known"
    known.write_text(f"box.example {key.get_name()} {key.get_base64()}\n")
    made = replace(route(f"{getpass.getuser()}@{LOOPBACK}", None)[0], host="box.example", known_as="box.example")
    return replace(made, known_files=(known,)), key


def test_a_binary_list_of_revoked_keys_is_refused(address: tuple[Address, paramiko.PKey], tmp_path: Path) -> None:
    at, key = address
    check_host_key(at, key)
    other = keygen(tmp_path / "other")
    revoked = tmp_path / "revoked"
    subprocess.run(["ssh-keygen", "-k", "-f", str(revoked), f"{other}.pub"], check=True, capture_output=True, timeout=30)
    with pytest.raises(RemoteError, match="binary revocation list, which is not read here"):
        check_host_key(replace(at, revoked=(revoked,)), key)


def test_with_check_host_ip_a_changed_address_key_is_refused(address: tuple[Address, paramiko.PKey]) -> None:
    at, key = address
    checked = replace(at, check_ip=True)
    check_host_key(checked, key, "192.0.2.7")
    other = paramiko.ECDSAKey.generate()
    with at.known_files[0].open("a") as file:
        file.write(f"192.0.2.7 {other.get_name()} {other.get_base64()}\n")
    check_host_key(at, key, "192.0.2.7")
    with pytest.raises(RemoteError, match=r":2 says another for its address 192\.0\.2\.7 \(CheckHostIP\)"):
        check_host_key(checked, key, "192.0.2.7")


def test_kinds_of_known_keys_are_asked_for_first(address: tuple[Address, paramiko.PKey]) -> None:
    at, key = address
    kinds = ("ssh-ed25519", "rsa-sha2-512", key.get_name())
    assert host_keys.preferred_kinds(at, kinds)[0] == key.get_name()
    allowed = replace(at, allowed=(("HostKeyAlgorithms", ("rsa-sha2-512",)),))
    assert host_keys.preferred_kinds(allowed, kinds) == ("rsa-sha2-512",)


# Keys


def test_an_unreadable_key_is_distinguished_from_an_absent_one(machines: Ground, own_home: Path) -> None:
    dsa = own_home / "dsa"
    private = "-----BEGIN DSA PRIVATE KEY-----\nMAA=\n-----END DSA PRIVATE KEY-----\n"
    dsa.write_text(private)
    dsa.chmod(0o600)
    said = refusal(machines.config(IdentityFile=str(dsa)))
    assert f"there is no key to show ({dsa} cannot be read: " in said
    dsa.chmod(0o644)
    assert f"({dsa} is open to other users: `chmod 600 {dsa}`)" in refusal(machines.config(IdentityFile=str(dsa)))
    said = refusal(machines.config(IdentityFile=f"{machines['edge'].key}.pub"))
    assert "neither in a file nor in the agent" in said
