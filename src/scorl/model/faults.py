"""What libraries raise of a model's files, in sentences."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from scorl.errors import UserError

__all__ = ["explained"]


@contextmanager
def explained(name: str, offline: bool = False) -> Iterator[None]:
    """Within, transformers reads the files of a model, in which anything may stand; whatever it raises is of them.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except (pickle.UnpicklingError, MemoryError):  # of the first `tensors_alone` says more
        raise
    except ImportError as error:
        raise UserError(f"cannot load model '{name}': {error}. GGUF files need: pip install 'scorl[gguf]'") from error
    except (OSError, ValueError) as error:
        why = "the hub cannot be reached, and no folder or cache has it" if offline else error
        raise UserError(f"cannot load model '{name}': {why}") from error
    except Exception as error:  # a KeyError for an unknown word, say
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which nothing of this floor imports
            raise
        raise UserError(
            f"cannot load model '{name}': transformers fails on its files, perhaps on a value in config.json: "
            f"{type(error).__name__}: {error}"
        ) from error
