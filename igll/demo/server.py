"""The page's server: from an address to a clean end."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from igll.engine.signals import unwinding_on_sigterm
from igll.errors import InputError
from igll.schema import ClassicalName

_LARGEST_UPLOAD = "64mb"


@dataclass(frozen=True)
class DemoRequest:
    """What to serve, and where.

    Attributes:
        checkpoint: Whatever :func:`igll.load` takes, None for the best weights that ship with igll; or else
        method: A method without training.
        host: Address to listen at.
        port: None takes the first free one from 7860 on.
        browser: Whether to open the page in the browser.
        overrides: ``device=…``, ``eval.weights=…``, ``eval.amp=…``, of the weights.
    """

    checkpoint: str | None = None
    method: ClassicalName | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = False
    overrides: Sequence[str] = ()


def serve(request: DemoRequest) -> NoReturn:
    """Serve the page until interrupted; files of visitors are removed at the end.

    The server's threads are left to the end of the process: they would wait for browsers to let go.

    Raises:
        InputError: Gradio is missing, the address cannot be had, or the method cannot be used.
        KeyboardInterrupt: Ctrl-C.
        SystemExit: SIGTERM; 143.
    """
    _check_address(request.host, request.port)
    if request.method is not None and request.overrides:
        raise InputError(f"'{request.overrides[0]}': settings are for a network; leave --method out")
    if find_spec("gradio") is None:
        raise InputError('igll-demo: needs the package gradio; pip install "igll[demo]"')
    from igll.demo.fill import classical_method, trained_method

    if request.method is not None:
        method = classical_method(request.method)
    else:
        method = trained_method(request.checkpoint, request.overrides)
    with unwinding_on_sigterm(), _own_folder() as folder:
        _keep_to_this_machine(folder, request.host)
        from igll.demo.page import CSS, THEME, build_page

        page = build_page(method, folder)
        page.launch(
            server_name=request.host,
            server_port=request.port,
            inbrowser=request.browser,
            theme=THEME,
            css=CSS,
            max_file_size=_LARGEST_UPLOAD,
            footer_links=[],
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"igll-demo: {page.local_url} fills with {method.title}; Ctrl-C ends it", flush=True)
        while True:
            time.sleep(1)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for what visitors upload and get; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="igll-demo-"))
    try:
        yield folder
    finally:
        # An upload that is under way may write into the folder while it goes.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.05)


def _check_address(host: str, port: int | None) -> None:
    """Find out at once, and by name, whether there is something to listen at."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        reason = error.strerror or error
        if port is None:
            raise InputError(f"--host {host}: cannot be listened at ({reason}); leave it out") from error
        raise InputError(
            f"--port {port} at {host}: cannot be listened at ({reason}); "
            "give another, or leave it out for the first free one"
        ) from error


def _keep_to_this_machine(folder: Path, host: str) -> None:
    """Settings that Gradio reads from the environment, some of them when it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    # Gradio asks its own server whether it is up; a proxy would not find it.
    for name in ("NO_PROXY", "no_proxy"):
        direct = [os.environ.get(name, ""), "127.0.0.1", "localhost", host]
        os.environ[name] = ",".join(filter(None, direct))
