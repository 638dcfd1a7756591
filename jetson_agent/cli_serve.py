"""``edgealign-agent serve``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Optional

import typer

from jetson_agent.cli_learn import HomeFolder


def serve(
    host: Annotated[str, typer.Option(help="Address to bind to; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045 - typer evaluates the annotation on Python 3.10 too
        typer.Option(help="Ask for the token in this file, also on loopback (made where missing)."),
    ] = None,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045 - as above
        typer.Option(help="TLS certificate (PEM): browsers give a microphone to https and localhost alone."),
    ] = None,
    key: Annotated[Optional[Path], typer.Option(help="The certificate's key (PEM).")] = None,  # noqa: UP045 - as above
    home: HomeFolder = None,
) -> None:
    """Answer this device's user: a page to talk to, an HTTP and WebSocket API, learning from corrections meanwhile.

    What may be turned (instruction, limits, when it learns) lies in serve.json and learn.json in the agent's folder.
    """
    from jetson_agent.home import Home
    from jetson_agent.serve.server import run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Home.open(home), host, port, token_file, certificate, key)
