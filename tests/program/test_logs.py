import logging

import pytest

from largescale.program.logs import ONCE, show_logs


def test_signed_urls_that_a_server_sends_on_to_are_struck_out(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("largescale")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    show_logs()
    logger.warning("attempt 1: %s", "403, message='Forbidden', url='http://host/0.tar?X-Amz-Signature=PLANTED'")
    assert capsys.readouterr().err.endswith("attempt 1: 403, message='Forbidden', url='http://host/0.tar?…'\n")


@pytest.mark.parametrize(("rank", "lines"), [("0", ["all alike", "of one"]), ("3", ["of one"])])
def test_what_every_rank_would_say_alike_the_first_one_says(
    rank: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    logger = logging.getLogger("largescale")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    show_logs()
    logger.info("all alike", extra=ONCE)
    logger.info("of one")
    assert [line.partition(f"rank {rank}: ")[2] for line in capsys.readouterr().err.splitlines()] == lines
