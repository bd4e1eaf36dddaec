"""`workbench certs`: make a certificate authority for development, and TLS certificates for edge, cloud and client."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..terminal import printable
from .options import Commands, add_command, positive

__all__ = ["add"]


def add(commands: Commands) -> None:
    made = add_command(
        commands,
        "certs",
        certs,
        "make a development authority and certificates for edge, cloud and client",
        """  workbench certs data/certs                              for services on this machine
  workbench certs data/certs --names edge.example 192.0.2.7 --cloud-names cloud.example   for services on other machines
  workbench certs data/certs --roles edge --days 30       renew one, under the same authority

Copy to each host the folder of its role alone: DIR/edge, DIR/cloud, DIR/client. DIR/authority stays here.""",
    )
    made.add_argument("folder", type=Path, help="the folder to write to; keys are readable by their owner alone")
    local = "(default: localhost 127.0.0.1 ::1)"
    made.add_argument("--names", nargs="+", metavar="NAME", help=f"host names and addresses of the edge {local}")
    made.add_argument("--cloud-names", nargs="+", metavar="NAME", help=f"those of the cloud, none of them the edge's {local}")
    made.add_argument("--roles", nargs="+", choices=("edge", "cloud", "client"), help="default: all three")
    made.add_argument("--days", type=positive, default=365, metavar="N", help="validity in days, at most 825 (365)")


def certs(options: argparse.Namespace) -> int:
    from ..certs import LOCAL, ROLES, issue

    names, clouds = options.names or LOCAL, options.cloud_names or LOCAL
    for path in issue(options.folder, names, options.roles or ROLES, options.days, cloud_names=clouds):
        print(printable(path))
    return 0
