"""What an actor is told about its host when it is created."""

from typing import Annotated

from pydantic import Field

from core.model import Frozen
from core.visit import Deadlines, Target


class HostConfig(Frozen):
    """One host. Travels as JSON to the actor."""

    host: str = Field(description="inventory name")
    state: str = Field(description="directory on the host for lock, spools, scratch and compile cache")
    target: Target = Target()
    orphan_s: Annotated[float, Field(gt=0)] = 900.0
    kill_foreign: bool = Field(False, description="the ladder may end processes that are not hillclimb's own")
    trial_s: Annotated[float, Field(gt=0, description="within this a process starts the accelerator, or cannot")] = (
        Deadlines().start + Deadlines().init
    )
    # libtpu resets its chips when it ends by TERM: TERM, wait, KILL freed them where KILL alone almost never did.
    grace_s: Annotated[float, Field(ge=0)] = 10.0
