"""`python -m largescale PROGRAM …` and the console script `largescale PROGRAM …`."""

from largescale.program.cli import main

if __name__ == "__main__":
    main()
