"""One table of configurations, through OpenSSH's client and through `Host`, against one sshd: both connect, or both fail."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.sshd import LOOPBACK, Ground, Machine, keygen, public
from tests.support.waiting import until
from workbench.errors import RemoteError
from workbench.remote import SshHost

PATIENCE_S = 60.0


class Row(NamedTuple):
    """Lines of a configuration below `Host box`, and the expected result of a connection with it."""

    title: str
    lines: str
    end: str = "in"
    known: str = "{known_line}"  # the content of this row's known_hosts file
    name: str = "box"
    key: bool = True  # whether IdentityFile {key} is added
    before: str = ""  # lines above `Host box`


# {dir} holds keys and files, {rel} is {dir} relative to the home folder in passwd, {bare} is the host's public key.
TABLE = [
    Row("nothing special", ""),
    Row("a comment after HostName", "HostName 127.0.0.1  # my box"),
    Row("a comment after Port", "Port {port} # high"),
    Row("a comment after User", "User {user} # me"),
    Row("equals signs", "Port={port}\nIdentityFile = {key}", key=False),
    Row("quotes", 'IdentityFile "{key}"', key=False),
    Row("a key's path with a space", 'IdentityFile "{dir}/with space/key"', key=False),
    Row("a variable", "IdentityFile ${{WB_TEST_KEYS}}/key", key=False),
    Row("a variable that is not set", "IdentityFile ${{WB_TEST_UNSET}}/key", "configuration", key=False),
    Row("a tilde", "IdentityFile ~/{rel}/key", key=False),
    Row("the token of the home folder", "IdentityFile %d/{rel}/key", key=False),
    Row("tokens of the connection", "IdentityFile {dir}/key-%n-%h-%p-%r", key=False),
    Row("tokens of this machine", "IdentityFile {dir}/key-%i-%u-%L-%l", key=False),
    Row("the token of all of it", "IdentityFile {dir}/key-%C", key=False),
    Row("the token of the known name", "HostKeyAlias Alias\nIdentityFile {dir}/key-%k", known="alias {bare}", key=False),
    Row("a path that is not ASCII", "IdentityFile {dir}/clé/key", key=False),
    Row("line ends of Windows", "HostName 127.0.0.1\r\nPort {port}\r\nIdentityFile {key}\r", key=False),
    Row("tabs and capitals", "\thOSTnAME\t127.0.0.1\t\n\tIDENTITYFILE\t{key}\t", key=False),
    Row("a comment without a space", "IdentityFile {dir}/key#not", "key", key=False),
    Row("a percent sign", "IdentityFile {dir}/key%%s", key=False),
    Row("a public key in its place", "IdentityFile {key}.pub", "key", key=False),
    Row("a key that is not there", "IdentityFile {dir}/none", "key", key=False),
    Row("no key", "IdentityFile none", "key", key=False),
    Row("several keys", "IdentityFile {dir}/other\nIdentityFile {key}", key=False),
    Row("another user", "User nobody-of-that-name", "key"),
    # Key formats
    Row("PKCS#8, RSA", "IdentityFile {dir}/pkcs8-rsa", key=False),
    Row("PKCS#8, ECDSA", "IdentityFile {dir}/pkcs8-ecdsa", key=False),
    Row("PKCS#1", "IdentityFile {dir}/pkcs1-rsa", key=False),
    Row("SEC1", "IdentityFile {dir}/sec1-ecdsa", key=False),
    Row("PKCS#8, encrypted", "IdentityFile {dir}/pkcs8-sealed", "key", key=False),
    Row("no key at all in the file", "IdentityFile {dir}/garbage", "key", key=False),
    Row("a key that others may read", "IdentityFile {dir}/open", "key", key=False),
    Row("a certificate next to the key", "IdentityFile {dir}/certified", key=False),
    Row("a certificate elsewhere", "IdentityFile {dir}/bare\nCertificateFile {dir}/elsewhere.pub", key=False),
    Row("a certificate that is not there", "IdentityFile {dir}/bare\nCertificateFile {dir}/none.pub", "key", key=False),
    Row("kinds of keys left out", "PubkeyAcceptedAlgorithms rsa-sha2-512", "key"),
    Row("too small an RSA key", "RequiredRSASize 4096\nIdentityFile {dir}/pkcs8-rsa", "key", key=False),
    Row("public keys switched off", "PubkeyAuthentication no", "key"),
    Row("other methods preferred", "PreferredAuthentications password,keyboard-interactive", "key"),
    # The agent
    Row("the agent", "IdentityAgent {agent}\nIdentityFile {dir}/none", key=False),
    Row("the agent by SSH_AUTH_SOCK", "IdentityAgent SSH_AUTH_SOCK\nIdentityFile {dir}/none", key=False),
    Row("the agent by a variable", "IdentityAgent $WB_TEST_AGENT\nIdentityFile {dir}/none", key=False),
    Row("the agent by a variable in braces", "IdentityAgent ${{WB_TEST_AGENT}}\nIdentityFile {dir}/none", key=False),
    Row("the agent by a variable that is not set", "IdentityAgent $WB_TEST_UNSET\nIdentityFile {dir}/none", "key", key=False),
    Row("no agent", "IdentityAgent none\nIdentityFile {dir}/sealed", "key", key=False),
    Row("an agent that is gone", "IdentityAgent {dir}/none\nIdentityFile {dir}/none", "key", key=False),
    Row("a sealed key that the agent holds", "IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {dir}/sealed", key=False),
    Row("its public half alone", "IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {dir}/half", key=False),
    Row("the public half by name", "IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {dir}/half.pub", key=False),
    Row(
        "a key that the agent holds unasked",
        "IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {dir}/other",
        "key",
        key=False,
    ),
    Row(
        "a certificate whose key the agent holds",
        "IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {dir}/held",
        key=False,
    ),
    Row(
        "an agent that refuses to sign",
        "IdentityAgent {full}\nIdentitiesOnly yes\nIdentityFile {dir}/confirm\nIdentityFile {key}",
        key=False,
    ),
    Row("a full agent", "IdentityAgent {full}", "key"),
    Row("a full agent, and only the key", "IdentityAgent {full}\nIdentitiesOnly yes"),
    # known_hosts
    Row("several files", "UserKnownHostsFile {dir}/none {file}"),
    Row("a file by tokens", "UserKnownHostsFile {dir}/known-%h-%r", known=""),
    Row("a file with a space", 'UserKnownHostsFile "{dir}/with space/known" {dir}/none', known=""),
    Row("a file by a tilde", "UserKnownHostsFile ~/{rel}/known-127.0.0.1-{user}", known=""),
    Row("a file by a variable", "UserKnownHostsFile ${{WB_TEST_KEYS}}/known-127.0.0.1-{user}", known=""),
    Row("/dev/null", "UserKnownHostsFile /dev/null", "unknown"),
    Row("no file", "UserKnownHostsFile none", "unknown"),
    Row("the machine's file", "UserKnownHostsFile none\nGlobalKnownHostsFile {file}"),
    Row("the machine's file by a tilde", "UserKnownHostsFile none\nGlobalKnownHostsFile ~/{rel}/known-127.0.0.1-{user}"),
    Row("unknown", "", "unknown", known=""),
    Row("unknown, and checks switched off", "StrictHostKeyChecking no", "unknown", known=""),
    Row("hashed", "", known="{hashed}"),
    Row("a name in capitals", "HostName LOCALHOST", known="[LocalHost]:{port} {bare}"),
    Row("a hashed name in capitals", "HostName LOCALHOST", known="{hashed_localhost}"),
    Row("without a port", "", known="127.0.0.1 {bare}"),
    Row("without a port, of another key", "", "unknown", known="127.0.0.1 {other}"),
    Row("with a port, of another key", "", "changed", known="[127.0.0.1]:{port} {other}\n127.0.0.1 {bare}"),
    Row("of another kind", "", "changed", known="[127.0.0.1]:{port} {rsa}"),
    Row("patterns", "", known="[127.0.0.?]:* {bare}"),
    Row("patterns that leave it out", "", "unknown", known="*,![127.0.0.1]:{port},!127.0.0.1 {bare}"),
    Row("patterns that leave out its port", "", known="*,![127.0.0.1]:{port} {bare}"),
    Row("an alias", "HostKeyAlias The-Box", known="the-box {bare}"),
    Row("an alias that is not there", "HostKeyAlias The-Box", "unknown"),
    Row("revoked", "", "revoked", known="{known_line}@revoked [127.0.0.1]:{port} {bare}"),
    Row("revoked by a pattern", "", "revoked", known="{known_line}@revoked * {bare}"),
    Row("a list of revoked keys", "RevokedHostKeys {dir}/revoked", "revoked"),
    Row("a list of revoked keys, of others", "RevokedHostKeys {dir}/other.pub"),
    Row("a list of revoked keys that is not there", "RevokedHostKeys {dir}/none", "revoked"),
    Row("an authority", "", "unknown", known="@cert-authority * {bare}"),
    Row("comments and broken lines", "", known="# {known_line}\n|1|x|y {bare}\n\n{known_line}"),
    Row("known hosts with line ends of Windows", "", known="# Windows\r\n[127.0.0.1]:{port} {bare}\r\n"),
    Row("known hosts with tabs and a comment", "", known="[127.0.0.1]:{port}\t{bare}\tmy box # mine\n"),
    Row("known hosts without a last line end", "", known="[127.0.0.1]:{port} {bare}"),
    Row("known hosts that is a folder", "UserKnownHostsFile {dir}", "unknown"),
    Row("a token that is none", "UserKnownHostsFile {dir}/known-%y", "configuration"),
    Row("the address checked, too", "CheckHostIP yes"),
    # Algorithms
    Row("other host keys only", "HostKeyAlgorithms rsa-sha2-512", "algorithms"),
    Row("a cipher", "Ciphers aes256-ctr\nMACs hmac-sha2-512\nKexAlgorithms curve25519-sha256@libssh.org"),
    # Files and blocks
    Row("a folder among the included", "", before="Include {dir}/config.d/*\n", key=False),
    Row("an include below a host", "Include {dir}/config.d/10-key\nPort {port}", key=False),
    Row("an include that is not there", "Include {dir}/nothing/*"),
    Row("an include by a tilde", "Include ~/{rel}/config.d/10-key", key=False),
    Row("a match on the host", "", before="Match host box\n IdentityFile {key}\n", key=False),
    Row("a match on another", "", "key", before="Match host other\n IdentityFile {key}\n", key=False),
    Row("a match that runs a program", "", before='Match exec "test -e {key}"\n IdentityFile {key}\n', key=False),
    Row("a match on the final pass", "", before="Match final host 127.0.0.1\n IdentityFile {key}\n", key=False),
    Row("a negated pattern", "", "key", before="Host * !box\n IdentityFile {key}\n", key=False),
    Row("user and port in the name", "Port 1\nUser nobody", name="{user}@box:{port}"),
    Row("an address as a name", "", name="{user}@127.0.0.1:{port}"),
    Row("a name in capitals that no pattern matches", "HostName nowhere.invalid", name="BOX"),
    Row("an option that is none", "NoSuchOption yes", "configuration"),
    Row("an option that is to be ignored", "NoSuchOption yes", before="IgnoreUnknown NoSuch*\n"),
    Row("a port that is none", "Port many", "configuration"),
    Row("a time with a unit", "ConnectTimeout 1m"),
    Row("another family of addresses", "AddressFamily inet6", "address"),
    Row("an address to come from", "BindAddress 127.0.0.1"),
    Row("a name that does not resolve", "HostName no-such-machine.invalid", "address"),
    Row("a command of its own", "RemoteCommand uptime", "command"),
    # Hops
    Row("a hop", "ProxyJump {user}@127.0.0.1:{edge_port}", known="{known_line}{edge_line}"),
    Row("a hop by its own block", "ProxyJump jump", known="{known_line}{edge_line}", before="Host jump\n Port {edge_port}\n"),
    Row(
        "two hops",
        "ProxyJump jump,{user}@127.0.0.1:{edge_port}",
        known="{known_line}{edge_line}",
        before="Host jump\n Port {edge_port}\n",
    ),
    Row("a hop that is unknown", "ProxyJump {user}@127.0.0.1:{edge_port}", "unknown"),
    Row("no hop", "ProxyJump none\nProxyCommand none"),
]

OPENSSH = {
    "changed": "IDENTIFICATION HAS CHANGED",
    "revoked": "REVOKED HOST KEY|revoked by file|revoked keys file",
    "unknown": "Host key verification failed|No .* host key is known",
    "key": "Permission denied|Too many authentication failures",
    "algorithms": "no matching host key type|Unable to negotiate",
    "address": "Could not resolve|Address family",
    "command": "Cannot execute command-line and remote command",
    "configuration": "unknown key %|Bad |bad configuration|has no value|invalid environment|no argument",
}
HOST = {
    "changed": "has changed",
    "revoked": "revokes|RevokedHostKeys .* cannot be read",
    "unknown": "is unknown|the host keys in .* cannot be read",
    "key": "does not let|no key to show|nobody can be asked|rules out public keys",
    "algorithms": "none of which is supported|no algorithm in common",
    "address": "does not resolve",
    "command": "leaves no room for a command",
    "configuration": "cannot be followed|cannot be read|is not set",
}


class Box(NamedTuple):
    folder: Path
    words: dict[str, str]


@pytest.fixture(scope="module")
def box(machines: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    folder = tmp_path_factory.mktemp("box")
    key = keygen(folder / "key")
    authority = keygen(folder / "authority")
    machine = Machine("box", folder / "sshd", key, options={"TrustedUserCAKeys": f"{authority}.pub", "MaxAuthTries": "4"})
    machine.start()
    with contextlib.ExitStack() as stack:
        stack.callback(machine.stop)
        authorised = [key, *_keys(folder, authority), machines["edge"].key]
        (machine.folder / "authorized_keys").write_text("".join(public(each) + "\n" for each in authorised))
        edge = machines["edge"]
        (edge.folder / "authorized_keys").write_text("".join(public(each) + "\n" for each in (edge.key, key)))
        stack.callback((edge.folder / "authorized_keys").write_text, public(edge.key) + "\n")
        words = _files(folder, machine, home)
        words |= {"edge_port": str(edge.port), "edge_line": edge.known}
        words |= {
            "agent": stack.enter_context(_agent(folder / "agent", folder / "sealed", folder / "half-private", folder / "held"))
        }
        junk = [keygen(folder / f"junk{number}") for number in range(5)]
        words |= {"full": stack.enter_context(_agent(folder / "full", *junk))}
        _ssh_add(words["full"], "-c", str(folder / "confirm-private"))
        yield Box(folder, words)


@pytest.fixture
def environment(box: Box, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.setenv("WB_TEST_KEYS", str(box.folder))
    monkeypatch.setenv("WB_TEST_AGENT", box.words["agent"])
    monkeypatch.setenv("SSH_AUTH_SOCK", box.words["agent"])


def _keys(folder: Path, authority: Path) -> list[Path]:
    rsa, ecdsa = keygen(folder / "rsa", kind="rsa"), keygen(folder / "ecdsa", kind="ecdsa")
    encodings = {"pkcs8": serialization.PrivateFormat.PKCS8, "pem": serialization.PrivateFormat.TraditionalOpenSSL}
    for source, name, form in [
        (rsa, "pkcs8-rsa", "pkcs8"),
        (ecdsa, "pkcs8-ecdsa", "pkcs8"),
        (rsa, "pkcs1-rsa", "pem"),
        (ecdsa, "sec1-ecdsa", "pem"),
        (rsa, "pkcs8-sealed", "pkcs8"),
    ]:
        private = serialization.load_ssh_private_key(source.read_bytes(), None)
        seal = serialization.BestAvailableEncryption(b"open sesame") if name == "pkcs8-sealed" else serialization.NoEncryption()
        _write(folder / name, private.private_bytes(serialization.Encoding.PEM, encodings[form], seal))
    sealed, half, confirm = keygen(folder / "sealed", ""), keygen(folder / "half-private"), keygen(folder / "confirm-private")
    (folder / "half.pub").write_text(public(half) + "\n")
    (folder / "confirm.pub").write_text(public(confirm) + "\n")
    for name in ("other", "certified", "bare", "held"):
        keygen(folder / name)
    for name in ("certified", "bare", "held"):
        command = ["ssh-keygen", "-q", "-s", str(authority), "-I", name, "-n", getpass.getuser(), f"{folder / name}.pub"]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    (folder / "bare-cert.pub").rename(folder / "elsewhere.pub")
    return [rsa, ecdsa, sealed, half, confirm]


def _files(folder: Path, machine: Machine, home: Path) -> dict[str, str]:
    host, user = socket.gethostname(), getpass.getuser()
    bare = " ".join(public(machine.folder / "host_key").split()[:2])
    connection = hashlib.sha1(f"{host}{LOOPBACK}{machine.port}{user}".encode()).hexdigest()
    (folder / "with space").mkdir()
    (folder / "clé").mkdir()
    key = folder / "key"
    for name in (
        "with space/key",
        "clé/key",
        f"key-box-{LOOPBACK}-{machine.port}-{user}",
        f"key-{os.getuid()}-{user}-{host.split('.')[0]}-{host}",
        f"key-{connection}",
        "key-alias",
        "key%s",
    ):
        _write(folder / name, key.read_bytes())
    _write(folder / "garbage", b"-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----\n")
    _write(folder / "open", key.read_bytes(), 0o644)
    for name in (f"known-{LOOPBACK}-{user}", "with space/known"):
        (folder / name).write_text(machine.known)
    (folder / "revoked").write_text(f"{bare}\n")
    (folder / "config.d" / "a folder").mkdir(parents=True)
    (folder / "config.d" / "10-key").write_text(f"Host *\n IdentityFile {key}\n")
    return {
        "dir": str(folder),
        "rel": os.path.relpath(folder, home),
        "key": str(key),
        "port": str(machine.port),
        "user": user,
        "bare": bare,
        "other": " ".join(public(folder / "other").split()[:2]),
        "rsa": " ".join(public(folder / "rsa").split()[:2]),
        "known_line": machine.known,
        "hashed": _hashed(folder, machine.known),
        "hashed_localhost": _hashed(folder, machine.known.replace(LOOPBACK, "localhost")),
    }


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _hashed(folder: Path, line: str) -> str:
    path = folder / "to_hash"
    path.write_text(line)
    subprocess.run(["ssh-keygen", "-H", "-f", str(path)], check=True, capture_output=True, timeout=30)
    return path.read_text()


@contextlib.contextmanager
def _agent(address: Path, *keys: Path) -> Iterator[str]:
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: _listens(address))
            _ssh_add(str(address), *map(str, keys))
            for key in keys:
                subprocess.run(
                    ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-a", "1", "-f", str(key)],
                    check=True,
                    capture_output=True,
                    timeout=30,
                )
            yield str(address)
        finally:
            process.terminate()


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:  # a process that has bound its address may not listen yet
        return trial.connect_ex(str(address)) == 0


def _ssh_add(agent: str, *arguments: str) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": agent}
    subprocess.run(["ssh-add", "-q", *arguments], check=True, capture_output=True, timeout=30, env=environment)


def _written(row: Row, number: int, box: Box) -> tuple[Path, str]:
    file = box.folder / f"known-{number}"
    words = {**box.words, "file": str(file)}
    file.write_bytes(row.known.format(**words).encode())
    rest = {
        "HostName": LOOPBACK,
        "Port": words["port"],
        "User": words["user"],
        "UserKnownHostsFile": str(file),
        "GlobalKnownHostsFile": "none",
        "IdentityAgent": "none",
        "ConnectTimeout": "20",
        "KexAlgorithms": "curve25519-sha256@libssh.org",  # the cheapest on both sides
        **({"IdentityFile": words["key"]} if row.key else {}),
    }
    lines = [row.before, "Host box", *row.lines.splitlines(), "Host *", *(f"    {key} {value}" for key, value in rest.items())]
    path = box.folder / f"config-{number}"
    path.write_bytes(("\n".join(lines).format(**words) + "\n").encode())
    return path, row.name.format(**words)


def _end_of_openssh(config: Path, name: str) -> tuple[str, str]:
    name, _, port = name.partition(":")
    command = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    command += [*(["-p", port] if port else []), name, "true"]
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False, text=True)
    return _class(shown.stderr, OPENSSH) if shown.returncode else ("in", "")


def _end_of_host(config: Path, name: str) -> tuple[str, str]:
    try:
        with SshHost(name, config=config, ask=_nobody) as host:
            host.run(["true"])
    except RemoteError as error:
        return _class(str(error), HOST) if "\n" not in str(error) else ("several lines", str(error))
    return "in", ""


def _nobody(_: str) -> str:
    raise EOFError


def _class(text: str, classes: dict[str, str]) -> tuple[str, str]:
    return next((name for name, pattern in classes.items() if re.search(pattern, text)), "other"), text


@pytest.mark.system
@pytest.mark.usefixtures("environment")
def test_the_table_ends_as_openssh_does(box: Box) -> None:
    assert len({row.title for row in TABLE}) == len(TABLE)
    assert shutil.which("ssh"), "OpenSSH's client comes with its server"
    with ThreadPoolExecutor(8) as pool:
        ends: list[tuple[Row, Future[tuple[str, str]], Future[tuple[str, str]]]] = []
        for number, row in enumerate(TABLE):
            place = _written(row, number, box)
            ends.append((row, pool.submit(_end_of_openssh, *place), pool.submit(_end_of_host, *place)))
        wrong = [
            f"{row.title}: {row.end} expected, OpenSSH {theirs.result()}, Host {ours.result()}"
            for row, theirs, ours in ends
            if {theirs.result()[0], ours.result()[0]} != {row.end}
        ]
    assert not wrong, "\n".join(wrong)
