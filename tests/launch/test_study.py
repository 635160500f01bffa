"""launch/study.py: what is wrong with its arguments is said before anything is opened."""

import pytest

from largescale.settings import UserError
from launch.study import STUDIES, main


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["anchor"], "there is no study 'anchor'; did you mean anchors? known are anchors, conventions, decomposability,"),
        (["anchors"], "weights (or model) and gallery: a study embeds a corpus; give both"),
        (["anchors", "probe=3"], "unknown setting 'probe'; did you mean probes"),
        (["anchors", "model=a", "weights=b", "gallery=c"], "weights and model: one of them is scored"),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments: list[str], error: str) -> None:
    with pytest.raises(UserError) as found:
        main(arguments)
    assert error in str(found.value)


@pytest.mark.slow
def test_help_of_each_study(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = capsys.readouterr().out
    for name in STUDIES:
        assert f"\n  {name} " in listed
        main([name, "--help"])
        assert f"launch/study.py {name} " in capsys.readouterr().out
