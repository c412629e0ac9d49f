"""How Postgres, which refuses to run as root, is run when the platform is started by root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError

SETPRIV = "setpriv"
UNPRIVILEGED_USER = "nobody"
# Passing through directories closed to others (/root, mktemp -d) is all the user `nobody` lacks. This one capability
# gives it; Docker's default set has it, unlike dac_read_search.
CAPABILITY = "+dac_override"
WAY_OUT = "Run ltp as an ordinary user, or give a server of your own in LTP_DATABASE_URL."


@dataclass(frozen=True)
class Account:
    """The user a server runs as, and the command prefix that makes it so."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()


def server_account(death_signal: signal.Signals) -> Account:
    """Return the account for Postgres: the user's own, or `nobody` when the user is root.

    `death_signal` is set again by the prefix, because the kernel forgets it when a process changes its user.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    setpriv = shutil.which(SETPRIV, path=os.environ.get("PATH", "") + ":/usr/bin:/bin")
    if setpriv is None:
        raise _unavailable("`setpriv` (package util-linux) is not installed.", "Install util-linux.")
    try:
        user = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError as error:
        raise _unavailable(f"there is no user `{UNPRIVILEGED_USER}`.", "Add it to /etc/passwd.") from error
    prefix = (
        setpriv,
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
        # access(2), by which initdb looks for its siblings, else ignores the capabilities of everybody but root.
        "--securebits=+no_setuid_fixup",
        f"--inh-caps={CAPABILITY}",
        f"--ambient-caps={CAPABILITY}",
        f"--pdeathsig={death_signal.name.removeprefix('SIG')}",
        "--",
    )
    return Account(user.pw_uid, user.pw_gid, prefix)


def require_runnable(account: Account, program: Path) -> None:
    """Try the account on the program itself: only the kernel knows whether this container allows it."""
    argv = [*account.prefix, str(program), "--version"]
    tried = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, cwd="/")
    if tried.returncode != 0:
        raise _unavailable(f"{' '.join(argv)} says: {tried.stderr.strip()}", "Allow CAP_DAC_OVERRIDE and CAP_SETUID.")


def _unavailable(reason: str, remedy: str) -> LtpError:
    return LtpError(
        ErrorCode.DEPENDENCY_MISSING,
        f"Postgres cannot be run as `{UNPRIVILEGED_USER}`: {reason}",
        f"{remedy} {WAY_OUT}",
    )
