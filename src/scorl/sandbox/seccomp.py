"""A filter of system calls: the ones that programs do not need and exploits of kernels do.

A list of what is refused, not of what is allowed: Python and its libraries need most of the others, which differ from
one C library to the next.
"""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["seccomp_filter"]

MACHINES = {
    # the kernel's number for the machine, then the numbers of: ptrace, process_vm_readv, process_vm_writev, mount,
    # umount2, pivot_root, chroot, unshare, setns, bpf, perf_event_open, userfaultfd, keyctl, add_key, request_key,
    # kexec_load, init_module, finit_module, delete_module, name_to_handle_at, open_by_handle_at, reboot, swapon
    "x86_64": (
        0xC000003E,
        (
            101,
            310,
            311,
            165,
            166,
            155,
            161,
            272,
            308,
            321,
            298,
            323,
            250,
            248,
            249,
            246,
            175,
            313,
            176,
            303,
            304,
            169,
            167,
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (117, 270, 271, 40, 39, 41, 51, 97, 268, 280, 241, 282, 219, 217, 218, 104, 105, 273, 106, 264, 265, 142, 224),
    ),
}
MODERN = (425, 426, 427, 428, 429, 430, 431, 432, 433, 442)
"""io_uring and the new mount interface, which have the same numbers everywhere."""
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1
"""What the kernel is told: continue, end the process, answer EPERM."""
LOAD, EQUAL, GREATER, RETURN = 0x20, 0x15, 0x35, 0x06


def assemble_filter(machine: int, numbers: tuple[int, ...]) -> bytes:
    """The filter as a program of the kernel's packet filter (BPF): one instruction is (code, if, else, value).

    Jumps count the instructions that they skip.
    """
    refused = (*numbers, *MODERN)
    # The machine first: a 32-bit call of a 64-bit process has other numbers, and would pass a filter of these.
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    # The same for x32, the third calling convention of x86_64, whose numbers begin here.
    lines += [(GREATER, len(refused) + 1, 0, 0x40000000)]
    # EPERM, which Python raises as PermissionError and which becomes the outcome `forbidden`; a kill would say nothing.
    lines += [(EQUAL, len(refused) - index, 0, number) for index, number in enumerate(refused)]
    lines += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


@contextmanager
def seccomp_filter() -> Iterator[tuple[int, ...]]:
    """A descriptor from which bubblewrap reads the filter once; none on processors not listed here."""
    if platform.machine() not in MACHINES:
        yield ()
        return
    descriptor = os.memfd_create("seccomp")
    try:
        os.write(descriptor, assemble_filter(*MACHINES[platform.machine()]))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield (descriptor,)
    finally:
        os.close(descriptor)
