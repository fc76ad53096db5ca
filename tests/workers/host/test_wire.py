from core.events import PhaseBegan, RunEnded
from core.visit import Phase
from workers.host.wire import LINE_BYTES, Lines

EVENT = PhaseBegan(slot=0, phase=Phase.CHECK)
LINE = EVENT.model_dump_json().encode() + b"\n"


def test_lines_fed_byte_by_byte_are_whole_events() -> None:
    lines = Lines()
    events = [event for byte in LINE * 2 for event in lines.feed(bytes([byte]))[0]]
    assert events == [EVENT, EVENT]


def test_lines_without_a_last_newline_keep_the_rest() -> None:
    lines = Lines()
    assert lines.feed(LINE + LINE[:-1]) == ([EVENT], None)
    assert lines.feed(b"\n") == ([EVENT], None)


def test_lines_up_to_the_first_that_is_no_event() -> None:
    events, wrong = Lines().feed(LINE + b"hello\n" + LINE)
    assert events == [EVENT]
    assert "hello" in str(wrong)


def test_lines_with_an_event_only_a_host_may_say_are_refused() -> None:
    _, wrong = Lines().feed(b'{"event": "visit_ended", "state": "finished"}\n')
    assert "visit_ended" in str(wrong)


def test_lines_longer_than_any_event_are_refused() -> None:
    events, wrong = Lines().feed(b"x" * (LINE_BYTES + 1))
    assert events == []
    assert "longer than" in str(wrong)


def test_lines_with_a_kind_read_it() -> None:
    ended = RunEnded(slot=1, outcome="unsupported", reason="no such backend here")
    assert Lines().feed(ended.model_dump_json().encode() + b"\n") == ([ended], None)
