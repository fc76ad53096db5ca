"""The taxonomy of failures: what went wrong -> who is to blame, what the host goes through, what to tell the person.

Blame decides the budget. What the job did wrong is final; what the host or the network did puts the block in front
again and never counts against the job; in between, one retry decides (`core.lifecycle.judge`). How a failure is
recognised stands where it is seen: `workers.host.verdict` for a dead runner, `workers.bench.faults` inside one,
`orchestrator.fleet` for a host that does not answer.
"""

from enum import StrEnum
from typing import NamedTuple


class Blame(StrEnum):
    JOB = "job"
    HOST = "host"
    AMBIGUOUS = "ambiguous"
    NOBODY = "nobody"  # it was ended on purpose


class Kind(StrEnum):
    """What went wrong with a run or a visit."""

    USER_ERROR = "user_error"
    COMPILE_ERROR = "compile_error"
    NUMERICS = "numerics"
    HBM_OOM = "hbm_oom"
    VMEM_OOM = "vmem_oom"
    HOST_OOM = "host_oom"
    BAD_OUTPUT = "bad_output"
    XLA_ABORT = "xla_abort"
    CRASH = "crash"
    KILLED = "killed"
    STALL = "stall"
    INIT_HANG = "init_hang"
    TPU_BUSY = "tpu_busy"
    TPU_MISSING = "tpu_missing"
    CPU_FALLBACK = "cpu_fallback"
    WRONG_DEVICE = "wrong_device"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    DISK = "disk"
    WORKER_LOST = "worker_lost"
    RAYLET_LOST = "raylet_lost"
    HOST_LOST = "host_lost"
    SSH_UNREACHABLE = "ssh_unreachable"
    PREEMPTED = "preempted"
    ORPHANED = "orphaned"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @classmethod
    def _missing_(cls, value: object) -> "Kind | None":
        """What ledgers and spools of schema 0001 call a full device."""
        return cls.HBM_OOM if value == "out_of_memory" else None


class Effect(StrEnum):
    """What a host goes through before it takes the next visit. A clean probe is asked of it always."""

    NOTHING = "nothing"
    RECOVER = "recover"  # the ladder
    QUARANTINE = "quarantine"  # it will not get better by itself, or by the ladder


class Meaning(NamedTuple):
    blame: Blame
    effect: Effect
    advice: str


MEANING: dict[Kind, Meaning] = {
    Kind.USER_ERROR: Meaning(
        Blame.JOB,
        Effect.NOTHING,
        "the job's values cannot be run: change them in the matrix, then `hillclimb run` it again",
    ),
    Kind.COMPILE_ERROR: Meaning(
        Blame.JOB, Effect.NOTHING, "the program does not compile: `hillclimb show RUN` has the compiler's words"
    ),
    Kind.NUMERICS: Meaning(
        Blame.JOB, Effect.NOTHING, "the output or a gradient is wrong: the kernel is at fault, its time means nothing"
    ),
    Kind.HBM_OOM: Meaning(
        Blame.JOB, Effect.NOTHING, "the program does not fit the device's memory: use fewer tokens or a narrower block"
    ),
    Kind.VMEM_OOM: Meaning(
        Blame.JOB,
        Effect.NOTHING,
        "the kernel's tiles do not fit the chip's VMEM: use smaller ones, or raise --xla_tpu_scoped_vmem_limit_kib",
    ),
    Kind.HOST_OOM: Meaning(
        Blame.AMBIGUOUS,
        Effect.NOTHING,
        "the host ran out of memory: use a smaller job, or free memory there",
    ),
    Kind.BAD_OUTPUT: Meaning(
        Blame.AMBIGUOUS,
        Effect.NOTHING,
        "the runner said something that is no event: see its stderr in `hillclimb show RUN`",
    ),
    Kind.XLA_ABORT: Meaning(
        Blame.AMBIGUOUS, Effect.NOTHING, "XLA or libtpu aborted: its last words are in `hillclimb show RUN`"
    ),
    Kind.CRASH: Meaning(
        Blame.AMBIGUOUS, Effect.NOTHING, "the runner died of itself: see its stderr in `hillclimb show RUN`"
    ),
    Kind.KILLED: Meaning(
        Blame.AMBIGUOUS, Effect.NOTHING, "a signal from outside killed the runner: look at who else uses the host"
    ),
    Kind.STALL: Meaning(
        Blame.AMBIGUOUS, Effect.NOTHING, "a phase ran past its deadline: its stacks are in `hillclimb show RUN`"
    ),
    Kind.INIT_HANG: Meaning(
        Blame.HOST,
        Effect.RECOVER,
        "the accelerator did not start within its deadline: the host is recovered, `hillclimb pool check` shows it",
    ),
    Kind.TPU_BUSY: Meaning(
        Blame.HOST,
        Effect.RECOVER,
        "another process holds the accelerator: the host is recovered, `hillclimb pool check` names the holder",
    ),
    Kind.TPU_MISSING: Meaning(
        Blame.HOST,
        Effect.QUARANTINE,
        "the host shows no accelerator that a runner may open: check its devices and their permissions, then "
        "`hillclimb pool release` it",
    ),
    Kind.CPU_FALLBACK: Meaning(
        Blame.HOST,
        Effect.QUARANTINE,
        "JAX started on the CPU instead of the accelerator: check the host's libtpu, then `hillclimb pool release` it",
    ),
    Kind.WRONG_DEVICE: Meaning(
        Blame.HOST,
        Effect.QUARANTINE,
        "the host does not show the accelerator it should: check its pool entry and its devices",
    ),
    Kind.ENVIRONMENT_MISMATCH: Meaning(
        Blame.HOST,
        Effect.NOTHING,
        "the host runs other code than the controller: bring both to the same revision",
    ),
    Kind.DISK: Meaning(
        Blame.HOST, Effect.RECOVER, "the host's disk is full: free some space there, `hillclimb pool check` shows it"
    ),
    Kind.WORKER_LOST: Meaning(Blame.HOST, Effect.NOTHING, "the worker on the host died: its block is measured again"),
    Kind.RAYLET_LOST: Meaning(
        Blame.HOST, Effect.NOTHING, "Ray's node on the host is gone: start its raylet again, its block goes elsewhere"
    ),
    Kind.HOST_LOST: Meaning(Blame.HOST, Effect.NOTHING, "the host stopped answering: its block is measured again"),
    Kind.SSH_UNREACHABLE: Meaning(
        Blame.HOST, Effect.NOTHING, "the host does not answer SSH: check that it is up and reachable"
    ),
    Kind.PREEMPTED: Meaning(
        Blame.HOST, Effect.NOTHING, "the host was taken away by its provider: its block is measured elsewhere"
    ),
    Kind.ORPHANED: Meaning(
        Blame.HOST,
        Effect.NOTHING,
        "no controller called for longer than the orphan clock: its block is measured again",
    ),
    Kind.CANCELLED: Meaning(Blame.NOBODY, Effect.NOTHING, "somebody cancelled it: `hillclimb retry` measures it"),
    Kind.SUPERSEDED: Meaning(
        Blame.NOBODY, Effect.NOTHING, "another visit of its block ended first: its runs are kept and not counted"
    ),
}


def blame(kind: Kind) -> Blame:
    return MEANING[kind].blame


def effect(kind: Kind) -> Effect:
    return MEANING[kind].effect
