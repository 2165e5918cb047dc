"""The report of a run: one HTML file."""

from wardround.server.report.page import render
from wardround.server.report.run import ReportedRun

__all__ = ["ReportedRun", "render"]
