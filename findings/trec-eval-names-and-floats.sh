#!/usr/bin/env bash
# trec_eval orders equal scores by the names of the documents, and takes scores in single precision.
#
# Guess: a right image whose score is larger than a wrong one's comes first; among equal scores the order of the run decides.
# Found: with pytrec_eval (and ir-measures, which calls it), scores that differ by 1e-9 are equal, and among equal scores the
#   later name comes first: the same ranking scores AP 1 or 0.5, depending on how the images are called.
# Versions: pytrec_eval-terrier 0.5.11, ir-measures 0.4.3, 2026-11-28.
# Output seen:
#   pytrec_eval-terrier 0.5.11, ir-measures 0.4.3
#   right image z.jpg: AP 1.0, right image a.jpg: AP 0.5
#   right image a.jpg, its score larger by 1e-09: AP 0.5, by 1e-06: AP 1.0
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" pytrec_eval-terrier==0.5.11 ir-measures==0.4.3
PYTHONPATH=$packages python3 - <<'PYTHON'
from importlib.metadata import version

import ir_measures
from ir_measures import AP, Qrel, ScoredDoc

print(", ".join(f"{name} {version(name)}" for name in ("pytrec_eval-terrier", "ir-measures")))


def score(right: str, more: float = 0.0) -> float:
    truth = [Qrel("q", right, 1)]
    run = [ScoredDoc("q", right, 0.9 + more), ScoredDoc("q", "m.jpg", 0.9)]
    return ir_measures.calc_aggregate([AP], truth, run)[AP]


print(f"right image z.jpg: AP {score('z.jpg')}, right image a.jpg: AP {score('a.jpg')}")
print(f"right image a.jpg, its score larger by 1e-09: AP {score('a.jpg', 1e-9)}, by 1e-06: AP {score('a.jpg', 1e-6)}")
assert (score("z.jpg"), score("a.jpg")) == (1.0, 0.5)
assert (score("a.jpg", 1e-9), score("a.jpg", 1e-6)) == (0.5, 1.0)
print("as stated")
PYTHON
