"""Side-by-side programs: Duologue beside other systems, in one run."""
