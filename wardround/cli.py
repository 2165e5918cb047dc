"""The command line. A command's module is imported when the command is run, so that `--help` loads none of them."""

import sys
from importlib import import_module
from typing import Annotated, Any

import click
import typer
import typer.core

from wardround import __version__
from wardround.errors import WardroundError

__all__ = ["COMMANDS", "main"]

_PLANS, _SIMULATIONS = "wardround.plan_commands", "wardround.simulations.commands"
_PRIVACY, _AUDIT = "wardround.simulations.privacy_commands", "wardround.simulations.audit_commands"
_LEDGER = "wardround.client.guard.ledger_commands"
_ROBUSTNESS, _RULES = "wardround.simulations.robustness_commands", "wardround.strategies.rules.commands"
_INFERENCE = "wardround.simulations.inference_commands"
_FOLDERS = "wardround.client.secagg_commands"
_SERVER, _SESSION = "wardround.server.commands.server_group", "wardround.server.commands.session"
_RUNS, _MODELS = "wardround.server.commands.runs", "wardround.server.commands.models"
_CLIENT = "wardround.client.commands"
_SITE_PLANS, _SITE_MEMBERS = "wardround.client.plan_commands", "wardround.client.member_commands"
_SITE_POLICY, _SITE_DATA = "wardround.client.policy_commands", "wardround.client.data_commands"
_SITE_DOCTOR, _SITE_MODELS = "wardround.client.doctor_commands", "wardround.client.sealed_model_commands"
_SITE_SERVICE, _SERVER_SERVICE = "wardround.client.service_commands", "wardround.server.commands.service"
_SITE_LOG, _SERVER_LOG = "wardround.client.audit_commands", "wardround.server.commands.audit"
_VERIFY = "wardround.verify_commands"
_EXPLANATION, _SECAGG = "wardround.simulations.plan_explanation", "wardround.strategies.secagg.commands"

COMMANDS = {
    "plan": (_PLANS, "Check, show, explain and start plans."),
    "list": (_PLANS, "List installed tasks, data sets, partitions and plans."),
    "simulate": (_SIMULATIONS, "Train a federation of hospitals on this machine."),
    "redteam": (_ROBUSTNESS, "Attack a simulated federation with every rule in turn."),
    "server": (_SERVER, "Make, start and back up a server; invite and revoke sites."),
    "login": (_SESSION, "Log in to a server, for 12 hours."),
    "logout": (_SESSION, "Log out: end the session at the server, and forget it here."),
    "run": (_ROBUSTNESS, "The runs of a server; evidence, release from quarantine, retraining without a site."),
    "model": (_MODELS, "The models that a server's runs have made."),
    "verify": (_VERIFY, "Check what a federation has signed, offline: audit logs, released models."),
    "client": (_CLIENT, "Take part in a federation as a hospital."),
    "privacy": (_PRIVACY, "What a plan claims of differential privacy, and the noise that a claim takes."),
    "secagg": (_SECAGG, "What secure aggregation tolerates and costs, or which choice is the nearest possible."),
    "audit": (_AUDIT, "Test that privacy's mechanism does what it says."),
    "ledger": (_LEDGER, "What a population may spend on privacy, and what it has spent."),
    "rules": (_RULES, "List aggregation rules, pre-aggregators, detectors and attacks."),
    "compare": (_SIMULATIONS, "Compare the plans and the results of two runs."),
    "predict": (_SIMULATIONS, "Apply a model, a released one or a run's, to the rows of a file."),
    "infer": (_INFERENCE, "Ask a model about rows that its owner never sees."),
    "report": (_SIMULATIONS, "Write a run's report again."),
    "export-flower": (_SIMULATIONS, "Write a plan as an app that `flwr run` runs."),
}
"""Each command's module, which has it in its `app`, and the first line of its help."""

PARTS = {
    "plan": {"explain": (_EXPLANATION, "Say what the server learns, what privacy rests on, and what is claimed.")},
    "run": {
        "start": (_RUNS, "Start a run: ask its sites for their approval, and begin when all have given it."),
        "list": (_RUNS, "List every run, and where it stands."),
        "show": (_RUNS, "Show a run: its sites, what was noted about them, and what happened last."),
        "timeline": (_RUNS, "Tell everything that happened in a run, in order."),
        "watch": (_RUNS, "Show what happens in a run, until it has ended."),
        "pause": (_RUNS, "Let a run finish the round at work, and then wait."),
        "resume": (_RUNS, "Let a paused run go on."),
        "stop": (_RUNS, "Let a run end after the round at work, with the model that it has."),
        "report": (_RUNS, "Fetch the report of a run that has ended."),
    },
    "client": {
        "data": (_SITE_DATA, "The data sets that may be trained on."),
        "policy": (_SITE_POLICY, "What this site allows, whatever is offered."),
        "plan": (_SITE_PLANS, "The plans that are offered."),
        "members": (_SITE_MEMBERS, "The other hospitals and their keys."),
        "model": (_SITE_MODELS, "The released models that were sealed to this site."),
        "audit": (_SITE_LOG, "The site's audit log: show, verify and export it."),
        "doctor": (_SITE_DOCTOR, "Say what is not in order here, and how to put it right."),
        "service": (_SITE_SERVICE, "The agent as a service of systemd."),
    },
    "server": {
        "audit": (_SERVER_LOG, "The server's audit log: show, verify and export it."),
        "authority": (_SERVER_LOG, "Write the certificate that auditors verify everything by."),
        "service": (_SERVER_SERVICE, "The server as a service of systemd."),
    },
    "secagg": {
        "enrol": (_FOLDERS, "Make the folders of a server and its sites on this machine, to try a Flower app."),
        "approve": (_FOLDERS, "Take part in another plan, and in no other."),
        "show": (_FOLDERS, "Say whose folder this is, its key's fingerprint and its plan's digest."),
    },
}
"""The parts of a command that other modules have in their `app`: they need what the command's own may not import."""

_BUG = 70
"""Exit code for what should not happen: EX_SOFTWARE of sysexits.h."""


class _Deferred(click.Command):
    """Stands for a command of another module until it is run, or asked for its own help."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name, help=help)
        self.module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        name = str(self.name)
        command = typer.main.get_group(import_module(self.module).app).commands[name]
        if isinstance(command, click.Group):
            for part, found in PARTS.get(name, {}).items():
                command.add_command(_Deferred(part, *found))
        return command.make_context(info_name, args, parent=parent, **extra)


class _Commands(typer.core.TyperGroup):
    """The commands of `COMMANDS`; turns whatever they raise into one line on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _Deferred(cmd_name, *COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()  # so that a closed pipe shows here
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except Exception as error:
            if ctx.params["debug"]:
                raise
            _fail(*_explain(error))


def _fail(line: str, code: int) -> None:
    click.echo(line, err=True)
    raise click.exceptions.Exit(code)


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell a person about `error` in one line, and the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, WardroundError):
        return f"error: {text}", 1
    if isinstance(error, OSError) and error.strerror:
        return f"error: {error.filename or 'the system'}: {error.strerror}", 1
    if isinstance(error, MemoryError):
        return "error: out of memory", 1
    return f"error: {type(error).__name__}: {text} (this is a bug; run with --debug to see where)", _BUG


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,  # plain help: rich would cost a third of the start
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        click.echo(f"wardround {__version__}")
        raise typer.Exit


@app.callback()
def wardround(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated learning for hospitals: one model, trained together, no data handed over."""


def main() -> None:
    """Run the command in `sys.argv` and exit."""
    typer.main.get_command(app)(prog_name="wardround")


if __name__ == "__main__":
    main()
