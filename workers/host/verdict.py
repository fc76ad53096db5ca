"""Why a process is dead that was to measure, or to try the accelerator: from all that is known of it to a kind.

Invariant: pure and total. Who ended it decides first, then what it met before it came to any job, then its `waitpid`
status. Nothing else is trusted: Ray reports exit 0 and exit 137 alike.

Text counts where it can do no wrong. What a process says of its device counts until it has started it, and no text
blames a job: all slots of a process write to one stderr, and the words of one would condemn another.
"""

import re
import signal
from enum import Enum
from typing import NamedTuple, assert_never

from core.events import Probed
from core.failures import Kind
from core.visit import Phase
from workers.runner import USAGE_EXIT


class Ending(Enum):
    """Why we ended a process ourselves. What it did when it was told to says nothing about it."""

    CANCELLED = "cancelled"
    ORPHANED = "orphaned"
    DISK = "disk"
    BAD_OUTPUT = "bad output"
    STALL = "stall"


class Evidence(NamedTuple):
    """What is known of a process that did not do all it was for.

    returncode: as Popen says it; None for one that survives SIGKILL. output: the tail of what it wrote, within
    `workers.host.tail`'s bounds. ended: why we ended it, if we did. oom: what shows that the kernel killed it for want
    of memory (`workers.host.memory`), or "". probe: what the host looked like afterwards, if anybody looked. revision:
    it ran the code of a commit, which may know less than we do.
    """

    returncode: int | None
    phase: Phase
    output: str
    ended: Ending | None = None
    oom: str = ""
    probe: Probed | None = None
    revision: bool = False


class Verdict(NamedTuple):
    """`because`: the words that decided, for a person; "" where the status says it all."""

    kind: Kind
    because: str = ""


class Signature(NamedTuple):
    """A text by which a failure is known, and where it was seen."""

    kind: Kind
    pattern: re.Pattern[str]
    seen: str


# No job has been reached in these.
EARLY = frozenset({Phase.START, Phase.INIT})

# What keeps a process from starting its device. The first that is found decides, so the more telling come first.
OF_THE_START = (
    Signature(Kind.TPU_BUSY, re.compile("Device or resource busy"), "open(/dev/vfio/0), in the logbooks"),
    Signature(Kind.TPU_BUSY, re.compile("Couldn't open iommu group"), "libtpu's older words for the same"),
    Signature(
        Kind.TPU_BUSY,
        re.compile("The TPU is already in use by"),
        "libtpu 0.0.42: 'process with pid N', and 'another process probably owned by another user'",
    ),
    Signature(
        Kind.TPU_BUSY,
        re.compile("Internal error when accessing libtpu multi-process lockfile"),
        "libtpu 0.0.42, when another process of the same user has the lock",
    ),
    # Of all that may be behind it a holder is the likeliest, and what frees a busy chip resets a confused one.
    Signature(Kind.TPU_BUSY, re.compile("Failed to initialize TPU system"), "libtpu, beside FAILED_PRECONDITION"),
    # Not busy, and no fault of the chip: this user or this container is not given it, and no retry changes that.
    Signature(
        Kind.TPU_MISSING,
        re.compile(r"/dev/(accel|vfio/)\w*\)?: (Operation not permitted|Permission denied)"),
        "open(/dev/accel3), on a TPU VM",
    ),
    Signature(Kind.TPU_MISSING, re.compile("No jellyfish device found"), "libtpu 0.0.42 on a machine without a TPU"),
    Signature(Kind.TPU_MISSING, re.compile("No accelerator found"), "on TPU VMs whose driver was gone"),
    Signature(Kind.TPU_MISSING, re.compile("no JAX plugin for it is installed"), "workers.bench.devices"),
    Signature(Kind.CPU_FALLBACK, re.compile("JAX fell back to the CPU"), "workers.bench.devices"),
    Signature(
        Kind.ENVIRONMENT_MISMATCH,
        re.compile(r"^(ModuleNotFoundError|ImportError): ", re.MULTILINE),
        "Python without a package that the controller has",
    ),
    Signature(Kind.WRONG_DEVICE, re.compile(r"^wrong device: ", re.MULTILINE), "workers.runner, of all other causes"),
)

# What makes a process end itself, wherever it is.
OF_ITSELF = (
    Signature(Kind.XLA_ABORT, re.compile(r"^F\d{4} \d\d:\d\d:\d\d", re.MULTILINE), "absl's LOG(FATAL), jaxlib 0.10"),
    Signature(Kind.XLA_ABORT, re.compile("Check fail(ed|ure)"), "absl's CHECK, libtpu 0.0.42"),
    Signature(Kind.XLA_ABORT, re.compile("terminate called"), "libstdc++, of an exception nobody caught"),
)
# Nothing before it can go wrong on one host and not on another: the interpreter, its packages and the code are one.
_LACKS_MODULE = Signature(
    Kind.USER_ERROR,
    re.compile(r"^(ModuleNotFoundError|ImportError): |No module named", re.MULTILINE),
    "an old revision in an environment of today's; `python -m` of a module that is not there",
)
DISK_IS_FULL = Signature(Kind.DISK, re.compile("No space left on device"), "strerror(ENOSPC)")

