"""HTML pages of a run and of a comparison: one file each, nothing loaded from elsewhere."""

from hmmoe.report.comparison import comparison_page
from hmmoe.report.page import write_report

__all__ = ["comparison_page", "write_report"]
