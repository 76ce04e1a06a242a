"""Judged conversations without a model: attempts, and verifications between them."""

from __future__ import annotations

from scorl.trajectory import Problem, Response, Role, Trajectory, Verdict, user

__all__ = ["PROBLEM", "response", "verified"]

PROBLEM = Problem("p", (user("say a"),))


def response(role: Role, reward: float | None, answer: str | None = None) -> Response:
    """A response of one token; without a reward it was not judged."""
    verdict = None if reward is None else Verdict(reward, "correct" if reward else "incorrect", answer=answer)
    return Response((1,), (2,), (0.0,), "", "stop", verdict, role)


def verified(first: float, claims: str, second: float, sample: int = 0) -> Trajectory:
    """An attempt, a verification that claims `right` or `wrong`, and another attempt."""
    check = response("verification", float((claims == "right") == bool(first)), claims)
    return Trajectory(PROBLEM, sample, (response("attempt", first), check, response("attempt", second)))
