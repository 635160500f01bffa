"""`python -m largescale.tracking replay RUN [tracking.KEY=VALUE ...]`"""

from pathlib import Path

from largescale.program.running import run_program
from largescale.settings import UserError
from largescale.tracking.replay import __doc__ as usage
from largescale.tracking.replay import replay


def main(arguments: list[str]) -> None:
    if not arguments or "--help" in arguments:
        print(usage)
        return
    if arguments[0] != "replay" or len(arguments) < 2:
        raise UserError("expected: python -m largescale.tracking replay RUN [tracking.KEY=VALUE ...]")
    print(f"{replay(Path(arguments[1]), arguments[2:]):,} lines of {arguments[1]} are shown")


if __name__ == "__main__":
    run_program(main)
