"""Suspect distractors: those that a positive follows, for two queries or more."""

from largescale.evaluation.report.suspects import suspects
from largescale.evaluation.results import Mark, Neighbour, QueryRecord


def record(number: int, label: str, positives: int, *top: tuple[Mark, int]) -> QueryRecord:
    rows = [
        Neighbour(id, f"image {id}", "distractors" if mark == "distractor" else "gallery", 0.9 - place / 10, mark)
        for place, (mark, id) in enumerate(top)
    ]
    return QueryRecord(number, f"query {number}", None, label, 0.5, positives, 0, top=rows)


def test_only_those_that_a_positive_of_two_queries_follows() -> None:
    found = suspects(
        [
            record(0, "a", 2, ("right", 0), ("distractor", 1), ("distractor", 2), ("right", 5)),
            record(1, "a", 1, ("distractor", 2), ("right", 0), ("distractor", 3)),  # nothing follows 3
            record(2, "b", 4, ("distractor", 3), ("right", 0), ("distractor", 4)),  # three positives follow out of sight
            record(3, "c", 1, ("distractor", 4), ("distractor", 3)),
        ]
    )
    assert [suspect.row.id for suspect in found] == [3, 4, 2]  # 3 and 4 for two landmarks; 3 is as similar as 4; 2 for one
    assert [[query.id for query in suspect.queries] for suspect in found] == [[2, 3], [2, 3], [0, 1]]
    assert found[2].row.score == 0.9  # where it is nearest


def test_the_same_number_in_two_corpora_is_two_images() -> None:
    top = [Neighbour(7, "x", "distractors", 0.9, "distractor", corpus) for corpus in (0, 1)]
    records = [QueryRecord(n, f"q{n}", None, "a", 0.1, 3, 9, top=[row]) for n, row in enumerate(top)]
    assert suspects(records) == []
