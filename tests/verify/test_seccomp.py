"""The filter, run here on an interpreter of its few instructions."""

from __future__ import annotations

import errno
import struct

import pytest

from credo.verify import seccomp

X86, ARM = 0xC000003E, 0xC00000B7
ALLOWED, KILLED = 0x7FFF0000, 0x80000000


def judge(machine: str, architecture: int, number: int, argument: int = 0) -> int:
    instructions = seccomp.program(machine)
    assert instructions
    steps = list(struct.iter_unpack("=HBBI", instructions))
    call = struct.pack("=IIQQ", number, architecture, 0, argument)
    value, at = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        match code:
            case 0x20:
                value = struct.unpack_from("=I", call, operand)[0]
                at += 1
            case 0x15:
                at += 1 + (yes if value == operand else no)
            case 0x35:
                at += 1 + (yes if value >= operand else no)
            case 0x45:
                at += 1 + (yes if value & operand else no)
            case 0x06:
                return operand
            case _:
                raise AssertionError(code)


REFUSED, MISSING = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "architecture", "number", "argument", "verdict"),
    [
        ("x86_64", X86, 0, 0, ALLOWED),  # read
        ("x86_64", X86, 41, 0, REFUSED),  # socket
        ("x86_64", X86, 57, 0, REFUSED),  # fork
        ("x86_64", X86, 101, 0, REFUSED),  # ptrace
        ("x86_64", X86, 56, 17, REFUSED),  # clone of a process
        ("x86_64", X86, 56, 0x10000, ALLOWED),  # of a thread
        ("x86_64", X86, 56, 0x10000 | 0x10000000, REFUSED),  # into a user namespace
        ("x86_64", X86, 435, 0, MISSING),  # clone3
        ("x86_64", X86, 0x40000000 | 101, 0, MISSING),  # the x32 table
        ("x86_64", 0x40000003, 3, 0, KILLED),  # the table of 32 bits
        ("aarch64", ARM, 63, 0, ALLOWED),
        ("aarch64", ARM, 117, 0, REFUSED),
        ("aarch64", ARM, 220, 17, REFUSED),
        ("aarch64", ARM, 220, 0x10000, ALLOWED),
        ("aarch64", X86, 63, 0, KILLED),
    ],
)
def test_system_calls(machine: str, architecture: int, number: int, argument: int, verdict: int):
    assert judge(machine, architecture, number, argument) == verdict


def test_an_unknown_machine_has_no_filter():
    assert seccomp.program("pdp11") is None
