"""`unshare --mount python -m tests.workers.host.busy ROOT`: a matrix on a TPU host whose chip turns out to be busy.

The stand-in lies at /dev/vfio, where everybody would look, in a mount namespace that only this process and its children
see. A runner opens the chip as libtpu does, and says libtpu's words when it cannot; all else is the real thing.
"""

import asyncio
import io
import sys
import time
from pathlib import Path

from rich.console import Console

from core.code import code_hash
from core.ledger.writer import Ledger, OnChange
from core.matrix import expand
from core.visit import Platform, Target
from infra.bundle import Bundle
from infra.pool import HostSpec, LocalPool
from orchestrator.controller import Drive
from orchestrator.progress import Progress
from tests.vfio import vfio
from tests.workers.host.holding import HOLD
from workers.host.config import HostConfig
from workers.host.holders import Places
from workers.host.service import HostService

MATRIX = """
[experiment]
id = "busy"
goal = "Does a busy chip cost a retry?"
[job]
kind = "selftest"
[axes]
seed = [1, 2]
[baseline]
seed = 1
[measure]
blocks = 1
iters = 2
warmup = 0
"""
TPU = Target(platform=Platform.TPU, devices=4)

# The first one leaves an orphan with the chip, a moment before it wants the chip itself.
RUNNER = f"""
import os, subprocess, sys
mark, *rest = sys.argv[1:]
if not os.path.exists(mark):
    open(mark, "w").close()
    orphan = [sys.executable, "-c", {HOLD!r}, "/dev/vfio/0"]
    subprocess.Popen(orphan, stdout=subprocess.PIPE, start_new_session=True).stdout.readline()
try:
    chip = os.open("/dev/vfio/0", os.O_RDWR)
except OSError as error:
    print(f"TPU initialization failed: open(/dev/vfio/0): {{error.strerror}}", file=sys.stderr)
    sys.exit(1)
if "--claim" not in rest:
    os.set_inheritable(chip, True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers.runner", *rest])
"""


class Wire:
    """Calls reach the host's service in this process (`orchestrator.transport.Transport`)."""

    def __init__(self, root: Path) -> None:
        config = HostConfig(host="h", state=str(root / "state"), target=TPU)
        places = Places(groups=root / "no sysfs", lockfile=root / "lockfile")
        command = (sys.executable, "-c", RUNNER, str(root / "orphan made"))
        self.service = HostService(config, command, places)

    async def ensure(self, _: str) -> None:
        pass

    async def sync(self, _: str, call: str) -> str:
        return await self.service.sync(call)

    def discard(self, _: str) -> None:
        raise AssertionError("the host was given up")

    async def replace(self, _: str) -> bool:
        raise AssertionError("both speak one version")

    def reallocate(self, _: str) -> None:
        return None

    async def place(self, _host: str, _bundle: Bundle) -> None:
        raise AssertionError("no job names a revision")

    async def loss(self, _: str) -> None:
        return None


async def drive(root: Path) -> None:
    ledger = Ledger.open(root / "ledger.db")
    ledger.enqueue(expand(MATRIX, "busy.toml"), code_hash(), OnChange.REFUSE)
    wire = Wire(root)
    said = io.StringIO()
    hosts = [HostSpec(name="h", machine="m", target=TPU, selector={})]
    progress = Progress(Console(file=said), time.monotonic)
    try:
        async with asyncio.timeout(120):
            await Drive(ledger, hosts, wire, progress, code_hash(), {"busy"}, LocalPool(), lambda _: None).run()
    finally:
        await wire.service.close()
        ledger.close()
        print(said.getvalue())


if __name__ == "__main__":
    with vfio(Path("/dev/vfio"), "0", "vfio"):
        asyncio.run(drive(Path(sys.argv[1])))
