"""What a log shows of progress: whole lines, and few of them."""

import pytest

from largescale.program.progress import Lines, progress_bar, tracked


def test_a_log_gets_lines_and_no_redraws(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines("embed", 2000, "image", initial=500, pause=0.0) as bar:
        bar.set_postfix_str("loss 0.5")
        bar.update(500)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("embed: 1,000 of 2,000 images (50%), ")
    assert first.endswith(" left, loss 0.5")
    assert last.startswith("embed: 1,000 of 2,000 images (50%)")


def test_what_is_over_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("embed", 10, "image") as bar:
        bar.update(10)
    assert list(tracked(range(3), "listing", None, "image")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_without_a_label_nobody_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(None, 10, "image") as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""
