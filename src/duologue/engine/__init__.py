"""Generation: sampling, the one-frame step, context, voices, and the `Generator` in front of them."""
