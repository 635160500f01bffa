"""The whole path on the embedded demo corpus: shards, training with mined negatives, evaluation before and after.

`make demo` calls it. It starts the same programs that a user starts, one after the other, and prints what they measured.
"""

import subprocess
import sys
import time
from pathlib import Path

from largescale.config import asked
from largescale.evaluation.results import read_results
from largescale.program.cli import recipe
from largescale.program.running import run_program
from largescale.settings import UserError

DATA, RUN = Path("data/demo"), Path("runs/demo")
CORPORA = {"gallery": DATA / "test", "distractors": DATA / "distractors"}


def call(*command: str) -> float:
    """Run a module; its output is shown. Seconds that it took."""
    print(f"\n$ python -m {' '.join(command)}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if status:
        sys.exit(status)
    return time.monotonic() - start


def torchrun(*command: str) -> float:
    return call("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "largescale", *command)


def main(arguments: list[str]) -> None:
    if asked(arguments) is not None:
        print(__doc__)
        return
    if arguments:
        raise UserError(f"{' '.join(arguments)}: the demo has no settings; its recipe is {recipe('demo')}")
    seconds = {"build the corpora": call("largescale", "shards", "demo", str(DATA))}
    scored = [f"evaluation.{name}={corpus}" for name, corpus in CORPORA.items()]
    seconds["train, and evaluate before and after"] = torchrun("train", str(recipe("demo")), *scored, "evaluation.every=10")
    weights = sorted((RUN / "weights").glob("step-*.safetensors"))
    results = {name: RUN / "evaluation" / weights[place].stem for name, place in (("before training", 0), ("after training", -1))}
    seen = [f"{name}={corpus}" for name, corpus in CORPORA.items()]
    out = results["after training"]
    seconds["report"] = call("largescale", "evaluate", "report", f"weights={weights[-1]}", *seen, f"out={out}")
    print(f"\n{'':18}{'map_rectangle':>14}{'95 % interval':>18}{'recall_at_1':>13}")
    for name, folder in results.items():
        metrics = read_results(folder).protocols[0].metrics
        score, recall = metrics["map_rectangle"], metrics["recall_at_1"]
        print(f"{name:18}{100 * score.value:14.2f}{100 * score.low:9.2f} –{100 * score.high:6.2f}{100 * recall.value:13.2f}")
    print("\n" + "\n".join(f"{name:38}{value:7.1f} s" for name, value in seconds.items()))
    print(f"\nreport: {out / 'report' / 'index.html'}")


if __name__ == "__main__":
    run_program(main)
