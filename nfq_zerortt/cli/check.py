"""``nfq-zerortt check``: what this host allows, and how to mend what is missing."""

from __future__ import annotations

import click

from nfq_zerortt.errors import MissingFeatureError
from nfq_zerortt.kernel import features


@click.command()
@click.pass_context
def check(context: click.Context) -> None:
    """Show what this host's kernel and privileges allow, one line each.

    Exit status 0 when everything that the service needs is there, 3 otherwise.
    """
    found = features.all_features()
    width = max(len(feature.name) for feature in found)
    for feature in found:
        line = f"{feature.status:<8} {feature.name:<{width}}  {feature.detail}"
        if not feature.ok and feature.remedy:
            line += f"; to mend it: {feature.remedy}"
        click.echo(" ".join(line.split("\n")))
    lacking = [feature.name for feature in found if feature.required and not feature.ok]
    if lacking:
        click.echo(f"The service cannot run here; what it lacks: {', '.join(lacking)}.")
        context.exit(MissingFeatureError.exit_status)
    click.echo("The service can run here.")
    kernel = features.kernel_data_path()
    if kernel.ok:
        click.echo("Established flows are carried by the kernel (--data-path auto).")
    else:
        remedy = f"; to mend it: {kernel.remedy}" if kernel.remedy else ""
        click.echo(f"Established flows are carried in Python: {kernel.detail}{remedy}")
