import signal

import pytest

from core.failures import Kind
from workers.host.exits import describe, kind_of


@pytest.mark.parametrize(
    ("returncode", "words", "kind"),
    [
        (1, "exit 1", Kind.CRASH),
        (2, "exit 2", Kind.CRASH),
        (134, "exit 134", Kind.CRASH),
        (137, "exit 137", Kind.KILLED),
        (139, "exit 139", Kind.CRASH),
        (143, "exit 143", Kind.KILLED),
        (-signal.SIGABRT, "signal 6 (SIGABRT)", Kind.CRASH),
        (-signal.SIGKILL, "signal 9 (SIGKILL)", Kind.KILLED),
        (-signal.SIGSEGV, "signal 11 (SIGSEGV)", Kind.CRASH),
        (-signal.SIGBUS, "signal 7 (SIGBUS)", Kind.CRASH),
        (-signal.SIGTERM, "signal 15 (SIGTERM)", Kind.KILLED),
        (-63, "signal 63", Kind.KILLED),
    ],
)
def test_exit_of_a_runner_is_described_and_classified(returncode: int, words: str, kind: Kind) -> None:
    assert describe(returncode) == words
    assert kind_of(returncode) is kind
