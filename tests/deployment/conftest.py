"""Real OpenSSH servers for the tests of this folder."""

from tests.support.sshd import machines, namespaces, own_home, sshd

__all__ = ["machines", "namespaces", "own_home", "sshd"]
