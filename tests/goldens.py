"""Outputs of other projects on given inputs (`tests/golden/AREA.zip`), and their comparison by the rules stored with them."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "golden"
PRECISIONS = ("float32", "float64")


def read(area: str, name: str) -> bytes:
    """A file of the archive of an area."""
    with zipfile.ZipFile(FOLDER / f"{area}.zip") as archive:
        return archive.read(name)


@dataclass(frozen=True)
class Golden:
    """One case: arrays `in_*` are inputs, `out_*` what the peer answered."""

    area: str
    facts: dict[str, Any]

    @property
    def id(self) -> str:
        return self.facts["id"]

    @property
    def args(self) -> dict[str, Any]:
        return self.facts["args"]

    @property
    def raises(self) -> bool:
        """Whether the peer stops with an error, so that there is nothing to compare."""
        return "peer_raises" in self.facts

    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(read(self.area, self.facts["file"]))) as file:
            return dict(file)

    def compare(self, name: str, ours: Any, precision: str | None = None) -> None:
        """Assert that `ours` is the peer's `out_NAME`, in the given precision where the peer ran in two."""
        expected = self.arrays()["out_" + name + ("" if precision is None else f"_f{precision[5:]}")]
        ours = np.asarray(ours)
        rule = self._rule(name)
        if rule == "none":
            return
        if rule == "equal":
            np.testing.assert_array_equal(ours, expected)
            return
        expected = expected.reshape(ours.shape)
        if rule == "tangent":
            ours, expected = (_tangent(gradient, self.arrays()["in_embeddings"]) for gradient in (ours, expected))
        else:
            ours, expected = _RULES[rule](ours, expected)
        tolerance = self.facts["tolerance"][precision or str(expected.dtype)]
        tolerance = tolerance.get(name, tolerance)
        np.testing.assert_allclose(ours, expected, rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=f"{self.id} {name}")

    def _rule(self, name: str) -> str:
        rule = self.facts["compare"]
        return rule if isinstance(rule, str) else rule.get(name, rule["default"])


def _rows_up_to_sign(ours: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ours * np.sign((ours * expected).sum(1, keepdims=True)), expected


def _sum_over_map(ours: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ours.sum((-2, -1)), expected.sum((-2, -1))


def _tangent(gradient: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Without the part along the embedding itself."""
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return gradient - (gradient * x).sum(1, keepdims=True) * x


_RULES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "allclose": lambda ours, expected: (ours, expected),
    "rows_up_to_sign": _rows_up_to_sign,
    "sum_over_map": _sum_over_map,
}


def goldens(area: str, *groups: str) -> list[Any]:
    """The cases of some groups (all groups when none is named), or single cases by their ids, as parameters of a test."""
    cases = json.loads(read(area, "index.json"))
    chosen = [case for case in cases if not groups or case["group"] in groups or case["id"] in groups]
    return [pytest.param(Golden(area, case), id=case["id"]) for case in chosen]
