"""``mrl serve``: a local web page and HTTP API for enrolled voices."""

from __future__ import annotations

from pathlib import Path

import click

from mrl.cli.options import model_option, store_option, weights_option


@click.command()
@model_option
@weights_option
@store_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; by default only this machine can connect."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0 for any free port."
)
@click.option("--token", help="Token that requests must carry, 16 characters or more; other users can see it here.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token; without --token or --token-file a random one is made.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Maximum size of a request with all its recordings.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Maximum length of a recording, in seconds.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of recordings embedded at the same time, each on one processor; by default all processors.",
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

    Only this machine can connect unless --host is given. The printed address includes the token that the page needs.
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
