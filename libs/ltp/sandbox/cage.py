"""What the sandbox process is, before it runs foreign code: no network, a read-only disk, no data directory, no privileges.

Linux namespaces do it, entered by the process itself. Where the kernel refuses them, limits and a lesser user remain, and
`enter` says so, so that the result can say it too. Standard library only: this file runs under `python -I`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Sequence

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x4000, 1 << 18, 2, 4
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _CAP_V3 = 1, 38, 24, 0x20080522
_NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def enter(hidden: Sequence[str], scratch: str) -> str:
    """Shut this process in; returns "full" or "limits". The caller forks next: its child is the first of its pid space."""
    try:
        _namespaces(hidden, scratch)
        kept = "full"
    except OSError:
        _lesser_user(scratch)
        kept = "limits"
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return kept


def die_with_parent() -> None:
    """Be killed when the process that started this one ends; in a pid space of its own, everything in it goes along."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit(memory_bytes: int, seconds: float) -> None:
    """Limits of one run of foreign code. Memory is address space; the clock is the caller's to watch."""
    processor = int(seconds) + 2
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 256),
    ):
        resource.setrlimit(what, (most, most))


def _namespaces(hidden: Sequence[str], scratch: str) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call(_LIBC.unshare(_NEWUSER | _NEWNS | _NEWNET | _NEWPID))
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _call(_LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    attributes = _MountAttributes(_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    _call(_LIBC.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), size))
    for path in (scratch, *hidden):
        if os.path.isdir(path):
            options = b"size=64m,mode=700"
            _call(_LIBC.mount(b"tmpfs", path.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options))
    os.chdir(scratch)
    _drop_capabilities()


def _drop_capabilities() -> None:
    for capability in range(64):
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
    header = (ctypes.c_uint32 * 2)(_CAP_V3, 0)
    _call(_LIBC.capset(header, (ctypes.c_uint32 * 6)()))


def _lesser_user(scratch: str) -> None:
    os.chmod(scratch, 0o777)  # noqa: S103 - a fresh directory of ours, for whoever we are about to become
    os.chdir(scratch)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
