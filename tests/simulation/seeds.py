"""One seed from its number to its end, with what the simulation has to have changed in the product for it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.schedule import EVERYTHING, Scenario
from tests.simulation.world import World
from workers.host.spool import Spool

REPLAY = "HILLCLIMB_SIM_SEED={seed} python -m pytest tests/simulation -k every_rule"


@contextmanager
def watched(world: World) -> Iterator[None]:
    """Every line any spool shows is known to the world, and a full disk refuses every write."""
    show, write, write_started, begin_segment = Spool._show, Spool._write, Spool._write_started, Spool._begin_segment

    def shown(spool: Spool, lines: Any) -> None:
        for line in lines:
            world.shown(spool.id, line.entry)
        show(spool, lines)

    def has_space(spool: Spool) -> None:
        if spool._directory.parent in world.full_disks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def written(spool: Spool, lines: Any) -> None:
        has_space(spool)
        write(spool, lines)

    def started_written(spool: Spool) -> None:
        has_space(spool)
        write_started(spool)

    def segment_begun(spool: Spool, first: int) -> None:
        has_space(spool)
        begin_segment(spool, first)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "_show", shown)
        patch.setattr(Spool, "_write", written)
        patch.setattr(Spool, "_write_started", started_written)
        patch.setattr(Spool, "_begin_segment", segment_begun)
        # nothing here cuts the power under a file system
        patch.setattr(os, "fsync", lambda _: None)
        yield


def simulate(seed: int, scenario: Scenario = EVERYTHING) -> World:
    """Raises Violation, or what the product raised, with how to see it again."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    root = Path(tempfile.mkdtemp(prefix="hillclimb-sim-", dir=memory))
    try:
        world = World(seed, scenario, root)
        with watched(world):
            try:
                world.begin()
                world.run()
            except BaseException as error:
                error.add_note("\n".join(world.log[-90:]))
                error.add_note(f"replay: {REPLAY.format(seed=seed)}")
                raise
            finally:
                world.end()
        return world
    finally:
        shutil.rmtree(root)
