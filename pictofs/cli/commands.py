"""Every command, by name."""

from __future__ import annotations

from typing import Annotated

import typer

from pictofs import __version__
from pictofs.cli import cache, dataset
from pictofs.cli.demo import demo
from pictofs.cli.doctor import doctor
from pictofs.cli.download import download
from pictofs.cli.help import dress
from pictofs.cli.login import login
from pictofs.cli.mount import mount
from pictofs.cli.pages import help_
from pictofs.cli.prefetch import prefetch
from pictofs.cli.refresh import refresh
from pictofs.cli.status import status
from pictofs.cli.top import top
from pictofs.cli.unmount import unmount
from pictofs.cli.warm import warm

app = typer.Typer(
    name="pictofs",
    help="Mount the image datasets of a Pictograph organization as a folder.",
    epilog="Try it without an account: pictofs demo",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pictofs {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            metavar="",
            help="Print the version.",
        ),
    ] = False,
) -> None:
    pass


for command in (
    mount,
    unmount,
    status,
    top,
    doctor,
    refresh,
    warm,
    prefetch,
    download,
    login,
    demo,
):
    app.command()(command)

app.command("help")(help_)
app.add_typer(dataset.app, name="dataset")
# As the vendor's command line has it.
app.add_typer(dataset.app, name="datasets", hidden=True)
app.add_typer(cache.app, name="cache")

dress(app)
dress(dataset.app, "dataset ")
dress(cache.app, "cache ")
