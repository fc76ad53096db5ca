"""What becomes of an error that reaches the top."""

from pathlib import Path

import pytest

from orchestrator.cli import main as top


def test_a_bug_of_ours_is_one_sentence_with_a_report_and_exit_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(top, "app", broken)
    monkeypatch.setattr(top.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        top.main()
    assert end.value.code == 70
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "ZeroDivisionError: of ours" in said
    report = Path(said.rpartition(" ")[2])
    assert "Traceback" in report.read_text()
    report.unlink()
