"""What an experiment compares: methods, trained from several seeds under the same number of images, scored alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, field_validator, model_validator

from largescale.settings import Settings


class ExperimentConfig(Settings):
    """An experiment: every method is trained from every seed, and all are scored on the same queries."""

    name: str = Field(pattern=r"^[\w.-]+$")
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
    """Settings of launch/train.py that all methods share."""
    methods: Mapping[str, dict[str, Any]]
    """What each method sets besides, by its name."""
    evaluate: dict[str, Any]
    """Settings of launch/evaluate.py."""
    metrics: tuple[str, ...] = ("map",)
    """Columns of the table; the methods are compared by the first."""
    reference: str
    """The method that the others are compared with."""

    @field_validator("methods")
    @classmethod
    def _names_of_folders(cls, methods: Mapping[str, Any]) -> Mapping[str, Any]:
        odd = [name for name in methods if not name.replace("-", "").replace("_", "").isalnum()]
        if odd:
            raise ValueError(f"{odd[0]!r} becomes the name of a folder: letters, digits, - and _ only")
        return methods

    @model_validator(mode="after")
    def _known_reference(self) -> "ExperimentConfig":
        if self.reference not in self.methods:
            raise ValueError(f"reference={self.reference} is none of the methods ({', '.join(self.methods)})")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds={list(self.seeds)}: each is one training, so give different ones, and at least one")
        return self
