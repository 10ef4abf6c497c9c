"""Calibration: every metric is run on references with a known answer, and held to what has to come out.

True recordings score well; each change made to them moves the metric that should move, as far as it should, and leaves
alone those that should stay.
"""
