"""`scorl serve`."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING

import click

from scorl.cli.sampling import COUNT, resolve_wording
from scorl.errors import UserError
from scorl.settings.engines import api_url, read_key

if TYPE_CHECKING:
    from scorl.serve.settings import ServeSettings

__all__ = ["serve"]


@click.command()
@click.option("--upstream", required=True, metavar="URL", help="The API that is asked, as in http://127.0.0.1:8000/v1.")
@click.option("--model", help="The one model that is served.  [default: whichever the upstream serves]")
@click.option("--attempts", type=COUNT, default=2, show_default=True)
@click.option("--samples", type=COUNT, default=1, show_default=True, help="Ask so many times; the last attempts vote.")
@click.option("--correction", metavar="TEXT", help="What is said between attempts.")
@click.option("--task", "task_name", help="Say between attempts what this task says.")
@click.option("--run", metavar="RUN", help="Say what was said when this run was trained.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8100, show_default=True)
@click.option("--api-key-env", metavar="NAME", help="Callers have to bring the key in this variable.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True, help="Seconds."
)
@click.option("--max-concurrency", type=COUNT, default=16, show_default=True, help="Requests at once.")
@click.option(
    "--max-body", type=click.IntRange(1, 1 << 30), default=1 << 20, show_default=True, help="Bytes of a request."
)
def serve(
    upstream: str,
    model: str | None,
    attempts: int,
    samples: int,
    correction: str | None,
    task_name: str | None,
    run: str | None,
    host: str,
    port: int,
    api_key_env: str | None,
    timeout: float,
    max_concurrency: int,
    max_body: int,
) -> None:
    """Put self-correction in front of an OpenAI-compatible server: ask it, correct it, return the last attempt.

    The upstream's key is read from OPENAI_API_KEY. The earlier attempts stand in the field `scorl` of an answer.
    """
    if sum(given is not None for given in (correction, task_name, run)) > 1:
        raise UserError("--correction, --task and --run each say what is said between attempts: give one of them")
    if correction is not None and not correction.strip():
        raise UserError("--correction: the text is empty")
    if missing := [name for name in ("openai", "starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise UserError(f"scorl serve needs {', '.join(missing)}: pip install 'scorl[serve]'")
    if run is not None:
        _check_run(run)
    task, turns, _ = resolve_wording(run, task_name)

    from scorl.serve.settings import LOOPBACK, ServeSettings
    from scorl.tasks.asking import correction_of, find_answer, name_answer

    settings = ServeSettings(
        upstream=api_url(upstream, "--upstream"),
        turns=turns(correction or correction_of(task.settings), attempts),
        model=model,
        samples=samples,
        find_answer=partial(find_answer, task.settings),
        name_answer=partial(name_answer, task.settings),
        upstream_key=read_key("OPENAI_API_KEY"),
        api_key=_require_key(api_key_env),
        max_body=max_body,
        timeout=timeout,
        max_concurrency=max_concurrency,
        hosts=(*LOOPBACK, host) if _is_loopback(host) else ("*",),
    )
    if not _is_loopback(host):
        _warn_of_others(host, api_key_env)
    listening = _listen(host, port)
    shown, port = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
    click.echo(f"http://{shown}:{port}/v1 asks {settings.upstream} {attempts} times; Ctrl-C ends it", err=True)
    _run(settings, listening)
    click.echo("stopped", err=True)


def _run(settings: ServeSettings, listening: socket.socket) -> None:
    import uvicorn

    from scorl.serve.app import make_app
    from scorl.serve.patience import PatientProtocol, allow_connections

    with contextlib.suppress(KeyboardInterrupt):
        config = uvicorn.Config(
            make_app(settings),
            http=PatientProtocol,
            ws="none",
            log_level="warning",
            limit_concurrency=allow_connections(settings.max_concurrency),
            timeout_graceful_shutdown=3,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _warn_of_others(host: str, api_key_env: str | None) -> None:
    who = "who can reach it" if api_key_env is None else "who know the key, which they send in clear"
    click.echo(f"warning: {host} is not this machine alone: the upstream is open to all {who}", err=True)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; of a name's addresses the IPv4 one.

    Raises:
        UserError: there is no such address, or the port is taken.
    """
    try:
        found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        return socket.create_server(found[4][:2], family=found[0])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host}, --port {port}: cannot listen there: {reason}") from None


def _check_run(run: str) -> None:
    from scorl.run.directory import RunDirectory

    if RunDirectory.of_model(run) is None:
        raise UserError(f"--run: {run} is no run directory")


def _require_key(name: str | None) -> str | None:
    if name is None:
        return None
    if (key := read_key(name)) is None:
        raise UserError(f"--api-key-env: the variable {name} is empty or not set")
    return key


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
