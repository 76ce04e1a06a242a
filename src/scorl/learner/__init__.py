"""The learner: one loss, one reduction, whatever the method."""

from scorl.errors import GuardError
from scorl.learner.update import Learner, Progress

__all__ = ["GuardError", "Learner", "Progress"]
