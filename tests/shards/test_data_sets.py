from pathlib import Path

import pytest

from shards.layouts import LAYOUTS, choose, corpora
from shards.sources.layout import Request
from tests.conftest import ROOT
from tests.shards.data_sets import TREES_OF_ALL, entry, read, source_of
from tests.shards.own_trees import OWN_TREES

PAGE = (ROOT / "docs/reference/data-sets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "write"), [(name, write) for name, writers in OWN_TREES.items() for write in writers])
def test_collections_without_annotation_files_are_recognized_and_read(tmp_path: Path, name: str, write) -> None:
    expected = write(tmp_path)
    source = source_of(name, tmp_path)
    assert choose(source).layout.name == name
    found = corpora(Request(source), LAYOUTS[name])
    assert {corpus: read(one)[0] for corpus, one in found.items()} == expected
    for one in found.values():
        first = next(iter(one.items()))
        assert one.read(first.place)[:2] in (b"\xff\xd8", b"\x89P")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), TREES_OF_ALL, ids=[write.__name__ for _, write in TREES_OF_ALL])
def test_the_page_says_what_comes_out(tmp_path: Path, name: str, write) -> None:
    row, tree = entry(name, write, tmp_path)
    assert row in PAGE
    assert tree in PAGE
