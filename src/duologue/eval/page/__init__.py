"""`report.html`: the report of a run as one file, with its figures drawn and its worst and best clips to be heard."""

from duologue.eval.page.html import report_html

__all__ = ["report_html"]