# A process gets these for what it did itself; any other signal comes from outside.
_OWN_FAULT = {
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGSEGV,
    signal.SIGSYS,
}
# A shell or a container that saw its child die of a signal exits with this plus the signal's number. Only for these
# two is that likelier than a program's own status.
_SHELL_SIGNAL = 128
_SHELL_TELLS = {signal.SIGKILL, signal.SIGTERM}

# `because` is part of one sentence; the whole text is in the run's stderr.
_WORDS_CHARS = 400


def verdict(evidence: Evidence) -> Verdict:
    """How a process died. It has not done what it was for."""
    match evidence.ended:
        case Ending.CANCELLED:
            return Verdict(Kind.CANCELLED)
        case Ending.ORPHANED:
            return Verdict(Kind.ORPHANED)
        case Ending.DISK:
            return Verdict(Kind.DISK)
        case Ending.BAD_OUTPUT:
            return Verdict(Kind.BAD_OUTPUT)
        case Ending.STALL:
            if evidence.phase in EARLY:
                return _met_at_start(evidence) or Verdict(Kind.INIT_HANG)
            return Verdict(Kind.STALL)
        case None:
            return _of_its_exit(evidence)
        case _:
            assert_never(evidence.ended)


def from_outside(returncode: int | None) -> bool:
    """Whether a signal that this process did not send itself ended it."""
    return returncode is not None and (number := _signal(returncode)) != 0 and number not in _OWN_FAULT


def of_settings(kind: Kind) -> Kind:
    """How an arm failed whose process settings let no process start where those of others did.

    A host that starts the others is not to blame for what settings can bring about, and might be for anything else.
    """
    match kind:
        case Kind.INIT_HANG:
            return Kind.STALL
        case Kind.TPU_MISSING | Kind.CPU_FALLBACK | Kind.WRONG_DEVICE | Kind.ENVIRONMENT_MISMATCH:
            return Kind.CRASH
        case _:
            return kind


def describe(returncode: int | None) -> str:
    """`exit 3` or `signal 9 (SIGKILL)`, from a Popen returncode."""
    if returncode is None:
        return "none: it survives SIGKILL"
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


def _of_its_exit(evidence: Evidence) -> Verdict:
    returncode = evidence.returncode
    if returncode is None:
        return Verdict(Kind.STALL)
    if returncode == 0:
        return Verdict(Kind.BAD_OUTPUT)
    if from_outside(returncode):
        if _signal(returncode) == signal.SIGKILL and evidence.oom:
            return Verdict(Kind.HOST_OOM, evidence.oom)
        return _probed(evidence) or Verdict(Kind.KILLED)
    # a program that a signal ended had no time to say why; what it warned of before is another matter
    if returncode > 0 and (full := _recognised(evidence.output, (DISK_IS_FULL,))):
        return full
    return _met_at_start(evidence) or _recognised(evidence.output, OF_ITSELF) or Verdict(Kind.CRASH)


def _met_at_start(evidence: Evidence) -> Verdict | None:
    """What the process says of its device, else what the host shows; None once it has come to a job."""
    if evidence.phase not in EARLY:
        return None
    found = _not_understood(evidence) or _recognised(evidence.output, OF_THE_START)
    return found or _probed(evidence)


def _not_understood(evidence: Evidence) -> Verdict | None:
    """Another revision that does not know a field, a kind of job or an option, or wants what is not installed.

    The host has what the revision was put there with, so no other host does better: who named the revision did it.
    """
    if not evidence.revision:
        return None
    if evidence.returncode == USAGE_EXIT:
        lines = evidence.output.strip().splitlines()
        return Verdict(Kind.USER_ERROR, lines[-1].strip()[:_WORDS_CHARS] if lines else "")
    return _recognised(evidence.output, (_LACKS_MODULE,))


def _probed(evidence: Evidence) -> Verdict | None:
    """A host that is not clean explains a death that no job had a part in."""
    probe = evidence.probe
    if evidence.phase not in EARLY or probe is None or probe.kind is None:
        return None
    return Verdict(probe.kind, probe.reason)


def _recognised(output: str, signatures: tuple[Signature, ...]) -> Verdict | None:
    """By the first of `signatures` that is in `output`, with the line it stands in."""
    for signature in signatures:
        if found := signature.pattern.search(output):
            begin = output.rfind("\n", 0, found.start()) + 1
            return Verdict(signature.kind, output[begin:].partition("\n")[0].strip()[:_WORDS_CHARS])
    return None


def _signal(returncode: int) -> int:
    """The number of the signal that a status tells of; 0 when it tells of none."""
    if returncode < 0:
        return -returncode
    return returncode - _SHELL_SIGNAL if returncode - _SHELL_SIGNAL in _SHELL_TELLS else 0
