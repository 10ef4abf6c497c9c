"""Evaluation of speech systems, ours and others: suites, instruments, figures with intervals, reports."""
