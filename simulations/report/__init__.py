"""The report of a run: one HTML file."""

from wardround.simulations.report.page import render
from wardround.simulations.report.run import ReportedRun

__all__ = ["ReportedRun", "render"]
