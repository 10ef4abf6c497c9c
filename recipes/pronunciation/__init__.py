"""References with a known pronunciation, and how well the default judge of `duologue eval` tells their variants."""
