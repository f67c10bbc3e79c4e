"""Machine code that starts a child in this process's own memory and walks a `Program` in it.

The child shares the memory (CLONE_VM) instead of a copy of it, which is what makes it cheap:
fork(2) of a 12 MB interpreter costs more than all the system calls of a container. So the child
may run nothing of Python's or libc's: its thread-local storage is the parent's. The code uses
registers alone. It needs no stack: it neither pushes nor calls, no signal can be delivered to
it (all are blocked, then all handlers are gone), and the parent's stack pointer, which it
inherits, is never used.

``spawn(clone_args, size, block)`` is clone3(2): pid or negative errno in the parent; in the child
it goes on to ``walk`` with the block in the third argument's register. The layout of the block is
`program`'s. On x86_64 the kernel keeps all registers but rax, rcx and r11, on aarch64 all but x0.

The instruction cache of aarch64 needs no care here: the kernel cleans it when a page that was
written becomes executable (``__sync_icache_dcache``).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable

from pytest_containers.linux.numbers import MACHINE

CODE = {
    "x86_64": bytes.fromhex(
        # spawn:
        "f30f1efa"  # endbr64
        "b8b3010000"  # mov eax, 435              # clone3
        "0f05"  # syscall
        "4885c0"  # test rax, rax
        "7401"  # jz walk
        "c3"  # ret
        # walk:
        "4889d3"  # mov rbx, rdx                # the block
        "488d6a78"  # lea rbp, [rdx + 120]      # the step
        # step:
        "48892b"  # mov [rbx], rbp
        "488b4500"  # mov rax, [rbp]
        "488b7d08"  # mov rdi, [rbp + 8]
        "488b7510"  # mov rsi, [rbp + 16]
        "488b5518"  # mov rdx, [rbp + 24]
        "4c8b5520"  # mov r10, [rbp + 32]
        "4c8b4528"  # mov r8, [rbp + 40]
        "4c8b4d30"  # mov r9, [rbp + 48]
        "0f05"  # syscall
        "48894538"  # mov [rbp + 56], rax
        "488b4d40"  # mov rcx, [rbp + 64]
        # deliver:
        "e30d"  # jrcxz delivered
        "488b140b"  # mov rdx, [rbx + rcx]      # the next receiver
        "4889040b"  # mov [rbx + rcx], rax
        "4889d1"  # mov rcx, rdx
        "ebf1"  # jmp deliver
        # delivered:
        "4883c558"  # add rbp, 88
        "483d01f0ffff"  # cmp rax, -4095
        "72bc"  # jb step                       # no error
        "f7d8"  # neg eax
        "3d80000000"  # cmp eax, 128
        "0f43c1"  # cmovae eax, ecx             # bit 0 for those; rcx is 0 here
        "480fa345f0"  # bt [rbp - 16], rax
        "72ab"  # jc step                       # ignored
        "bf7f000000"  # mov edi, 127
        "b8e7000000"  # mov eax, 231            # exit_group
        "0f05"  # syscall
        "0f0b"  # ud2
    ),
    "aarch64": b"".join(
        word.to_bytes(4, "little")
        for word in (
            # spawn:
            0xD503245F,  # hint #34             // bti c
            0xD2803668,  # mov x8, #435         // clone3
            0xD4000001,  # svc #0
            0xB4000040,  # cbz x0, walk
            0xD65F03C0,  # ret
            # walk:
            0xAA0203F3,  # mov x19, x2          // the block
            0x9101E054,  # add x20, x2, #120    // the step
            # step:
            0xF9000274,  # str x20, [x19]
            0xA9400288,  # ldp x8, x0, [x20]
            0xA9410A81,  # ldp x1, x2, [x20, #16]
            0xA9421283,  # ldp x3, x4, [x20, #32]
            0xF9401A85,  # ldr x5, [x20, #48]
            0xD4000001,  # svc #0
            0xF9001E80,  # str x0, [x20, #56]
            0xF9402289,  # ldr x9, [x20, #64]
            # deliver:
            0xB40000A9,  # cbz x9, delivered
            0xF8696A6A,  # ldr x10, [x19, x9]   // the next receiver
            0xF8296A60,  # str x0, [x19, x9]
            0xAA0A03E9,  # mov x9, x10
            0x17FFFFFC,  # b deliver
            # delivered:
            0x91016294,  # add x20, x20, #88
            0xB13FFC1F,  # cmn x0, #4095
            0x54FFFE23,  # b.lo step            // no error
            0xCB0003E0,  # neg x0, x0
            0xF102001F,  # cmp x0, #128
            0x9A9F3000,  # csel x0, x0, xzr, lo // bit 0 for those
            0xD346FC09,  # lsr x9, x0, #6
            0xD100428A,  # sub x10, x20, #16
            0xF8697949,  # ldr x9, [x10, x9, lsl #3]
            0x9AC02529,  # lsr x9, x9, x0
            0x3707FD29,  # tbnz w9, #0, step    // ignored
            0xD2800FE0,  # mov x0, #127
            0xD2800BC8,  # mov x8, #94          // exit_group
            0xD4000001,  # svc #0
            0xD4200000,  # brk #0
        )
    ),
}

WALK_AT = {"x86_64": 0x11, "aarch64": 0x14}
"""The offset of ``walk``, for tests where clone3 is not available."""

Entry = Callable[[int, int, int], int]


def load() -> tuple[Entry, mmap.mmap]:
    """Map the code of this machine, never writable and executable at once.

    Returns:
        ``spawn``, and the mapping which has to outlive it.

    Raises:
        OSError: The kernel refuses executable memory (SELinux ``execmem``, prctl(PR_SET_MDWE)), or
            there is no code for this machine (ENOSYS).
    """
    if MACHINE not in CODE:
        raise OSError(errno.ENOSYS, f"no machine code for {MACHINE}")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    memory.write(CODE[MACHINE])
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    protect = mmap.PROT_READ | mmap.PROT_EXEC
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), protect):
        code = ctypes.get_errno()
        raise OSError(code, "make machine code executable")
    # PYFUNCTYPE keeps the interpreter lock: another thread must not run between the clone and
    # the parent's bookkeeping.
    prototype = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return prototype(address), memory
