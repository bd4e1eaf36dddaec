"""Check that only the user can access the remote agent's folder on a machine.

The remote agent runs a stage (edge or cloud) there. Its folder contains code, keys and weights.
"""

from __future__ import annotations

from ..errors import RemoteError
from ..remote import Host
from ..terminal import printable

__all__ = ["own_folder"]

CHECK_S = 60.0
REFUSED = 9  # exit status of CHECK
# Argument: the folder, which is created if missing. Output, last line: its physical path, or the fault (status REFUSED).
# `ls -ldn` is the only portable way to get owner and mode. Characters 5 to 10 of the mode are the permissions of group and
# others. In a sticky directory (t), only owners rename entries. The loop up to / uses the physical path, which has no links.
CHECK = r"""
set -f; umask 077; me=$(id -u)
refuse() { printf '%s\n' "$1"; exit 9; }
entry() { set -- $(LC_ALL=C ls -ldn -- "$1"); mode=$1 owner=$3; }
mkdir -p -- "$1" || exit 1
[ -L "${1%/}" ] && refuse "$1 is a symbolic link: name the folder itself"
cd -P -- "$1" || exit 1
top=$(pwd -P)
entry "$top"
[ "$owner" = "$me" ] || refuse "$top belongs to another user (id $owner): name a folder of your own"
case $mode in ????------*) ;; *) refuse "$top is open to other users ($mode): remove it, or close it with chmod 700 \
if nobody else has written there" ;; esac
for name in store envs stages; do
  [ -L "$name" ] && refuse "$top/$name is a symbolic link: remove it"
  [ -e "$name" ] && entry "$name" && [ "$owner" != "$me" ] && refuse "$top/$name belongs to another user (id $owner): remove it"
done
above=$top
while [ "$above" != / ]; do
  above=${above%/*}; above=${above:-/}
  entry "$above"
  case $owner in 0|"$me") ;; *) refuse "$above, in which $top lies, belongs to another user (id $owner), who could \
replace it: name a folder elsewhere" ;; esac
  case $mode in
    ?????????[tT]*) ;;
    ?????w*|????????w*) refuse "$above, in which $top lies, can be written by other users ($mode), who could replace it: \
chmod go-w $above, or name a folder elsewhere" ;;
  esac
done
printf '%s\n' "$top"
"""


def own_folder(host: Host, folder: str) -> str:
    """Make `folder` on `host` if it is missing, check that only the user can access it, and return its physical path.

    Raises RemoteError if another user could read, write or replace the folder. So the folder must belong to the user, must not
    be a symbolic link, and must give other users no permissions. Each parent folder must belong to the user or to root. A
    parent folder to which other users can write must have the sticky bit.
    """
    result = host.run(["sh", "-c", CHECK, "own", folder.removeprefix("~/") or "."], timeout=CHECK_S)
    lines = result.out.decode("utf-8", "surrogateescape").splitlines() or [""]
    if result.status == 0 and lines[-1].startswith("/"):
        return lines[-1]
    if result.status == REFUSED:
        raise RemoteError(f"{host.name}: {lines[-1]}")
    errors = result.err.decode("utf-8", "replace").strip().splitlines()
    reason = printable(errors[-1])[:300] if errors else f"status {result.status}"
    raise RemoteError(f"{host.name}: {folder} cannot be made or looked at ({reason}): name another folder")
