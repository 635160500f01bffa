import pytest

from largescale.mining.service.schedule import epochs_to_mine


def epochs(step: int, wait: str | float, pace: int = 0, awaited: bool = False) -> list[int]:
    return epochs_to_mine(step, 10, 5, wait, pace, lambda _: awaited)


def test_who_always_waits_gets_the_weights_of_the_boundary() -> None:
    assert [epochs(step, "always") for step in (0, 10, 40, 50)] == [[0], [1], [4], []]
    assert epochs(13, "always") == []


def test_who_never_waits_gets_the_coming_epoch() -> None:
    assert [epochs(step, "never") for step in (0, 3, 10, 29)] == [[1], [1], [2], [3]]
    assert epochs(10, "never", awaited=True) == [2]
    assert epochs(45, "never") == epochs(45, "never", pace=99) == []


def test_who_waits_for_a_while_comes_first() -> None:
    assert epochs(10, 60.0, awaited=True) == [1, 2]
    assert epochs(10, 60.0, awaited=False) == [2]
    assert epochs(13, 60.0, awaited=True) == [2]


@pytest.mark.parametrize(("pace", "expected"), [(0, 2), (9, 2), (10, 3), (25, 4), (1000, 4)])
def test_an_epoch_that_begins_before_the_pass_ends_is_left_out(pace: int, expected: int) -> None:
    assert epochs(10, "never", pace) == [expected]
