import csv
import io
import json

import pytest

from core.errors import HillclimbError
from orchestrator.report.render import Output, human, parse_output, print_report, print_rows


def _printed(rows: list[dict[str, object]], output: Output) -> str:
    out = io.StringIO()
    print_rows(rows, output, out)
    return out.getvalue()


NASTY = [
    {"name": 'comma, "quote"', "time_ms": 12.345678, "n": None, "ok": True},
    {"name": "pipe | back\\slash\nline", "time_ms": 0.0, "extra": {"a": [1]}},
]


def test_csv_awkward_values_survive() -> None:
    rows = list(csv.DictReader(io.StringIO(_printed(NASTY, Output.CSV))))
    assert [row["name"] for row in rows] == [row["name"] for row in NASTY]
    assert (rows[0]["time_ms"], rows[0]["ok"], rows[1]["extra"]) == ("12.345678", "true", '{"a": [1]}')


def test_json_keeps_every_digit_and_every_row_its_own_keys() -> None:
    assert json.loads(_printed(NASTY, Output.JSON)) == NASTY


def test_markdown_a_cell_cannot_break_its_row() -> None:
    lines = _printed(NASTY, Output.MD).strip().splitlines()
    assert len(lines) == 4
    assert r"pipe \| back\\slash<br>line" in lines[3]
    assert "12.35 ms" in lines[2]


def test_table_piped_is_never_folded_nor_padded() -> None:
    text = _printed([{"long": "x" * 500, "job": "a" * 64, "time_ms": 1.5}], Output.TABLE)
    assert "x" * 500 in text and "a" * 64 in text and "1.5 ms" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "\x1b" not in text


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", ["30", "80", "200"])
def test_table_on_a_terminal_keeps_numbers_whole_and_folds_prose(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    out = _Terminal()
    print_rows(
        [{"cell": "blocked e16", "time_ms": 1234.5, "job": "ab" * 32, "reason": "word " * 40}], Output.TABLE, out
    )
    assert "blocked e16" in out.getvalue() and "1,234 ms" in out.getvalue()
    assert "abababababab" in out.getvalue() and "ab" * 7 not in out.getvalue()
    assert out.getvalue().count("word") == 40


def test_table_columns_empty_in_every_row_are_left_out() -> None:
    assert "reason" not in _printed([{"cell": "a", "reason": "", "mfu": None}], Output.TABLE)


def test_table_markup_and_control_characters_are_text() -> None:
    text = _printed([{"name": "[red]\x1b[2J\x07"}], Output.TABLE)
    assert "[red]\\x1b[2J\\x07" in text


def test_report_sentences_stand_below_their_table() -> None:
    out = io.StringIO()
    print_report(
        {"comparisons": [{"arm": "a", "sentence": "a wins"}], "conclusions": [{"conclusion": "so"}]}, Output.TABLE, out
    )
    assert out.getvalue() == "comparisons\narm\n───\na\na wins\n\nso\n"


def test_report_csv_has_the_first_section_and_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_report({"cells": [{"a": 1}], "visits": [{"b": 2}], "none": []}, Output.CSV)
    out, err = capsys.readouterr()
    assert out == "a\n1\n"
    assert err == "csv has one kind of row: visits left out, -o json has all\n"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("time_ms", 12.3456, "12.35 ms"),
        ("time_ms", 123456.7, "123,457 ms"),
        ("effect_pct", -0.051234, "-0.05123 %"),
        ("tokens_per_s", 64000.0, "64,000"),
        ("sleep_s", 2.5, "2.5 s"),
        ("n", 1234567, "1,234,567"),
        ("pid", 1234567, "1234567"),
        ("error", 1.2e-7, "1.200e-07"),
        ("ok", False, "no"),
        ("x", None, "-"),
        ("x", 0.0, "0"),
    ],
)
def test_human_numbers_have_their_unit(key: str, value: object, shown: str) -> None:
    assert human(key, value) == shown


def test_parse_output_unknown_name_lists_the_known() -> None:
    with pytest.raises(HillclimbError, match="-o yaml: choose one of table, json, jsonl, csv, md"):
        parse_output("yaml")
