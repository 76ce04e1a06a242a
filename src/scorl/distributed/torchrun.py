"""Processes on this machine, started and watched by torch's elastic agent, which is what `torchrun` runs too.

Rank 0 speaks in the terminal, the others into log files. The first that fails ends all, with its exit code and its last
words; Ctrl-C and SIGTERM reach every rank, and the agent waits until they have saved. If this process is killed, so are
the ranks.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorl.errors import PeerLostError, UserError
from scorl.parent import PARENT
from scorl.text_files import make_visible

__all__ = ["launch", "rank_to_blame"]

INTERRUPTED = 130
LOG_LINES = 20
"""Lines of a failed rank's log that are shown."""

EXCUSES = {-signal.SIGKILL: 1, -signal.SIGABRT: 2, INTERRUPTED: 3, PeerLostError.exit_code: 4, -signal.SIGTERM: 4}
"""Exit codes that a rank may have because another one failed, and how likely that is.

The agent asks the ranks that are left to end by SIGTERM, and kills those that do not; NCCL's watchdog aborts a rank
whose peer is gone.
"""


def launch(arguments: Sequence[str], workers: int, *, timeout: float, device: str, logs: Path) -> int:
    """Run `scorl ARGUMENTS` on so many processes; the exit code.

    Args:
        arguments: of the command line.
        workers: how many.
        timeout: seconds that ranks have to save when they are asked to stop.
        device: of the recipe's model.
        logs: a folder for what the ranks but the first say, of which no other start is at work; it stays if one fails.

    Raises:
        UserError: there are fewer GPUs than workers.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_devices(workers, device)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the ranks share the cores
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(timeout))
    os.environ[PARENT] = str(os.getpid())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its tables hide our one sentence
    shutil.rmtree(logs, ignore_errors=True)  # of a start before this one
    own_logs = logs / str(os.getpid())
    own_logs.mkdir(parents=True)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id="scorl",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(own_logs), redirects=dict.fromkeys(range(1, workers), Std.ALL)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "scorl", *arguments)
    except ChildFailedError as error:
        return _report_failure(error.failures, own_logs)
    except SignalException:
        return INTERRUPTED
    shutil.rmtree(logs, ignore_errors=True)
    return 0


def _check_devices(workers: int, device: str) -> None:
    import torch

    if device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < workers:
        raise UserError(f"launcher.workers: {workers} processes, but this machine has {torch.cuda.device_count()} GPUs")


def rank_to_blame(exit_codes: Mapping[int, int]) -> int:
    """Which rank failed by itself: of those without an excuse the one that was seen first.

    Args:
        exit_codes: of the ranks that failed, in the order in which that was seen, which is not the order in which they
            died: all that end between two looks of the agent are seen at once.

    >>> rank_to_blame({0: PeerLostError.exit_code, 1: 7})
    1
    """
    return min(exit_codes, key=lambda rank: EXCUSES.get(exit_codes[rank], 0))


def _report_failure(failures: dict[int, Any], logs: Path) -> int:
    """Name the rank that failed and show the end of its log; the command's exit code."""
    exit_codes = {rank: failure.exitcode for rank, failure in failures.items()}
    rank = rank_to_blame(exit_codes)
    code = exit_codes[rank]
    if code == INTERRUPTED:
        return INTERRUPTED
    how = f"was ended by signal {-code}" if code < 0 else f"failed ({code})"
    log = next(logs.glob(f"*/attempt_0/{rank}/stderr.log"), None)  # rank 0 has none: it spoke here
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log else []
    source = f"; its last words, from {log}:" if lines else ""
    print(make_visible("\n  ".join([f"scorl: rank {rank} {how}{source}", *lines])), file=sys.stderr)
    return 2 if code == 2 else 1
