"""`python -m duologue.cli` is the `duologue` command."""

from duologue.cli.main import main

if __name__ == "__main__":
    main()
