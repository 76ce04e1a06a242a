"""Processes on a Ray cluster, by Ray Train's TorchTrainer; the only file that imports Ray.

Ray places the workers, makes their process group, and starts all of them again when one is lost. A run resumes from
its own newest checkpoint, so the run directory must lie where every node sees it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from scorl.distributed.ranks import Ranks, current_ranks
from scorl.errors import GuardError, UserError

__all__ = ["launch"]

T = TypeVar("T")


def launch(work: Callable[[Ranks], T], workers: int, *, timeout: float, restarts: int, device: str, folder: Path) -> T:
    """Run `work` on so many workers of the cluster at RAY_ADDRESS, or of one that is started on this machine.

    Args:
        work: what each worker runs, picklable; rank 0's result is returned.
        workers: how many.
        timeout: seconds that ranks wait for each other, and Ray for all of them to start.
        restarts: how often all of them are started again after one was lost.
        device: of the recipe's model.
        folder: where Ray Train keeps what it notes about the run, on every node.

    Raises:
        UserError: the user's mistake, Ray is not installed, or the cluster is too small.
        GuardError: a guard stopped the run, or it failed more often than it may.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError:
        raise UserError("launcher.name: ray is not installed: pip install 'scorl[ray]'") from None
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(timeout))  # Ray's own minute is short
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    gpus = _use_gpus(ray.cluster_resources(), workers, device)
    here = Path.cwd()
    trainer = TorchTrainer(
        lambda: _run_worker(work, here),
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=int(timeout)),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=restarts)),
    )
    try:
        result = trainer.fit().return_value
    except TrainingFailedError as error:
        raise GuardError(f"the workers failed more than launcher.restarts ({restarts}) times: {error}") from error
    if isinstance(result, UserError | GuardError):
        raise result
    value: T = result
    return value


def _use_gpus(resources: dict[str, float], workers: int, device: str) -> bool:
    """Whether each worker gets a GPU."""
    gpus = resources.get("GPU", 0.0)
    if device != "cpu" and gpus >= workers:
        return True
    if device.startswith("cuda"):
        raise UserError(f"launcher.workers: {workers} processes, but the cluster has {gpus:.0f} GPUs")
    if resources.get("CPU", 0.0) < workers:
        raise UserError(
            f"launcher.workers: {workers} processes, but the cluster has {resources.get('CPU', 0):.0f} CPUs"
        )
    return False


def _run_worker(work: Callable[[Ranks], T], here: Path) -> T | UserError | GuardError:
    """The result of the work; errors for the user are results too, for to start again would not help."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(here)  # the recipe's relative paths are the driver's
    try:
        return work(current_ranks())
    except (UserError, GuardError) as error:
        return error
