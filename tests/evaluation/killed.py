"""An evaluation in a process of its own, to be killed: python -m tests.evaluation.killed DATA OUT."""

import sys
from pathlib import Path

from largescale.evaluation import evaluate
from tests.evaluation.small import alone, settings

if __name__ == "__main__":
    data, out = map(Path, sys.argv[1:])
    config = settings(out, gallery=str(data / "labels"), distractors=str(data / "far"))
    with alone() as world:
        evaluate(data / "weights.safetensors", config, world)
