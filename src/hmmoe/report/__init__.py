"""The HTML report of a run: one file, nothing loaded from elsewhere."""

from hmmoe.report.page import write_report

__all__ = ["write_report"]
