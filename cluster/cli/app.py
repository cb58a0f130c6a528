"""The commands under one name, and what happens when one of them cannot do what was asked."""

import sys
from typing import NoReturn

import typer

from cluster.cli import (
    autoscale,
    chat,
    check,
    cloud,
    config,
    down,
    explain,
    k8s,
    keys,
    metrics,
    observe,
    plan,
    sbom,
    schema,
    show,
    simulate,
    status,
    tenants,
    test,
    top,
    up,
    usage,
    version,
)
from cluster.cli.console import Fault, tell
from cluster.errors import ConfigError

app = typer.Typer(
    name="trireme",
    help="Serves gpt-oss on your own GPUs behind one OpenAI-compatible endpoint.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command("up")(up.up)
app.command("down")(down.down)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("metrics")(metrics.metrics)
app.command("observe")(observe.observe)
app.command("chat")(chat.chat)
config_app = typer.Typer(
    name="config",
    help=config.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
config_app.command("check")(check.check)
config_app.command("show")(show.show)
config_app.command("schema")(schema.schema)
app.add_typer(config_app)
cloud_app = typer.Typer(
    name="cloud",
    help=cloud.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
cloud_app.command("plan")(cloud.plan)
cloud_app.command("manifest")(cloud.manifest)
app.add_typer(cloud_app)
app.command(
    "test",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)(test.test)
usage_app = typer.Typer(
    name="usage",
    help=usage.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
# More are to come, so that `report` must be said.
usage_app.callback()(lambda: None)
usage_app.command("report")(usage.report)
app.add_typer(usage_app)
app.command("simulate")(simulate.simulate)
app.command("plan")(plan.plan)
app.command("explain")(explain.explain)
autoscale_app = typer.Typer(
    name="autoscale",
    help=autoscale.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
autoscale_app.command("log")(autoscale.decisions)
autoscale_app.command("simulate")(autoscale.simulate)
app.add_typer(autoscale_app)
k8s_app = typer.Typer(
    name="k8s",
    help=k8s.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
k8s_app.command("check")(k8s.check)
k8s_app.command("leave")(k8s.leave)
k8s_app.command("render")(k8s.render)
k8s_app.command("doctor")(k8s.doctor)
app.add_typer(k8s_app)
keys_app = typer.Typer(
    name="keys",
    help=keys.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
keys_app.command("create")(keys.create)
keys_app.command("list")(keys.list_)
keys_app.command("rotate")(keys.rotate)
keys_app.command("revoke")(keys.revoke)
keys_app.command("audit")(keys.audit)
app.add_typer(keys_app)
tenants_app = typer.Typer(
    name="tenants",
    help=tenants.__doc__,
    no_args_is_help=True,
    rich_markup_mode=None,
)
tenants_app.command("create")(tenants.create)
tenants_app.command("list")(tenants.list_)
tenants_app.command("set")(tenants.set_)
tenants_app.command("delete")(tenants.delete)
app.add_typer(tenants_app)
app.command("sbom")(sbom.sbom)
app.command("version")(version.version)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """One command, as ``main`` would run it; returns its exit code."""
    try:
        code = typer.main.get_command(app).main(args, prog_name="trireme", standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except Fault as error:
        tell(f"error: {error}")
        return error.exit_code
    except ConfigError as error:
        for fault in error.faults:
            tell(f"error: {fault}")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough.
        sys.stdout = None
        return 0
    except Exception as error:
        return _bad_usage(error)
    return code if isinstance(code, int) else 0


def _bad_usage(error: Exception) -> int:
    message = getattr(error, "format_message", None)
    if message is None:
        raise error
    text = " ".join(str(message()).split())
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text if not text else message())
        return 2
    if type(error).__name__ == "Abort":
        return 130
    tell(f"error: {text} (try --help)")
    return 2
