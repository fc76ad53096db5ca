"""Verdicts over texts and statuses as they were seen; `test_verdict_on_real_words.py` has their authors speak."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.events import Probed
from core.failures import Blame, Kind, blame
from core.visit import Phase
from workers.host.verdict import (
    DISK_IS_FULL,
    EARLY,
    OF_ITSELF,
    OF_THE_START,
    Ending,
    Evidence,
    Verdict,
    describe,
    from_outside,
    of_settings,
    verdict,
)

BUSY = Probed(clean=False, kind=Kind.TPU_BUSY, reason="/dev/vfio/0 is held by pid 7")
LATE = [phase for phase in Phase if phase not in EARLY]

# Word for word: of libtpu 0.0.42.1 and jaxlib 0.10.2 where it could be made to say them, else of the logbooks.
SEEN_AT_START = [
    (Kind.TPU_BUSY, "RuntimeError: TPU initialization failed: open(/dev/vfio/0): Device or resource busy"),
    (Kind.TPU_BUSY, "E0000 tpu_driver.cc:88] Couldn't open iommu group /dev/vfio/0"),
    (Kind.TPU_BUSY, "ABORTED: The TPU is already in use by process with pid 4711. Not attempting to load libtpu.so"),
    (
        Kind.TPU_BUSY,
        "jax.errors.JaxRuntimeError: ABORTED: The TPU is already in use by another process probably owned by another "
        'user. Run "$ sudo lsof -w /dev/vfio/0" to figure out which process is using the TPU. If you still get this '
        'message, run "$ sudo rm /tmp/libtpu_lockfile".',
    ),
    (
        Kind.TPU_BUSY,
        "wrong device: tpu does not start: Unable to initialize backend 'tpu': ABORTED: Internal error when accessing "
        'libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".',
    ),
    (Kind.TPU_MISSING, "open(/dev/accel3): Operation not permitted"),
    (Kind.TPU_MISSING, "open(/dev/vfio/12): Permission denied"),
    (Kind.TPU_MISSING, "wrong device: tpu does not start: TPU initialization failed: No jellyfish device found."),
    (Kind.TPU_MISSING, "RuntimeError: No accelerator found. Run on a TPU or GPU machine."),
    (Kind.TPU_MISSING, "wrong device: cuda does not start: no JAX plugin for it is installed"),
    (Kind.CPU_FALLBACK, "wrong device: JAX fell back to the CPU, the visit asks for 4 tpu devices"),
    (Kind.ENVIRONMENT_MISMATCH, "ModuleNotFoundError: No module named 'jaxlib'"),
    (Kind.ENVIRONMENT_MISMATCH, "ImportError: cannot import name 'topologies' from 'jax.experimental'"),
    (Kind.TPU_BUSY, "RuntimeError: FAILED_PRECONDITION: Failed to initialize TPU system"),
    (Kind.WRONG_DEVICE, "wrong device: the visit asks for 4 tpu devices, JAX shows 3 tpu"),
    (Kind.DISK, "OSError: [Errno 28] No space left on device: '/state/scratch/x'"),
]
SEEN_ANYWHERE = [
    (Kind.XLA_ABORT, "F1121 17:51:05.119382   26259 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --x"),
    (Kind.XLA_ABORT, "E0000 a.cc:1] so far so good\nF1121 17:51:58.948432   26742 get_runfiles_dir_helper.cc:233] no"),
    (Kind.XLA_ABORT, 'Check failed: os_helper->IsDirectoryAccessible(srcdir) srcdir "/tmp/h" is not accessible!'),
    (Kind.XLA_ABORT, "terminate called after throwing an instance of 'std::bad_alloc'"),
    (Kind.CRASH, "Fatal Python error: Aborted"),
    (Kind.CRASH, ""),
]


def of_exit(returncode: int, phase: Phase = Phase.MEASURE, **known) -> Kind:
    return verdict(Evidence(returncode, phase, **{"output": "", **known})).kind


@pytest.mark.parametrize(
    ("returncode", "words", "kind"),
    [
        (0, "exit 0", Kind.BAD_OUTPUT),
        (1, "exit 1", Kind.CRASH),
        (2, "exit 2", Kind.CRASH),
        (75, "exit 75", Kind.CRASH),
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
        (None, "none: it survives SIGKILL", Kind.STALL),
    ],
)
def test_exit_of_a_runner_is_described_and_classified(returncode: int | None, words: str, kind: Kind) -> None:
    assert describe(returncode) == words
    assert verdict(Evidence(returncode, Phase.MEASURE, "")) == Verdict(kind)
    assert from_outside(returncode) is (kind is Kind.KILLED)


@pytest.mark.parametrize("phase", [Phase.START, Phase.INIT])
@pytest.mark.parametrize(("kind", "text"), [*SEEN_AT_START, *SEEN_ANYWHERE])
def test_words_before_any_slot_tell_what_kept_the_device_from_starting(kind: Kind, text: str, phase: Phase) -> None:
    output = f"WARNING: Logging before InitGoogle() is written to STDERR\n{text}\nmore words\n"
    found = verdict(Evidence(1, phase, output))
    assert found.kind is kind
    assert found.because in text
    assert bool(found.because) is (kind is not Kind.CRASH)


@pytest.mark.parametrize("phase", LATE)
@pytest.mark.parametrize(("kind", "text"), [*SEEN_AT_START, *SEEN_ANYWHERE])
def test_words_of_a_start_mean_nothing_once_a_slot_was_reached(kind: Kind, text: str, phase: Phase) -> None:
    anywhere = kind in (Kind.DISK, Kind.XLA_ABORT)
    assert of_exit(1, phase, output=text) is (kind if anywhere else Kind.CRASH)


@pytest.mark.parametrize("returncode", [-signal.SIGABRT, -signal.SIGSEGV, 134])
def test_abort_with_the_words_of_xla_is_one_of_xla(returncode: int) -> None:
    for kind, text in SEEN_ANYWHERE:
        assert of_exit(returncode, output=text) is kind


def test_signature_of_each_kind_was_seen() -> None:
    texts = [text for _, text in (*SEEN_AT_START, *SEEN_ANYWHERE)]
    for signature in (*OF_THE_START, *OF_ITSELF, DISK_IS_FULL):
        assert any(signature.pattern.search(text) for text in texts), signature
        assert signature.seen


def test_disk_words_of_a_process_that_a_signal_ended_are_an_old_warning() -> None:
    assert of_exit(-signal.SIGSEGV, output="UserWarning: [Errno 28] No space left on device") is Kind.CRASH


@pytest.mark.parametrize("returncode", [-signal.SIGKILL, 137])
def test_signal_9_is_for_want_of_memory_only_with_evidence(returncode: int) -> None:
    assert of_exit(returncode) is Kind.KILLED
    assert of_exit(returncode, output="Out of memory: Killed process 7 (python)") is Kind.KILLED
    found = verdict(Evidence(returncode, Phase.CHECK, "", oom="the counter has grown"))
    assert found == Verdict(Kind.HOST_OOM, "the counter has grown")


@pytest.mark.parametrize("ended", list(Ending))
def test_signal_9_that_we_sent_is_never_for_want_of_memory(ended: Ending) -> None:
    assert of_exit(-signal.SIGKILL, ended=ended, oom="the counter has grown") is not Kind.HOST_OOM


@pytest.mark.parametrize("returncode", [-signal.SIGTERM, -signal.SIGSEGV, 1, 134, 143])
def test_evidence_of_a_full_memory_says_nothing_about_another_end(returncode: int) -> None:
    assert of_exit(returncode, oom="the counter has grown") is not Kind.HOST_OOM


@pytest.mark.parametrize("phase", list(Phase))
def test_stall_before_any_slot_is_the_accelerators(phase: Phase) -> None:
    assert of_exit(-9, phase, ended=Ending.STALL) is (Kind.INIT_HANG if phase in EARLY else Kind.STALL)


def test_stall_of_a_start_has_the_reason_that_it_says_or_that_the_probe_shows() -> None:
    said = Evidence(-9, Phase.INIT, "open(/dev/vfio/0): Device or resource busy", Ending.STALL)
    assert verdict(said).kind is Kind.TPU_BUSY
    assert verdict(Evidence(-9, Phase.INIT, "", Ending.STALL, probe=BUSY)) == Verdict(Kind.TPU_BUSY, BUSY.reason)


@pytest.mark.parametrize("returncode", [1, -signal.SIGKILL, -signal.SIGSEGV])
def test_probe_that_is_not_clean_explains_a_death_no_slot_had_a_part_in(returncode: int) -> None:
    assert of_exit(returncode, Phase.INIT, probe=BUSY) is Kind.TPU_BUSY
    assert of_exit(returncode, Phase.INIT, probe=Probed(clean=True)) in (Kind.CRASH, Kind.KILLED)
    assert of_exit(returncode, Phase.COMPILE, probe=BUSY) in (Kind.CRASH, Kind.KILLED)


def test_words_come_before_the_probe() -> None:
    assert of_exit(1, Phase.INIT, output="No jellyfish device found", probe=BUSY) is Kind.TPU_MISSING


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        (Ending.CANCELLED, Kind.CANCELLED),
        (Ending.ORPHANED, Kind.ORPHANED),
        (Ending.DISK, Kind.DISK),
        (Ending.BAD_OUTPUT, Kind.BAD_OUTPUT),
    ],
)
def test_end_that_we_brought_is_why_we_brought_it(ended: Ending, kind: Kind) -> None:
    for returncode in (None, 0, 1, -signal.SIGKILL, -signal.SIGSEGV):
        for phase in Phase:
            text = "Check failed: x\nDevice or resource busy\nNo space left on device"
            assert verdict(Evidence(returncode, phase, text, ended, "oom", BUSY)) == Verdict(kind)


TEXTS = st.lists(st.sampled_from([text for _, text in (*SEEN_AT_START, *SEEN_ANYWHERE)])).map("\n".join)
EVIDENCE = st.builds(
    Evidence,
    returncode=st.none() | st.integers(-64, 255),
    phase=st.sampled_from(Phase),
    output=TEXTS | st.text(),
    ended=st.none() | st.sampled_from(Ending),
    oom=st.sampled_from(["", "the counter has grown"]),
    probe=st.sampled_from([None, Probed(clean=True), BUSY]),
    revision=st.booleans(),
)


@pytest.mark.parametrize("phase", list(Phase))
def test_verdict_on_a_revision_that_does_not_understand_is_the_users_error_before_any_job(phase: Phase) -> None:
    refused = Evidence(2, phase, "a warning\nvisit.json: colour: unknown\n", revision=True)
    lacks = Evidence(1, phase, "Traceback\nModuleNotFoundError: No module named 'jaxlib'\n", probe=BUSY, revision=True)
    if phase in EARLY:
        assert verdict(refused) == Verdict(Kind.USER_ERROR, "visit.json: colour: unknown")
        assert verdict(lacks) == Verdict(Kind.USER_ERROR, "ModuleNotFoundError: No module named 'jaxlib'")
        assert verdict(lacks._replace(revision=False)).kind is Kind.ENVIRONMENT_MISMATCH
    else:
        assert {verdict(refused).kind, verdict(lacks).kind} == {Kind.CRASH}


@given(EVIDENCE)
def test_verdict_on_anything_never_blames_a_job_but_one_that_its_revision_did_not_understand(
    evidence: Evidence,
) -> None:
    if blame(verdict(evidence).kind) is Blame.JOB:
        assert evidence.revision and evidence.phase in EARLY and evidence.ended in (None, Ending.STALL)


@given(EVIDENCE)
def test_verdict_after_a_slot_was_reached_blames_the_host_for_nothing_but_its_disk(evidence: Evidence) -> None:
    kind = verdict(evidence).kind
    if evidence.phase not in EARLY and evidence.ended is not Ending.ORPHANED:
        assert kind is Kind.DISK or blame(kind) in (Blame.AMBIGUOUS, Blame.NOBODY)


@pytest.mark.parametrize("kind", list(Kind))
def test_settings_that_let_nothing_start_are_retried_once_and_never_for_ever(kind: Kind) -> None:
    """What settings may bring about is no longer the host's; what they cannot is left alone."""
    by_settings = {Kind.INIT_HANG, Kind.TPU_MISSING, Kind.CPU_FALLBACK, Kind.WRONG_DEVICE, Kind.ENVIRONMENT_MISMATCH}
    if kind in by_settings:
        assert blame(of_settings(kind)) is Blame.AMBIGUOUS
    else:
        assert of_settings(kind) is kind
