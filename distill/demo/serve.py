"""The page at an address of this machine, until Ctrl-C (extra: demo)."""

import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from importlib.metadata import version

from distill.demo.guard import OwnHeaders, hosts_of, is_loopback, stay_here
from distill.demo.maps import Looker
from distill.extras import check_installed
from distill.show.pictures import Picture

GRADIO = (6, 31)
"""Major version whose components the page is made of, and the first minor one; as pyproject.toml says."""
PORTS = "7860 to 7959"
"""Among which Gradio looks for a free one."""
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Variables of the environment by which nobody is told that Gradio is used."""
MOST_WAITING = 32
MOST_VISITORS = 32
"""Whose pictures are kept; the one who did nothing for longest goes first."""


def check_extra() -> None:
    """Raise ValueError where Gradio is not installed, or is one that the page was not made for. Nothing is imported."""
    check_installed("gradio", needed_by="the demo")
    found = version("gradio")
    major, minor = GRADIO
    if not (major, minor) <= tuple(map(int, re.findall(r"\d+", found)[:2])) < (major + 1,):
        wanted = f"{major}.{minor} or a later {major}"
        raise ValueError(f"the demo needs gradio {wanted}, and {found} is installed (extra: demo)")


def check_address(host: str, port: int | None) -> None:
    """Raise ValueError where nobody can listen there, before models are loaded for minutes."""
    try:
        with socket.socket() as attempt:
            # As the server does: a port whose last connections are only just closed is free.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind((host, port or 0))
    except (OSError, OverflowError) as error:
        place = f"port {port} of {host}" if port else host
        raise ValueError(f"{place} cannot be listened at ({error}); choose --host or --port otherwise") from error


def serve(looker: Looker, examples: list[Picture], *, host: str, port: int | None) -> int:
    """Serve, say where, and wait for Ctrl-C or to be ended. Returns 0. Raises ValueError for a port that is taken.

    Uploads lie in a folder of their own, which is gone afterwards.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="distill_demo_") as folder:
        # Read when Gradio is imported.
        os.environ |= {**QUIET, "GRADIO_TEMP_DIR": folder}
        close = open_page(looker, examples, host=host, port=port)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")
        finally:
            close()
    return 0


def open_page(looker: Looker, examples: list[Picture], *, host: str, port: int | None) -> Callable[[], None]:
    """Start serving and say where. Returns what ends it."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from distill.demo.page import STYLE, build

    stay_here(host)
    page = build(looker, examples).queue(max_size=MOST_WAITING)
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=hosts_of(host), www_redirect=False)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            app_kwargs={"middleware": [hosts, Middleware(OwnHeaders)]},
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css_paths=[STYLE],
            max_file_size=looker.limits.max_bytes,
            state_session_capacity=MOST_VISITORS,
            prevent_thread_lock=True,
            footer_links=[],
            quiet=True,
            # Said although they are defaults: variables of the environment would change them.
            share=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            root_path="",
            allowed_paths=[],
        )
    except OSError as error:
        asked = f"port {port}" if port else f"every port of {PORTS}"
        raise ValueError(f"{asked} is taken at {host}; choose another with --port") from error
    print(f"{address}   Ctrl-C stops it", flush=True)
    if not is_loopback(host):
        print("whoever reaches this machine can use the page; there is no password", flush=True)
    return lambda: page.close(verbose=False)
