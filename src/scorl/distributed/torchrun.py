"""Processes on this machine, started and watched by torch's elastic agent, which is what `torchrun` runs too.

Rank 0 speaks in the terminal, the others into log files. The first that fails ends all, with its exit code and its last
words; Ctrl-C and SIGTERM reach every rank, and the agent waits until they have saved.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scorl.errors import PeerLostError, UserError

__all__ = ["launch"]

INTERRUPTED = 130
WORDS = 20
"""Lines of a failed rank's log that are shown."""


def launch(arguments: Sequence[str], workers: int, *, timeout: float, device: str, logs: Path) -> int:
    """Run `scorl ARGUMENTS` on so many processes; the exit code.

    Args:
        arguments: of the command line.
        workers: how many.
        timeout: seconds that ranks have to save when they are asked to stop.
        device: of the recipe's model.
        logs: a folder for what the ranks but the first say; it stays if one fails.

    Raises:
        UserError: there are fewer GPUs than workers.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_devices(workers, device)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the ranks share the cores
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(timeout))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its tables hide our one sentence
    shutil.rmtree(logs, ignore_errors=True)  # of a start before this one
    logs.mkdir(parents=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id="scorl",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(logs), redirects=dict.fromkeys(range(1, workers), Std.ALL)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "scorl", *arguments)
    except ChildFailedError as error:
        return _blamed(error.failures, logs)
    except SignalException:
        return INTERRUPTED
    shutil.rmtree(logs)
    return 0


def _check_devices(workers: int, device: str) -> None:
    import torch

    if device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < workers:
        raise UserError(f"launcher.workers: {workers} processes, but this machine has {torch.cuda.device_count()} GPUs")


def _blamed(failures: dict[int, Any], logs: Path) -> int:
    """The exit code of the rank that failed first, whose log is shown; the others only missed it."""
    missed = (PeerLostError.exit_code, -signal.SIGTERM)
    guilty = [rank for rank in sorted(failures) if failures[rank].exitcode not in missed] or sorted(failures)
    rank, failure = guilty[0], failures[guilty[0]]
    if failure.exitcode == INTERRUPTED:
        return INTERRUPTED
    how = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else f"failed ({failure.exitcode})"
    log = next(logs.glob(f"*/attempt_0/{rank}/stderr.log"), None)  # rank 0 has none: it spoke here
    lines = log.read_text(errors="replace").splitlines()[-WORDS:] if log else []
    told = f"; its last words, from {log}:" if lines else ""
    print("\n  ".join([f"scorl: rank {rank} {how}{told}", *lines]), file=sys.stderr)
    return 2 if failure.exitcode == 2 else 1
