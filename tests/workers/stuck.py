"""A file system that takes a question and never answers it: whoever asks is in state D, and SIGKILL does not end it.

So sits a process in a vfio ioctl that does not come back. It speaks as much of the FUSE protocol as a mount needs.
"""

import ctypes
import os
import struct
from pathlib import Path

_INIT = 26  # linux/fuse.h: enum fuse_opcode
_HEADER = struct.Struct("IIQ")  # of fuse_in_header: length, opcode, unique
_REQUEST_BYTES = 1 << 17
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


class StuckFiles:
    """Mounted below `folder`. Raises OSError where this machine does not let us."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        if _libc.mount(b"stuck", os.fsencode(folder), b"fuse", 0, options.encode()):
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "mount of FUSE")
        self._answer_init()

    @property
    def path(self) -> Path:
        """Whoever looks at it is stuck."""
        return self._folder / "chip"

    def wait_for_a_question(self) -> None:
        """Blocks until somebody is stuck: the question was read here, and nobody answers it."""
        os.read(self._device, _REQUEST_BYTES)

    def let_go(self) -> None:
        """Ends the file system: everybody who is stuck gets an error, and the signals that wait."""
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
            _libc.umount2(os.fsencode(self._folder), _MNT_DETACH)

    def _answer_init(self) -> None:
        _, opcode, unique = _HEADER.unpack_from(os.read(self._device, _REQUEST_BYTES))
        assert opcode == _INIT
        # fuse_init_out: version 7.31, and no wish of our own
        said = struct.pack("IIIIHHII", 7, 31, 1 << 16, 0, 12, 10, 1 << 16, 1).ljust(64, b"\0")
        os.write(self._device, struct.pack("IiQ", 16 + len(said), 0, unique) + said)
