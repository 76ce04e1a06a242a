"""Weights that others wrote: files of torch's are pickles, of which nothing but tensors is taken."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from scorl.errors import UserError

__all__ = ["tensors_alone"]

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_alone(name: str) -> Iterator[None]:
    """Within, `torch.load` unpickles tensors alone, whatever who calls it asks for: peft takes no such argument.

    Raises:
        UserError: a pickle holds something else, which could be code.
    """
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: its weights are a pickle that holds more than tensors, and could run code, so it is not read "
            f"({reason}). Take weights in safetensors"
        ) from None
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before
