"""The worker program of reasoning-gym's scores: a JSON line with an entry and an answer in, its score out.

It is started by path (`python -P gym_worker.py PARENT DATASET CONFIG`), and lives until its input ends, or its parent,
the process of that id (0: whichever started it), kills it or ends. reasoning-gym gives some answers to `eval` or to
SymPy, so what a model wrote may run in here, or never come to an end.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import pickle
import sys
import warnings
from typing import Any

from scorl.parent import end_with_parent
from scorl.verifiers.symbolic import limit_memory

__all__ = ["create_dataset", "main"]


def create_dataset(name: str, config: dict[str, Any], seed: int, size: int) -> Any:
    """A data set of reasoning-gym; the members of `composite` are mappings.

    Raises:
        Exception: whatever reasoning-gym has against the configuration.
    """
    import reasoning_gym

    if name == "composite":
        from reasoning_gym.composite import DatasetSpec

        members = [DatasetSpec(**{"weight": 1.0, "config": {}, **member}) for member in config.get("datasets", [])]
        config = {**config, "datasets": members}
    return reasoning_gym.create_dataset(name, seed=seed, size=size, **config)


def main() -> None:
    """Says that it is ready, then answers line by line: a number, or what the answer made reasoning-gym raise."""
    end_with_parent(int(sys.argv[1]) or os.getppid())
    limit_memory()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    replies, sys.stdout = sys.stdout, sys.stderr  # what an answer prints is no score
    dataset = create_dataset(sys.argv[2], json.loads(sys.argv[3]), 0, 10)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        entry, answer = pickle.loads(base64.b64decode(line))  # of our own process
        try:
            score = float(dataset.score_answer(answer, entry))
            reply: Any = score if math.isfinite(score) else f"the score is {score}"
        except MemoryError:  # likewise in symbolic.py
            sys.exit(1)
        except Exception as error:  # what an answer makes it raise is a verdict, not a crash
            reply = f"{type(error).__name__} while scoring"
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
