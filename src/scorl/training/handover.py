"""Who holds the weights while responses are written.

An engine that samples from the policy itself needs the policy whole. One with weights of its own needs it whole for the
transfer alone; afterwards what was gathered for that is let go, so that the engine has the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from scorl.engines.engine import Engine, OwnWeights
from scorl.learner import Learner

__all__ = ["weights_for_sampling"]


@contextmanager
def weights_for_sampling(engine: Engine, learner: Learner, *, reference: bool = False) -> Iterator[float | None]:
    """Within, the engine samples from the policy as it stands; a collective of all ranks.

    Gives what the engine's check of its weights found, None where it has none of its own.

    Args:
        engine: of `learner.policy`.
        learner: whose weights may be in shards.
        reference: it is to write as the reference too, whose weights it then takes from the policy's place.
    """
    with ExitStack() as gathered:
        gathered.enter_context(learner.unsharded(reference))
        if not isinstance(engine, OwnWeights):
            yield None
            return
        engine.load_weights()
        if not reference:
            gathered.close()
        gap = engine.check_weights()
        yield gap
        engine.sleep()
