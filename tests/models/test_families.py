"""The page on timm's families is what its command prints."""

import pytest

from largescale.models.families import FAMILIES, PAGE, chosen
from largescale.settings import UserError
from tests.conftest import ROOT
from tests.distributed.runs import finish, start

TRIED = ("test_vit", "test_convnext")
"""Of each, one that makes tokens and one that makes a map."""


@pytest.mark.slow
@pytest.mark.distributed
def test_the_command_prints_what_the_page_has() -> None:
    process = start(TRIED, "--standalone", "--nproc-per-node", 2, "-m", program="largescale.models.families")
    printed = finish(process)
    assert process.returncode == 0, printed
    page = (ROOT / "docs/reference/families.md").read_text()
    assert page.startswith(PAGE)
    rows = [line for line in page.removeprefix(PAGE).splitlines() if line.startswith("|")]
    assert [row.split("|")[2].strip(" `") for row in rows[2:]] == list(FAMILIES.values())
    kept = [row for row in rows if row.split("|")[2].strip(" `") in ("tried", "---", *TRIED)]
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert sorted(table) == sorted(kept)
    assert table[:2] == rows[:2]


def test_all_families_or_those_of_some_models() -> None:
    assert chosen([]) == FAMILIES
    assert [*chosen(["test_vit", "test_resnet"]).values()] == ["test_resnet", "test_vit"]
    with pytest.raises(UserError, match=r"no family is tried with vit; there are test_resnet, "):
        chosen(["vit"])
