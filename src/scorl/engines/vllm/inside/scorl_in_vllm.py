"""What of scorl runs inside vLLM's server, in vLLM's own environment: its start, its end, and weights from a file.

Nothing of scorl is imported here, and the folder holds this file alone, since it stands on the server's import path.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

__all__ = ["Extension", "FileTransfer"]

GRACE_SECONDS = 20.0
"""Between the request to end and the end by force."""


class Extension:
    """Empty; named to vLLM as its workers' extension, so that they import this file and know its weight transfer."""


@dataclass
class Start(WeightTransferInitInfo):  # type: ignore[misc]
    """What is agreed on before the first file: nothing."""


@dataclass
class File(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file of all weights under their Hugging Face names."""

    path: str
    mend: bool


class FileTransfer(WeightTransferEngine):  # type: ignore[misc]
    """vLLM's weight transfer by a file in shared memory, of which every worker takes its part: works without a GPU."""

    init_info_cls = Start
    update_info_cls = File
    mend = True

    def init_transfer_engine(self, init_info: Start) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Make the layers ready to be loaded again."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        """As in the base class, which waits for an accelerator even where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: File) -> None:
        """Load every weight of the file."""
        self.mend = update_info.mend
        with safe_open(update_info.path, framework="pt") as file:
            self.model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118

    def finish_weight_update(self) -> None:
        """Process what was loaded; a head tied to the embeddings, which is in no file, as well.

        On CPUs vLLM computes the head from a packed copy of its weights. A tied head is loaded by nobody, so vLLM
        (0.32) would warn, keep the copy, and continue with the head of the policy before.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        heads = [module for module in self.model.modules() if isinstance(module, ParallelLMHead)]
        for head in heads if self.mend else []:
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Nothing is held."""


def _end_with_parent(folder: str) -> None:
    """Wait until standard input closes, which it does when whoever started this is gone; then leave nothing behind."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    socket = sys.argv[sys.argv.index("--uds") + 1]  # its folder is the server's own; the model's may be the user's
    threading.Thread(target=_end_with_parent, args=(os.path.dirname(socket),), daemon=True).start()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
elif __name__ != "__mp_main__":  # as which processes that the server spawns see this file once more
    WeightTransferEngineFactory.register_engine("file", FileTransfer)
