"""The report: one HTML file that needs nothing else."""

from functools import cache
from importlib.resources import files

from wardround.errors import MissingExtraError
from wardround.simulations.report.convergence import convergence
from wardround.simulations.report.differences import differences
from wardround.simulations.report.discrimination import discrimination
from wardround.simulations.report.hospitals import hospitals
from wardround.simulations.report.markup import text
from wardround.simulations.report.participation import participation
from wardround.simulations.report.particulars import particulars
from wardround.simulations.report.run import ReportedRun
from wardround.simulations.report.summary import summary
from wardround.simulations.report.visibility import visibility

__all__ = ["render"]

# The browser itself is told to load nothing: whatever a name in a run may hold, no request leaves the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)


def render(run: ReportedRun) -> str:
    """The report of `run` as HTML, about 5 MB of which is the plotting library; it loads nothing from anywhere.

    Raises MissingExtraError without plotly.
    """
    title = f"{run.plan.name}: federation report"
    makers = (hospitals, discrimination, convergence, participation, differences, visibility, particulars)
    sections = [section for make in makers if (section := make(run)) is not None]
    nav = "".join(f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in sections)
    body = "".join(
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">'
        f'<h2 id="{section.anchor}-title">{text(section.title)}</h2>{section.body}</section>'
        for section in sections
    )
    kind = "Simulated federation" + (f", {run.info.created[:10]}" if run.info is not None else "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_file("style.css")}</style>
</head>
<body>
<header>
<p class="kind">{text(kind)}</p>
<h1>{text(run.plan.name)}</h1>
{summary(run)}
<nav aria-label="Sections">{nav}</nav>
<noscript><p class="warning">The plots need JavaScript; the sentences and tables do not.</p></noscript>
</header>
<main>
{body}
</main>
<footer><div>Written by wardround. This file is complete: it loads nothing and sends nothing.</div></footer>
<script>{_plotly()}</script>
<script>{_file("page.js")}</script>
</body>
</html>
"""


@cache
def _file(name: str) -> str:
    return files("wardround.simulations.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """The plotting library, as the installed package brings it; read without importing the rest of plotly."""
    try:
        code = files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise MissingExtraError("simulation", "plotly") from error
    return code.replace("</script", "<\\/script")
