"""``mrl serve``: a local web page and HTTP API for enrolled voices."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import model_option, store_option, weights_option


@click.command()
@model_option
@weights_option
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; by default this machine's own.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any that is free.")
@click.option("--token", help="That requests must carry, 16 characters or more; other users of this machine may see it here.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file with the token. Without either, a random one.")
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Of one request: all its recordings.",
)
@click.option(
    "--max-seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Of one recording."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Recordings that are embedded at the same time, each on one processor; by default as many as there are processors.",
)
def command(
    model: str,
    weights: str | None,
    store: Path | None,
    host: str,
    port: int,
    token: str | None,
    token_file: Path | None,
    max_megabytes: float,
    max_seconds: float,
    threads: int | None,
) -> None:
    """Serve a local web page: record or upload, enrol, verify, identify.

    Only this machine can reach it unless --host says otherwise. The address printed has the token that the page needs.
    """
    from mrl.identification import default_store
    from mrl.serving import Limits, serve

    place = store or default_store()

    def announce(address: str) -> None:
        click.echo(f"voices in {place}")
        click.echo(f"open {address}")
        click.echo("stop with Ctrl+C")

    serve(
        model,
        place,
        weights=weights,
        host=host,
        port=port,
        token=token,
        token_file=token_file,
        limits=Limits(max_bytes=round(max_megabytes * 1e6), max_seconds=max_seconds),
        threads=threads,
        announce=announce,
    )
