"""The wheel holds the checkout's `shards`, `launch` and `configs` below `largescale`."""

from setuptools import find_packages, setup

BELOW = {"largescale.launch": "launch", "largescale.configs": "configs"}

shards = find_packages(include=["shards", "shards.*"])
setup(
    packages=[*find_packages(include=["largescale", "largescale.*"]), *(f"largescale.{name}" for name in shards), *BELOW],
    package_dir=BELOW | {f"largescale.{name}": name.replace(".", "/") for name in shards},
    package_data={
        "largescale": ["py.typed", "**/*.pyi"],
        "largescale.configs": ["**/*.yaml"],
        "largescale.evaluation.report": ["templates/*"],
        "largescale.search.server": ["page/*"],
    },
)
