"""The command line. Exit codes: 0 done, 1 our fault, 2 the user's input, 130 interrupted.

The commands import what they need when they run: `scorl --help` and the shell's completion must not wait
seconds for torch.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Sequence

import click

from scorl.cli.collect import collect_repairs
from scorl.cli.compare import compare
from scorl.cli.diff import diff
from scorl.cli.doctor import doctor
from scorl.cli.evaluate import evaluate
from scorl.cli.export_eval import export_eval
from scorl.cli.judge import judge
from scorl.cli.output import say, show_traceback, speak_plainly
from scorl.cli.plan import plan
from scorl.cli.push import push
from scorl.cli.recipes import recipes, schema
from scorl.cli.report import report
from scorl.cli.scale import scale
from scorl.cli.serve import serve
from scorl.cli.show import show
from scorl.cli.solve import solve
from scorl.cli.train import train
from scorl.cli.watch import watch
from scorl.distributed.ranks import exit_process, launched_rank
from scorl.errors import GuardError, PeerLostError, UserError
from scorl.parent import end_with_launcher
from scorl.version import __version__

__all__ = ["commands", "main"]

INTERRUPTED = 130
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What the user's disk may say; any other error of the system is ours."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scorl")
def commands() -> None:
    """Train a language model to correct its own answers (SCoRe), and measure whether it learned to."""


for command in (
    *(train, evaluate, compare, diff, judge, collect_repairs, show, report, plan, doctor, recipes, schema),
    *(export_eval, push, scale, serve, solve, watch),
):
    commands.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Our own mistakes keep their traceback, which Python ends with exit code 1; a guard that stopped a run has its
    sentence and the same code.
    """
    end_with_launcher()
    speak_plainly()
    try:
        code = _run(arguments)
    except Exception as error:
        if launched_rank() is None:
            raise
        show_traceback(type(error), error, error.__traceback__)
        code = 1
    exit_process(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command and say what ended it; the exit code."""
    try:
        return commands.main(arguments, prog_name="scorl", standalone_mode=False) or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except UserError as error:
        say(f"{_name()}: {error}")
        return 2
    except GuardError as error:
        say(f"{_name()}: stopped: {error}")
        return 1
    except PeerLostError as error:
        say(f"{_name()}: stopped: {error}")
        return PeerLostError.exit_code
    except click.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for the end of a user's typing
            raise abort.__cause__ from None
        click.echo("scorl: interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show(file=(shown := io.StringIO()))  # with its usage and hint
        say(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except Exception as error:
        if (sentence := _words_of_disk(error)) is None:
            raise
        say(f"{_name()}: {sentence}")
        return 2


def _words_of_disk(error: Exception) -> str | None:
    """What a disk that is full or forbidden said, in a sentence; None: it is another error, or one that names no file.

    Rust's libraries, safetensors and tokenizers, say it in errors of their own; of a full disk they name no file.
    """
    if isinstance(error, OSError):
        number, path = error.errno, error.filename
    else:
        found = re.search(r'\(os error (\d+)\)(?: at path "(.*)")?', str(error)) if _is_of_rust(error) else None
        number, path = (int(found[1]), found[2]) if found else (None, None)
    if number in FULL:
        where = f" {path}" if path else ""
        return f"cannot write{where}: {os.strerror(number)}. A run resumes with --resume when there is room"
    return f"{path}: {os.strerror(number)}" if path and number in FORBIDDEN else None


def _is_of_rust(error: Exception) -> bool:
    """Whether safetensors or tokenizers raised it, the latter with a bare Exception."""
    return type(error) is Exception or type(error).__module__.partition(".")[0].startswith("safetensors")


def _name() -> str:
    """The command's name in messages, with its rank where the others speak too."""
    rank = launched_rank()
    return f"scorl (rank {rank})" if rank else "scorl"
