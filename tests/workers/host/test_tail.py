from pydantic import TypeAdapter

from core.events import StderrTail
from workers.host.tail import HEAD_BYTES, Tail


def test_tail_of_little_is_all_of_it() -> None:
    tail = Tail()
    tail.feed(b"one ")
    tail.feed(b"two")
    assert tail.text() == "one two"


def test_tail_of_much_keeps_both_ends_and_fits_the_event() -> None:
    tail = Tail()
    for number in range(100_000):
        tail.feed(f"{number}\n".encode())
    text = tail.text()
    assert text.startswith("0\n1\n2\n")
    assert text.endswith("99998\n99999\n")
    assert "bytes left out" in text
    TypeAdapter(StderrTail).validate_python(text)


def test_tail_of_one_large_piece_keeps_both_ends() -> None:
    tail = Tail()
    tail.feed(b"a" * HEAD_BYTES + b"b" * 100_000 + b"end")
    assert tail.text().startswith("a" * HEAD_BYTES)
    assert tail.text().endswith("bbbend")


def test_tail_that_is_no_text_is_still_text() -> None:
    tail = Tail()
    tail.feed(b"\xff\xfe ok")
    assert tail.text().endswith(" ok")
