"""`sentinel dashboards`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from sentinel.cli.examples import examples
from sentinel.cli.options import json_option
from sentinel.errors import SentinelError

TOKEN = "GRAFANA_TOKEN"


def _page_url(_: click.Context, __: click.Parameter, value: str) -> str:
    from sentinel.notify.request import checked

    try:
        return checked(value, "--page-url")
    except SentinelError as error:
        raise click.BadParameter(str(error)) from None


_page_option = click.option(
    "--page-url",
    envvar="SENTINEL_PAGE_URL",
    default="http://127.0.0.1:9475",
    show_default=True,
    metavar="URL",
    callback=_page_url,
    help="Where people find Sentinel's page, which the dashboards link to.",
)


@click.group(
    "dashboards",
    epilog=examples(
        "sentinel dashboards export --to /tmp/dashboards",
        "sentinel dashboards push --url https://grafana.example.com",
    ),
)
def command() -> None:
    """Put Sentinel's dashboards into Grafana: a run, all runs, Sentinel itself."""


@command.command(
    "export",
    epilog=examples(
        "sentinel dashboards export",
        "sentinel dashboards export --to /var/lib/grafana/dashboards/sentinel",
    ),
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sentinel-dashboards"),
    show_default=True,
    metavar="DIR",
    help="Where to write them; files of the same names are replaced.",
)
@_page_option
def export(folder: Path, page_url: str) -> None:
    """Write the dashboards, and the provisioning files that make Grafana read them."""
    from sentinel.grafana.shipped import write

    for path in write(folder, page_url):
        click.echo(path)


@command.command(
    "push",
    epilog=examples(
        "sentinel dashboards push --url https://grafana.example",
        "sentinel dashboards push --url http://localhost:3000 --folder Training",
        "sentinel dashboards push --url https://grafana.example --datasource Mimir",
    ),
)
@click.option("--url", required=True, metavar="URL", help="Where Grafana's pages are.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Where the token of a service account is, mode 0600 [default: ${TOKEN}].",
)
@click.option(
    "--folder",
    metavar="NAME",
    help="Title or UID of Grafana's folder for them, made where there is none [default: where "
    "they are, and at first Sentinel].",
)
@click.option(
    "--datasource",
    metavar="NAME",
    help="Name or UID of the Prometheus that scrapes Sentinel [default: the only one].",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The authorities to trust, in PEM [default: the usual ones].",
)
@_page_option
@json_option
def push(
    url: str,
    token_file: Path | None,
    folder: str | None,
    datasource: str | None,
    ca: str | None,
    page_url: str,
    as_json: bool,
) -> None:
    """Create the dashboards in Grafana or update them; what is up to date is left alone.

    The token is one of a service account with the role Editor. A dashboard that is not Sentinel's
    is never overwritten.
    """
    from sentinel.grafana.push import push as push_all
    from sentinel.grafana.server import GrafanaServer
    from sentinel.grafana.shipped import DASHBOARDS
    from sentinel.notify.request import is_loopback

    if url.startswith("http://") and not is_loopback(url):
        click.echo("warning: the token travels unencrypted over http://", err=True)
    dashboards = [make() for make in DASHBOARDS.values()]
    with GrafanaServer(url, _token(token_file), ca=ca) as server:
        pushed = push_all(
            server, dashboards, page_url=page_url, folder=folder, datasource=datasource
        )
        done = []
        try:
            for one in pushed:
                done.append(one)
                if not as_json:
                    click.echo(f"{one.title}: {one.change}, version {one.version}, {one.url}")
        finally:  # what has happened is told, whatever came then
            if as_json:
                click.echo(msgspec.json.encode(done).decode())


def _token(file: Path | None) -> str:
    from sentinel.notify.secret import reveal
    from sentinel.notify.settings import Secret

    if file is None and not os.environ.get(TOKEN, "").strip():
        raise click.UsageError(
            f"there is no token for Grafana: put that of a service account into ${TOKEN}, or into "
            "a file for --token-file"
        )
    return reveal(Secret(TOKEN) if file is None else Secret(file=file), os.environ)
