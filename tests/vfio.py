"""A stand-in for /dev/vfio: a FUSE file system whose groups are open in one place at a time, as the kernel's are.

A second open gets a real EBUSY, holders have real descriptors with real links in /proc. Reading a group never ends, not
even by SIGKILL: such a reader sits in the kernel (state D) until the stand-in ends, as in an ioctl of a chip that does
not answer.

It speaks the kernel's own protocol (linux/fuse.h, version 7.31) on /dev/fuse, because that needs nothing installed, and
it is a process of its own: a test that waits for a file that it serves itself would wait for ever.
"""

import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import pytest

ROOT_NODE = 1
FIRST_GROUP = 2
MAX_REQUEST = 1 << 20
DIRECT_IO = 1  # FOPEN_DIRECT_IO: no page cache, a read is the reader's own wait


class Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42


UNANSWERED = {Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.READ}


class Groups:
    """What the file system answers."""

    def __init__(self, names: list[str]) -> None:
        self._names = dict(enumerate(names, FIRST_GROUP))
        self._open: set[int] = set()

    def answer(self, op: int, node: int, body: bytes) -> bytes:
        """The reply to a request. Raises OSError with the errno to reply."""
        match op:
            case Op.INIT:
                return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8)
            case Op.LOOKUP:
                name = body.rstrip(b"\0").decode()
                found = [node for node, known in self._names.items() if known == name]
                if not found:
                    raise OSError(errno.ENOENT, name)
                return struct.pack("=4Q2I", found[0], 0, 0, 0, 0, 0) + self._attributes(found[0])
            case Op.GETATTR | Op.SETATTR:
                return struct.pack("=Q2I", 0, 0, 0) + self._attributes(node)
            case Op.OPEN:
                if node in self._open:
                    raise OSError(errno.EBUSY, self._names[node])
                self._open.add(node)
                return struct.pack("=Q2I", 0, DIRECT_IO, 0)
            case Op.RELEASE:
                self._open.discard(node)
                return b""
            case Op.OPENDIR:
                return struct.pack("=Q2I", 0, 0, 0)
            case Op.READDIR:
                _, offset = struct.unpack_from("=2Q", body)
                return b"".join(self._entry(number) for number in range(offset, len(self._names)))
            case Op.FLUSH | Op.RELEASEDIR:
                return b""
            case _:
                raise OSError(errno.ENOSYS, str(op))

    def _entry(self, number: int) -> bytes:
        node, name = list(self._names.items())[number]
        entry = struct.pack("=2Q2I", node, number + 1, len(name), stat.S_IFREG >> 12) + name.encode()
        return entry + b"\0" * (-len(entry) % 8)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == ROOT_NODE else stat.S_IFREG | 0o666
        return struct.pack("=6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(folder: str, names: list[str]) -> None:
    """Mount on `folder`, say "mounted", and answer until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "vfio", folder], pass_fds=[device], check=True)
    print("mounted", flush=True)
    groups = Groups(names)
    while True:
        try:
            request = os.read(device, MAX_REQUEST)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            raise
        _, op, unique, node = struct.unpack_from("=2I2Q", request)
        if op in UNANSWERED:
            continue
        try:
            error_number, reply = 0, groups.answer(op, node, request[40:])
        except OSError as error:
            error_number, reply = error.errno or errno.EIO, b""
        os.write(device, struct.pack("=IiQ", 16 + len(reply), -error_number, unique) + reply)


def needs_mounts() -> None:
    """Skips the test where this user may not mount the stand-in."""
    may_mount = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    if not may_mount or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("NOT TESTED: a stand-in for /dev/vfio needs the right to mount, and /dev/fuse")


@contextmanager
def vfio(folder: Path, *groups: str) -> Iterator[Path]:
    """The stand-in at `folder`, which is made if need be. Its end frees whoever sits in the kernel."""
    needs_mounts()
    folder.mkdir(exist_ok=True)
    command = [sys.executable, __file__, str(folder), *groups]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "mounted\n"
            yield folder
        finally:
            server.kill()
            server.wait()
            subprocess.run(["umount", "--lazy", folder], check=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
