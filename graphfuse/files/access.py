"""Who may read a file, and giving a new file the same: nobody gets to read what he could not.

Mode, group and POSIX ACL go along; the owner does where a file is replaced and the system allows
it (only root gives files away). Other extended attributes say things of the content that was there
(checksums, origins) or are the folder's to give (labels), and stay behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ACL = "system.posix_acl_access"
"""The extended attribute in which Linux shows a file's POSIX ACL."""

REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a system says that does not let this user, or has no such thing."""


@dataclass(frozen=True)
class Access:
    """Owner, group, mode, and the ACL in the system's own form, empty for none.

    `exact` is for a file that is replaced: the new one gets all of it. A new name gets what the
    user's umask leaves of it, and is the user's, as with `cp`.
    """

    owner: int
    group: int
    mode: int
    acl: bytes = b""
    exact: bool = False

    @property
    def at_creation(self) -> int:
        """The mode to create a file with: never wider than it becomes."""
        return 0o600 if self.exact else 0o600 | (self.mode & 0o066)

    @property
    def names_groups(self) -> bool:
        """Whether the group, or who is named in the ACL, may do other things than all others."""
        return bool(self.acl) or self.mode >> 3 & 7 != self.mode & 7


def access_of(file: int | Path, exact: bool = False) -> Access:
    """The access to an open file, or to that of a path."""
    status = os.stat(file)  # noqa: PTH116
    acl = b""
    if hasattr(os, "getxattr"):
        with contextlib.suppress(OSError):
            acl = os.getxattr(file, ACL)
    return Access(status.st_uid, status.st_gid, status.st_mode & 0o777, acl, exact)


def common(several: Iterable[Access]) -> Access:
    """The access to a new file that is made of several: for those who may read them all."""
    files = list(several)
    # For a file that everybody may read alike, any group is as good as its own.
    first, *others = [each for each in files if each.names_groups] or files[:1]
    mode = first.mode
    for each in files:
        mode &= each.mode
    if any((each.group, each.acl) != (first.group, first.acl) for each in others):
        for each in (first, *others):
            mode &= _without_group(each.mode, each.acl)
        return Access(first.owner, first.group, mode)
    return Access(first.owner, first.group, mode, first.acl)


def _without_group(mode: int, acl: bytes = b"") -> int:
    """What is left of a mode when its group is another one: what everybody may."""
    rest = 0 if acl else mode >> 3 & mode & 7
    return mode & 0o700 | rest << 3 | rest


def give(descriptor: int, access: Access) -> str:
    """Give a new, empty file its access; says what could not be kept, '' when all is."""
    if not hasattr(os, "fchown"):
        # Windows: the folder's list says who may read what is made in it.
        return ""
    mode = access.mode
    if not access.exact:
        # Its own user always may: the next run takes over what this one leaves.
        mode = (mode | 0o600) & os.fstat(descriptor).st_mode
        if not access.names_groups:
            return ""
    else:
        _tried(os.fchown, descriptor, access.owner, -1)
    _tried(os.fchown, descriptor, -1, access.group)
    now = os.fstat(descriptor)
    if not _give_acl(descriptor, access.acl) or now.st_gid != access.group:
        mode = _without_group(mode, access.acl)
        _give_acl(descriptor, b"")
    _tried(os.fchmod, descriptor, mode)
    if not access.exact:
        return ""
    return _lost(access, os.fstat(descriptor))


def _tried(call: Callable[..., None], *arguments: int) -> bool:
    """Whether the system did it; False where it does not let this user, or cannot."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return False
    return True


def _give_acl(descriptor: int, acl: bytes) -> bool:
    """Whether a file has this ACL now, or none: folders give one to what is made in them."""
    if not hasattr(os, "setxattr"):
        return not acl
    try:
        if acl:
            os.setxattr(descriptor, ACL, acl)
        else:
            os.removexattr(descriptor, ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, *REFUSALS):
            raise
        return not acl
    return True


def _lost(access: Access, now: os.stat_result) -> str:
    """What of a replaced file's access the new one does not have."""
    words: list[str] = []
    if now.st_uid != access.owner:
        words.append(f"the owner is user {now.st_uid}, no longer {access.owner}")
    if now.st_gid != access.group:
        words.append(f"the group is {now.st_gid}, no longer {access.group}")
    if now.st_mode & 0o777 != access.mode:
        words.append(f"the mode is {now.st_mode & 0o777:03o}, no longer {access.mode:03o}")
    return ", ".join(words)
