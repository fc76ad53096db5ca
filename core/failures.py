"""The taxonomy of failures: what went wrong -> who is to blame, and what to tell the person.

Blame decides the budget. What the job did wrong is final; what the host or the network did puts the block in front
again and never counts against the job; in between, one retry decides (`core.lifecycle.settle`).
"""

from enum import StrEnum
from typing import NamedTuple


class Blame(StrEnum):
    JOB = "job"
    HOST = "host"
    AMBIGUOUS = "ambiguous"


class Kind(StrEnum):
    """What went wrong with a run or a visit."""

    USER_ERROR = "user_error"
    COMPILE_ERROR = "compile_error"
    NUMERICS = "numerics"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_OUTPUT = "bad_output"
    CRASH = "crash"
    KILLED = "killed"
    STALL = "stall"
    WRONG_DEVICE = "wrong_device"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    WORKER_LOST = "worker_lost"
    HOST_LOST = "host_lost"
    ORPHANED = "orphaned"
    DISK = "disk"


class Meaning(NamedTuple):
    blame: Blame
    advice: str


MEANING: dict[Kind, Meaning] = {
    Kind.USER_ERROR: Meaning(
        Blame.JOB, "the job's values cannot be run: change them in the matrix, then `hillclimb run` it again"
    ),
    Kind.COMPILE_ERROR: Meaning(
        Blame.JOB, "the program does not compile: `hillclimb show RUN` has the compiler's words"
    ),
    Kind.NUMERICS: Meaning(
        Blame.JOB, "the output or a gradient is wrong: the kernel is at fault, its time means nothing"
    ),
    Kind.OUT_OF_MEMORY: Meaning(Blame.JOB, "the program does not fit the device: use fewer tokens or a narrower block"),
    Kind.BAD_OUTPUT: Meaning(
        Blame.AMBIGUOUS, "the runner said something that is no event: see its stderr in `hillclimb show RUN`"
    ),
    Kind.CRASH: Meaning(Blame.AMBIGUOUS, "the runner died of itself: see its stderr in `hillclimb show RUN`"),
    Kind.KILLED: Meaning(Blame.AMBIGUOUS, "a signal from outside killed the runner: look at the host's memory"),
    Kind.STALL: Meaning(Blame.AMBIGUOUS, "a phase ran past its deadline: its stacks are in `hillclimb show RUN`"),
    Kind.WRONG_DEVICE: Meaning(
        Blame.HOST, "the host does not show the accelerator it should: check its pool entry and its devices"
    ),
    Kind.ENVIRONMENT_MISMATCH: Meaning(
        Blame.HOST, "the host runs other code than the controller: bring both to the same revision"
    ),
    Kind.WORKER_LOST: Meaning(Blame.HOST, "the worker on the host died: its block is measured again"),
    Kind.HOST_LOST: Meaning(Blame.HOST, "the host stopped answering: its block is measured again"),
    Kind.ORPHANED: Meaning(
        Blame.HOST, "no controller called for longer than the orphan clock: its block is measured again"
    ),
    Kind.DISK: Meaning(Blame.HOST, "the host's disk is full: free some space there"),
}


def blame(kind: Kind) -> Blame:
    return MEANING[kind].blame
