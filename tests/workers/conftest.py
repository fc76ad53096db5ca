"""A memory cgroup that really kills: what a full host does to a runner, without filling the host."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import wait_until

LIMIT_BYTES = 512 << 20


class MemoryCgroup:
    """A cgroup of either version with a limit. `eat` is Python that goes over it."""

    eat = "open('/proc/self/oom_score_adj', 'w').write('1000'); rows = [b'x' * (32 << 20) for _ in range(64)]"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (folder / name).exists():
                (folder / name).write_text(str(LIMIT_BYTES))
                return
        folder.rmdir()
        raise OSError(f"{folder} has no limit to set")

    def take(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Once the kernel has let go of what died there."""

        def removed() -> bool:
            with suppress(OSError):
                self.folder.rmdir()
            return not self.folder.exists()

        wait_until(removed, 10, f"the removal of {self.folder}")


@pytest.fixture
def memory_cgroup() -> Iterator[MemoryCgroup]:
    """Skips, and says so, where this machine allows none."""
    reasons = []
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        try:
            made = MemoryCgroup(root / f"hillclimb-test-{os.getpid()}")
        except OSError as error:
            reasons.append(str(error))
            continue
        yield made
        made.remove()
        return
    pytest.skip(f"no memory cgroup can be made here, so no real kill for want of memory is seen: {'; '.join(reasons)}")
