"""The `duologue` command: argument parsing only; what does the work is imported inside the functions."""
