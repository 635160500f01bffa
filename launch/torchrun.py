"""torchrun without its report: python launch/torchrun.py --nproc-per-node N launch/train.py [config.yaml] [key=value ...]

It starts ranks as torchrun does, with its options. Where they end because of what one of them has said in a sentence, with exit
status 2, so does this, and adds nothing; a rank that fails otherwise is reported as by torchrun.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from largescale.program.running import SAID, run_program


def main(arguments: list[str]) -> None:
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        if error.get_first_failure()[1].exitcode != SAID:
            raise
        sys.exit(SAID)


if __name__ == "__main__":
    run_program(main)
