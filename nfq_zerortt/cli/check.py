"""``nfq-zerortt check``: what this host allows, and how to mend what is missing."""

from __future__ import annotations

import click

from nfq_zerortt.cli.completing import interfaces
from nfq_zerortt.errors import MissingFeatureError
from nfq_zerortt.kernel import features


@click.command()
@click.option(
    "--client-iface",
    metavar="IF",
    default="",
    help="Interface towards the clients.",
    shell_complete=interfaces,
)
@click.option(
    "--server-iface",
    metavar="IF",
    default="",
    help="Interface towards the servers.",
    shell_complete=interfaces,
)
@click.pass_context
def check(context: click.Context, client_iface: str, server_iface: str) -> None:
    """Show what this host's kernel and privileges allow, one line each.

    With both interfaces it also looks at them, and at the firewall between them. Exit status 0
    when everything that the service needs is there, 3 otherwise.
    """
    found = features.all_features(client_iface, server_iface)
    width = max(len(feature.name) for feature in found)
    for feature in found:
        line = f"{feature.status:<8} {feature.name:<{width}}  {feature.detail}"
        if not feature.ok and feature.remedy:
            line += f"; to mend it: {feature.remedy}"
        click.echo(" ".join(line.split("\n")))
    lacking = [feature.name for feature in found if feature.required and feature.ok is False]
    if lacking:
        click.echo(f"The service cannot run here; what it lacks: {', '.join(lacking)}.")
        context.exit(MissingFeatureError.exit_status)
    untried = [feature.name for feature in found if feature.required and feature.ok is None]
    if untried:
        click.echo(f"What could not be tried, and will show at its start: {', '.join(untried)}.")
    click.echo("The service can run here.")
    kernel = features.kernel_data_path()
    if kernel.ok:
        click.echo("Established flows are carried by the kernel (--data-path auto).")
    else:
        remedy = f"; to mend it: {kernel.remedy}" if kernel.remedy else ""
        click.echo(f"Established flows are carried in Python: {kernel.detail}{remedy}")
