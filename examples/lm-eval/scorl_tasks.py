"""What the tasks beside this file do with the lines that `scorl evaluate --attempts-out` wrote: docs/harnesses.md."""

import ast

from scorl.trajectory import Problem, user
from scorl.verifiers import VERIFIERS


def first_attempts(lines):
    """One document for each problem: scorl's own first attempt at it."""
    return lines.filter(lambda line: line["turn"] == 0 and line["sample"] == 0)


def judge_countdown(line, results):
    """Judged by scorl's verifier of countdown."""
    return _judge("countdown", line, ast.literal_eval(line["gold"]), results[0])


def judge_math(line, results):
    """Judged by scorl's verifier of mathematics."""
    return _judge("math", line, line["gold"], results[0])


def _judge(verifier, line, gold, text):
    (verdict,) = VERIFIERS[verifier]([(Problem(line["problem"], (user(line["question"]),), gold), text)])
    return {"accuracy_t1": verdict.reward, "scorl_accuracy_t1": line["reward"], "same_text": text == line["text"]}
