"""The system calls that no program in a box may use, as a filter of the kernel (seccomp), for two machines.

Both boxes have it. They refuse, each by its own means, what leads out of a box; the filter also refuses what
would reach another process, another namespace or rarely tested parts of the kernel.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import NamedTuple

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER, _ARCH, _FIRST = 0, 4, 16  # where the filter finds the call, the machine and the first argument
_SET_IDS = 0o6000  # the bits of a mode by which a program runs as its owner or group
_CREATE = 0o100 | 0o20_000_000  # O_CREAT, and the bit of its own of O_TMPFILE
_LEASE, _NOTIFY = 1024, 1026  # F_SETLEASE holds up others who open a file, F_NOTIFY watches a folder
_NEW_NAMESPACES = 0x7E02_0000  # the flags of clone() that make one
_INJECT_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_OF_FILE_SYSTEMS = (ord("f") << 8, ord("X") << 8)  # kinds of ioctl(): flags, attributes and seals of files
_X32 = 0x4000_0000  # calls of another ABI of x86-64, which have the same effects
_LOCAL, _IPV4, _IPV6, _NETLINK = 1, 2, 10, 16
_DATAGRAMS = (2, 3)  # kinds of sockets that send to any address, also as a pair
FAMILIES = (_LOCAL, _IPV4, _IPV6, _NETLINK)
"""The families of sockets in a box that has a network of its own; AF_VSOCK, say, would lead out of it."""

# The numbers on x86-64 and on aarch64; 0 where a machine does not have the call.
_DENIED = {
    # other processes
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440)},
    **{"move_pages": (279, 239), "migrate_pages": (256, 238), "perf_event_open": (298, 241)},
    # namespaces and mounts
    **{"unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41)},
    **{"mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429)},
    **{"fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433)},
    **{"mount_setattr": (442, 442), "open_tree_attr": (467, 467)},
    **{"open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264)},
    # keys and memory that outlive their processes, or that no limit counts
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    **{"shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180)},
    **{"memfd_create": (319, 279), "memfd_secret": (447, 447)},
    # the machine, and parts of the kernel that few programs use
    **{"bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425)},
    **{"io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fanotify_init": (300, 262)},
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105)},
    **{"finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142)},
    **{"swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60)},
    **{"quotactl_fd": (443, 443), "settimeofday": (164, 170), "clock_settime": (227, 112)},
    **{"clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161)},
    **{"setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, 0)},
    **{"ioperm": (173, 0), "modify_ldt": (154, 0), "uselib": (134, 0), "lookup_dcookie": (212, 18)},
}
# Calls that take the id of a process, or of several, and the argument that has it: 0 is the caller itself.
_OF_ITSELF = {
    **{"prlimit64": (302, 261, 0), "sched_setaffinity": (203, 122, 0), "sched_setparam": (142, 118, 0)},
    **{"sched_setscheduler": (144, 119, 0), "sched_setattr": (314, 274, 0)},
    **{"setpriority": (141, 140, 1), "ioprio_set": (251, 30, 1)},
}
# Landlock does not cover these, nor does bubblewrap for devices, which it binds as the machine has them.
# They do nothing and succeed, since copying a file would fail otherwise.
_OWNERS_AND_TIMES = {
    **{"chown": (92, 0), "lchown": (94, 0), "fchown": (93, 55), "fchownat": (260, 54)},
    **{"utime": (132, 0), "utimes": (235, 0), "futimesat": (261, 0), "utimensat": (280, 88)},
}
_MODES = {"chmod": (90, 0), "fchmod": (91, 52), "fchmodat": (268, 53)}
# The argument with the mode of what they create or change, and the one with flags where those decide.
_WITH_MODE = {
    **{"open": (2, 0, 2, 1), "openat": (257, 56, 3, 2), "creat": (85, 0, 1, None)},
    **{"mknod": (133, 0, 1, None), "mknodat": (259, 33, 2, None)},
    **{"chmod": (90, 0, 1, None), "fchmod": (91, 52, 1, None), "fchmodat": (268, 53, 2, None)},
}
_NO_ATTRIBUTES = {
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463)},
    **{"removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    **{"removexattrat": (466, 466)},
}
# What their first argument must not be: all processes of the user.
_OF_THE_USER = {"setpriority": (141, 140, 2), "ioprio_set": (251, 30, 3)}
# Programs do without these: the filter cannot see flags or modes of some, and by the others a program would
# see which files of the machine are opened.
_NOT_THERE = {
    **{"clone3": (435, 435), "openat2": (437, 437), "fchmodat2": (452, 452), "file_setattr": (469, 469)},
    **{"inotify_init": (253, 0), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27)},
}


class _Machine(NamedTuple):
    column: int
    arch: int
    socket: int
    socketpair: int
    clone: int
    ioctl: int
    fcntl: int


_MACHINES = {
    "x86_64": _Machine(0, 0xC000_003E, 41, 53, 56, 16, 72),
    "aarch64": _Machine(1, 0xC000_00B7, 198, 199, 220, 29, 25),
}


def is_known_machine() -> bool:
    """Whether there is a filter for this machine."""
    return platform.system() == "Linux" and platform.machine() in _MACHINES


def filter_program(*, namespaces: bool, modes: bool) -> bytes:
    """The filter for this machine: programs that break it get an error, EPERM in most cases.

    Files keep their owners and times; without `modes` they keep modes and attributes too. Nothing gets a
    set-user-ID or set-group-ID bit. Without `namespaces` of its own a box shares network, processes and
    mounts with the machine: there are no sockets then but pairs that stay connected, and a process sets
    limits and priorities of its own alone.
    """
    machine = _MACHINES[platform.machine()]
    lines = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, machine.arch), _answer(_KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine.column == 0:
        lines += [(_AT_LEAST, 0, 1, _X32), _answer(_ERROR | errno.ENOSYS)]
    answers = [(_DENIED, errno.EPERM), (_NOT_THERE, errno.ENOSYS), (_OWNERS_AND_TIMES, 0)]
    if not modes:
        answers += [(_MODES, 0), (_NO_ATTRIBUTES, errno.EOPNOTSUPP)]
        lines += _where(machine.ioctl, 1, _OF_FILE_SYSTEMS, mask=0xFF00)
    if not namespaces:
        lines += _without_others(machine)
    for calls, error in answers:
        for numbers in calls.values():
            if number := numbers[machine.column]:
                lines += [(_EQUAL, 0, 1, number), _answer(_ERROR | error)]
    lines += _unless(machine.clone, 0, [(_ANY_BIT, 0, 1, _NEW_NAMESPACES)])
    lines += _where(machine.ioctl, 1, _INJECT_INPUT)
    lines += _where(machine.fcntl, 1, (_LEASE, _NOTIFY))
    for *columns, mode, flags in _WITH_MODE.values():
        if number := columns[machine.column]:
            lines += _without_set_ids(number, mode, flags)
    families = FAMILIES if namespaces else ()
    tests = [(_EQUAL, len(families) - place, 0, family) for place, family in enumerate(families)]
    lines += _unless(machine.socket, 0, tests)
    lines += _unless(machine.socketpair, 0, [(_EQUAL, 1, 0, _LOCAL)])
    lines.append(_answer(_ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _without_others(machine: _Machine) -> list[tuple[int, int, int, int]]:
    """Refuse limits and priorities of other processes, and pairs of sockets that reach other sockets."""
    lines = _where(machine.socketpair, 1, _DATAGRAMS, mask=0xF)
    for *columns, argument in _OF_ITSELF.values():
        lines += _unless(columns[machine.column], argument, [(_EQUAL, 1, 0, 0)])
    for *columns, users in _OF_THE_USER.values():
        lines += _where(columns[machine.column], 0, (users,))
    return lines


def _answer(value: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, value)


def _unless(
    number: int, argument: int, tests: list[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Refuse a call, unless one of the tests jumps over the refusal that follows them."""
    inner = [(_LOAD, 0, 0, _FIRST + 8 * argument), *tests, _answer(_ERROR | errno.EPERM)]
    # The accumulator holds the number again behind the argument.
    return [(_EQUAL, 0, len(inner) + 1, number), *inner, (_LOAD, 0, 0, _NUMBER)]


def _without_set_ids(number: int, mode: int, flags: int | None) -> list[tuple[int, int, int, int]]:
    """Refuse a call whose mode has such a bit; the mode counts only where the flags create a file."""
    test = (_ANY_BIT, 0, 1, _SET_IDS)
    if flags is None:
        return _unless(number, mode, [test])
    return _unless(number, flags, [(_ANY_BIT, 0, 3, _CREATE), (_LOAD, 0, 0, _FIRST + 8 * mode), test])


def _where(
    number: int, argument: int, values: tuple[int, ...], *, mask: int = 0xFFFF_FFFF
) -> list[tuple[int, int, int, int]]:
    """Refuse a call where these bits of the argument have one of the values."""
    inner = [(_LOAD, 0, 0, _FIRST + 8 * argument), (_AND, 0, 0, mask)]
    for value in values:
        inner += [(_EQUAL, 0, 1, value), _answer(_ERROR | errno.EPERM)]
    return [(_EQUAL, 0, len(inner) + 1, number), *inner, (_LOAD, 0, 0, _NUMBER)]
