"""`python -m duologue`: the command, under `torchrun` or where it is not on the path."""

from duologue.cli.main import main

if __name__ == "__main__":
    main()
