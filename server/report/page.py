"""The report: one HTML file that needs nothing else."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from wardround.errors import MissingExtraError
from wardround.server.report.convergence import convergence
from wardround.server.report.differences import differences
from wardround.server.report.discrimination import discrimination
from wardround.server.report.hospitals import hospitals
from wardround.server.report.markup import Section, text
from wardround.server.report.participation import participation
from wardround.server.report.particulars import particulars
from wardround.server.report.privacy import privacy
from wardround.server.report.protection import protection
from wardround.server.report.robustness import robustness
from wardround.server.report.run import ReportedRun
from wardround.server.report.summary import summary
from wardround.server.report.visibility import visibility

__all__ = ["document", "render"]

# The browser itself is told to load nothing: whatever a name in a run may hold, no request leaves the page.
_POLICY_WITHOUT_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_POLICY = f"{_POLICY_WITHOUT_SCRIPTS}; script-src 'unsafe-inline'; img-src data: blob:"
_NO_SCRIPT = '<noscript><p class="warning">The plots need JavaScript; the sentences and tables do not.</p></noscript>'


def render(run: ReportedRun) -> str:
    """The report of `run` as HTML, about 5 MB of which is the plotting library; it loads nothing from anywhere.

    Raises MissingExtraError without plotly.
    """
    makers = (
        *(hospitals, discrimination, convergence, privacy, protection, participation, robustness),
        *(differences, visibility, particulars),
    )
    return document(
        title=f"{run.plan.name}: federation report",
        kind=("Federation" if run.deployed else "Simulated federation")
        + (f", {run.info.created[:10]}" if run.info is not None else ""),
        heading=run.plan.name,
        lead=summary(run),
        sections=[section for make in makers if (section := make(run)) is not None],
    )


def document(
    *, title: str, kind: str, heading: str, lead: str, sections: Sequence[Section], plots: bool = True, style: str = ""
) -> str:
    """A page of its own: head, `lead` (HTML), a navigation, the sections and the foot.

    `style` is CSS beside that of every page. Without `plots` there is no script in it, and none may run.
    """
    nav = "".join(f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in sections)
    body = "".join(
        f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-title">'
        f'<h2 id="{section.anchor}-title">{text(section.title)}</h2>{section.body}</section>'
        for section in sections
    )
    scripts = f"<script>{_plotly()}</script>\n<script>{_file('page.js')}</script>\n" if plots else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY if plots else _POLICY_WITHOUT_SCRIPTS}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_file("style.css")}{style}</style>
</head>
<body>
<header>
<p class="kind">{text(kind)}</p>
<h1>{text(heading)}</h1>
{lead}
<nav aria-label="Sections">{nav}</nav>
{_NO_SCRIPT if plots else ""}
</header>
<main>
{body}
</main>
<footer><div>Written by wardround. This file is complete: it loads nothing and sends nothing.</div></footer>
{scripts}</body>
</html>
"""


@cache
def _file(name: str) -> str:
    return files("wardround.server.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """The plotting library, as the installed package brings it; read without importing the rest of plotly."""
    try:
        code = files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise MissingExtraError("simulation", "plotly") from error
    return code.replace("</script", "<\\/script")
