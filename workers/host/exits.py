"""What a `waitpid` status says about a runner. Nothing else is trusted: Ray reports exit 0 and exit 137 alike.

Signals we sent ourselves are classified by who sent them, in `workers.supervisor`.
"""

import signal

from core.failures import Kind

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
# A shell or a container that saw its child die of a signal exits with this plus the signal's number.
_SHELL_SIGNAL = 128


def describe(returncode: int) -> str:
    """`exit 3` or `signal 9 (SIGKILL)`, from a Popen returncode."""
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


def kind_of(returncode: int) -> Kind:
    """How a runner died that nobody here sent a signal. `returncode` is not 0."""
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    is_signal = returncode < 0 or number in (signal.SIGKILL, signal.SIGTERM)
    return Kind.KILLED if is_signal and number not in _OWN_FAULT else Kind.CRASH
