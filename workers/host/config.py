"""What an actor is told about its host when it is created."""

from typing import Annotated, Literal

from pydantic import Field

from core.model import Frozen
from core.visit import Deadlines, Target


class HostConfig(Frozen):
    """One host. Travels as JSON to the actor."""

    host: str = Field(description="inventory name")
    state: str = Field(description="directory on the host for lock, spools, scratch and compile cache")
    lock: str = Field("", description="path of the host's lock file; empty: `lock` in the state directory")
    bundles: str = Field("", description="directory on the host of the code bundles that visits name")
    python: str = Field("", description="the interpreter for them that the pool file names; empty: an environment's")
    bundle: str = Field("", description="the bundle that this actor's own code is of; empty: none")
    preemption: Literal["", "gce"] = Field("", description="the metadata server that says the host will be taken away")
    target: Target = Target()
    orphan_s: Annotated[float, Field(gt=0)] = 900.0
    kill_foreign: bool = Field(False, description="the ladder may end processes that are not hillclimb's own")
    trial_s: Annotated[float, Field(gt=0, description="within this a process starts the accelerator, or cannot")] = (
        Deadlines().start + Deadlines().init
    )
    # libtpu resets its chips when it ends by TERM: TERM, wait, KILL freed them where KILL alone almost never did.
    grace_s: Annotated[float, Field(ge=0)] = 10.0
