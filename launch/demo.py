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


def evaluate(weights: Path, out: Path) -> float:
    corpora = [f"gallery={DATA / 'test'}", f"distractors={DATA / 'distractors'}"]
    return torchrun("evaluate", f"weights={weights}", *corpora, f"out={out}")


def main(arguments: list[str]) -> None:
    if asked(arguments) is not None:
        print(__doc__)
        return
    if arguments:
        raise UserError(f"{' '.join(arguments)}: the demo has no settings; its recipe is {recipe('demo')}")
    seconds = {"build the corpora": call("largescale", "shards", "demo", str(DATA))}
    seconds["train"] = torchrun("train", str(recipe("demo")))
    weights = sorted((RUN / "weights").glob("step-*.safetensors"))
    results = {"before training": weights[0], "after training": weights[-1]}
    for name, file in results.items():
        out = RUN / "evaluation" / file.stem
        seconds[f"evaluate {name}"] = evaluate(file, out)
        results[name] = out
    print(f"\n{'':18}{'map_rectangle':>14}{'95 % interval':>18}{'recall_at_1':>13}")
    for name, out in results.items():
        metrics = read_results(out).protocols[0].metrics
        score, recall = metrics["map_rectangle"], metrics["recall_at_1"]
        print(f"{name:18}{100 * score.value:14.2f}{100 * score.low:9.2f} –{100 * score.high:6.2f}{100 * recall.value:13.2f}")
    print("\n" + "\n".join(f"{name:28}{value:7.1f} s" for name, value in seconds.items()))
    print(f"\nreport: {results['after training'] / 'report' / 'index.html'}")


if __name__ == "__main__":
    run_program(main)
