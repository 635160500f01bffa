import logging

import pytest

from largescale.program.logs import show_logs


def test_signed_urls_that_a_server_sends_on_to_are_struck_out(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("largescale")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    show_logs()
    logger.warning("attempt 1: %s", "403, message='Forbidden', url='http://host/0.tar?X-Amz-Signature=PLANTED'")
    assert capsys.readouterr().err.endswith("attempt 1: 403, message='Forbidden', url='http://host/0.tar?…'\n")
