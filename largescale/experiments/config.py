"""What an experiment compares: methods, trained from several seeds under the same number of images, scored alike."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from largescale.names import RunName
from largescale.settings import Settings


class VaryConfig(Settings):
    """A study: every method is trained with each value of one setting, which is the x axis of the plots."""

    setting: str
    """The setting of a training, for instance loss.margin."""
    values: tuple[int | float | str, ...] = Field(min_length=1)
    """Its values."""


class ExperimentConfig(Settings):
    """An experiment: every method is trained from every seed, and all are scored on the same queries."""

    name: RunName
    """Name of the experiment: its folder is OUT/NAME."""
    out: Path = Path("experiments")
    """Folder of the experiments; the same command goes on where it was stopped."""
    processes: PositiveInt = 1
    """Processes of each training and evaluation (torchrun, where there are several)."""
    images: PositiveInt
    """Images that each training sees, negatives included: per_epoch of each method follows from it, in whole steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trainings of each method."""
    train: dict[str, Any]
    """Settings of the trainings that all methods share."""
    methods: Mapping[str, dict[str, Any]]
    """What each method sets besides, by its name."""
    vary: VaryConfig | None = None
    evaluate: dict[str, Any]
    """Settings of the evaluations."""
    metrics: tuple[str, ...] = ("map_rectangle",)
    """Columns of the table; the methods are compared by the first."""
    reference: int | float | str
    """The method that the others are compared with, at the same value of what varies; or one of the values of what varies,
    which the others of the same method are compared with."""

    @field_validator("methods")
    @classmethod
    def _names_of_folders(cls, methods: Mapping[str, Any]) -> Mapping[str, Any]:
        odd = [name for name in methods if not name.replace("-", "").replace("_", "").isalnum()]
        if odd:
            raise ValueError(f"{odd[0]!r} becomes the name of a folder: letters, digits, - and _ only")
        return methods

    @model_validator(mode="after")
    def _different_runs(self) -> "ExperimentConfig":
        names = [point.name for point in self.points]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two trainings would share the folder {twice[0]}: give each value once, and other names to methods")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds={list(self.seeds)}: each is one training, so give different ones, and at least one")
        return self

    @model_validator(mode="after")
    def _known_reference(self) -> "ExperimentConfig":
        values = self.vary.values if self.vary else ()
        if self.reference not in self.methods and self.reference not in values:
            known = ", ".join(map(str, [*self.methods, *values]))
            raise ValueError(f"reference={self.reference} is none of the methods, and no value of what varies ({known})")
        return self

    @property
    def points(self) -> "list[Point]":
        """What is trained from every seed."""
        values = self.vary.values if self.vary else (None,)
        return [Point(method, value) for method in self.methods for value in values]

    def base(self, point: "Point") -> "Point":
        """What a point is compared with."""
        if self.reference in self.methods:
            return Point(str(self.reference), point.value)
        return Point(point.method, self.reference)


@dataclass(frozen=True)
class Point:
    """A row of the table."""

    method: str
    value: int | float | str | None = None
    """Of what varies."""

    @property
    def name(self) -> str:
        """Of the folders of its runs, before the seed."""
        return self.method if self.value is None else f"{self.method}-{re.sub(r'[^a-zA-Z0-9_.-]+', '-', str(self.value))}"
