"""SCoRe (arXiv 2409.12917) in one file of torch and transformers: a language model learns to correct its own answers.

    OMP_NUM_THREADS=1 python examples/score_in_one_file.py      # 80 s of one core, 0.35 million parameters

    before      accuracy@t1  64.0  accuracy@t2  53.5  Delta  -10.5
    after       accuracy@t1  65.5  accuracy@t2  77.0  Delta  +11.5      (200 held-out problems, one seed)

To be read from top to bottom. scorl adds recipes, resuming, intervals, other methods, large models and speed. The
arithmetic is the same: tests/test_one_file.py holds losses and weights equal over steps of both stages.
"""

import copy
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = Path(__file__).parents[1] / "src" / "scorl" / "models" / "countdown-base"
ALPHA = 10.0  # the bonus for progress, Eq. 4
BETA_1, BETA_2 = 0.01, 0.3  # the KL to the reference on every attempt, and what Stage I adds on the first, Eq. 3
PROBLEMS, SAMPLES, MAX_TOKENS, LR = 16, 8, 80, 3e-4

# -------------------------------------------------------------------- the problems: reach a target with four numbers

PROMPT = (
    "Reach {target} with the numbers {numbers}. Use + - * / in whole numbers, each number at most once, "
    "and write only the steps, as in 8*2=16 16-3=13."
)
CORRECTION = (  # the same message after every first attempt: it never says whether there is an error
    "There might be an error in the solution above. Check its steps, correct the error if there is one, "
    "and write the steps again."
)
STEP = re.compile(r"(?<![\d=+*/-])(\d+)([-+*/])(\d+)=(\d+)(?![\d=+*/-])")


class Problem(NamedTuple):
    numbers: tuple[int, ...]
    target: int


def draw_problem(rng: random.Random, held_out: bool = False) -> Problem:
    """A problem that one or two steps solve; a tenth of all problems is held out."""
    while True:
        a, b, c, d = (rng.randint(1, 12) for _ in range(4))
        first = rng.choice([a + b, a - b, a * b])
        target = rng.choice([first, first + c, first - c, first * c])
        name = repr((sorted((a, b, c, d)), target)).encode()
        if 1 <= target <= 60 and (zlib.crc32(name) % 10 == 0) == held_out:
            return Problem((a, b, c, d), target)


def reward(problem: Problem, text: str) -> float:
    """r(y, y*): 1 if the last run of steps reaches the target. Every word but "ok" begins a new run, so that the model
    may check and try again: "Check: 7+3=11 no. Try: 7*3=21 ok, 21-5=16 ok." is judged by its last two steps."""
    runs = [steps for part in re.split(r"\b(?!ok\b)[A-Za-z]+", text) if (steps := STEP.findall(part))]
    available, result = Counter(problem.numbers), None
    for left, sign, right, result in [(int(a), s, int(b), int(c)) for a, s, b, c in runs[-1]] if runs else []:
        available.subtract((left, right))
        signs = {"+": left + right == result, "-": left - right == result, "*": left * right == result}
        if min(available.values()) < 0 or not signs.get(sign, right != 0 and left == right * result):
            return 0.0
        available[result] += 1
    return float(result == problem.target)


# ------------------------------------------------------------- two attempts: token ids are the state, nothing is redone
class Attempt(NamedTuple):
    prompt: list[int]  # all that the model saw
    ids: list[int]  # what it wrote, the end token included
    reward: float


Trajectory = tuple[Attempt, Attempt]


def rollout(model: Any, tokenizer: Any, problems: list[Problem], greedy: bool = False) -> list[Trajectory]:
    """Ask, let the model answer, say that there might be an error, let it answer again; always both turns."""
    prompts = [chat(tokenizer, PROMPT.format(target=p.target, numbers=" ".join(map(str, p.numbers)))) for p in problems]
    turns = []
    for _ in range(2):
        responses = write(model, tokenizer, prompts, greedy)
        texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
        turns.append(list(map(Attempt, prompts, responses, map(reward, problems, texts))))
        prompts = [follow(tokenizer, attempt) for attempt in turns[-1]]
    return list(zip(*turns, strict=True))


def chat(tokenizer: Any, text: str) -> list[int]:
    """A user's message as token ids, up to where the model begins to write."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)


def follow(tokenizer: Any, attempt: Attempt) -> list[int]:
    """The next prompt: the ids so far and the correction message; a response that was cut off is closed first."""
    close = [] if attempt.ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
    return attempt.prompt + attempt.ids + close + chat(tokenizer, CORRECTION)


@torch.no_grad()
def write(model: Any, tokenizer: Any, prompts: list[list[int]], greedy: bool) -> list[list[int]]:
    """The model's response to each prompt."""
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0}
    rows = model.generate(**batch, max_new_tokens=MAX_TOKENS, **how)[:, batch["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


# ------------------------------------------------------------------------------- SCoRe: two stages, credit per attempt
class Stage(NamedTuple):
    name: str
    shape: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # rewards r1, r2 -> shaped reward of each attempt
    beta: tuple[float, float]  # KL coefficient of each attempt
    steps: int


# Eq. 3: the second attempt alone is rewarded, while a strict KL keeps the first one where it is. Without this stage a
# model may just improve its first attempt and copy it: collapse.
STAGE_ONE = Stage("I", lambda r1, r2: (torch.zeros_like(r1), r2), (BETA_1 + BETA_2, BETA_1), steps=20)
# Eq. 4: both are rewarded, and the second for progress too: alpha (r2 - r1). To spoil a right answer costs as much.
STAGE_TWO = Stage("II", lambda r1, r2: (r1, r2 + ALPHA * (r2 - r1)), (BETA_1, BETA_1), steps=20)


def advantages(trajectories: list[Trajectory], stage: Stage) -> Tensor:
    """Each attempt's own shaped reward less the mean of the problem's other samples, [trajectories, 2]. They are not
    divided by their standard deviation: that would cancel alpha."""
    rewards = torch.tensor([[a.reward for a in t] for t in trajectories]).view(-1, SAMPLES, 2)
    shaped = torch.stack(stage.shape(rewards[..., 0], rewards[..., 1]), dim=-1)
    others = (shaped.sum(1, keepdim=True) - shaped) / (SAMPLES - 1)
    return (shaped - others).flatten(0, 1)


def loss(model: Any, reference: Any, trajectories: list[Trajectory], stage: Stage) -> Tensor:
    """REINFORCE with a KL to the reference (Eq. 2), by attempt; the mean over trajectories."""
    rows = [torch.tensor(second.prompt + second.ids) for _, second in trajectories]  # the first attempt is in there
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # on the right: nothing before it sees it
    log_p = model(ids).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        log_ref = reference(ids).logits[:, :-1].log_softmax(-1)
    log_pi = log_p.gather(-1, ids[:, 1:, None])[..., 0]  # of each next token, [trajectories, tokens - 1]
    kl = (log_p.exp() * (log_p - log_ref)).sum(-1)  # exact: over the whole vocabulary
    total = torch.zeros(())
    for turn, (advantage, beta) in enumerate(zip(advantages(trajectories, stage).T, stage.beta, strict=True)):
        spans = [(len(t[turn].prompt), len(t[turn].prompt + t[turn].ids)) for t in trajectories]
        (begin, end), place = torch.tensor(spans).T[..., None], torch.arange(1, ids.shape[1])
        wrote = (begin <= place) & (place < end)  # the attempt's own tokens: prompts and messages carry no loss
        here = (kl * wrote).detach()
        to_come = here.sum(1, keepdim=True) - here.cumsum(1)  # a token also leads to the KL of the tokens after it
        credit = advantage[:, None] - beta * to_come
        total = total + (wrote * (beta * kl - credit * log_pi)).sum()
    return total / len(trajectories)


def learn(model: Any, reference: Any, optimizer: Any, trajectories: list[Trajectory], stage: Stage) -> float:
    """One update; the loss before it."""
    value = loss(model, reference, trajectories, stage)
    optimizer.zero_grad()
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return value.item()


# -------------------------------------------------------------------------------------------------------- the whole run
def report(label: str, trajectories: list[Trajectory]) -> None:
    """Accuracies of both attempts and their difference, in percent."""
    t1, t2 = (100 * sum(t[turn].reward for t in trajectories) / len(trajectories) for turn in (0, 1))
    print(f"{label:<10}  accuracy@t1 {t1:5.1f}  accuracy@t2 {t2:5.1f}  Delta {t2 - t1:+6.1f}", flush=True)


def main(stages: tuple[Stage, ...] = (STAGE_ONE, STAGE_TWO), tests: int = 200) -> None:
    """Measure on held-out problems, train through the stages, measure again."""
    torch.manual_seed(0)
    rng, exam = random.Random(1), random.Random(2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    reference = copy.deepcopy(model)  # the model that the run starts from, in both stages
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    held_out = [draw_problem(exam, held_out=True) for _ in range(tests)]
    report("before", rollout(model, tokenizer, held_out, greedy=True))
    for stage in stages:
        for step in range(1, stage.steps + 1):
            problems = [problem for _ in range(PROBLEMS) for problem in [draw_problem(rng)] * SAMPLES]
            trajectories = rollout(model, tokenizer, problems)
            learn(model, reference, optimizer, trajectories, stage)
            if step % 5 == 0:
                report(f"{stage.name}, {step}", trajectories)
    report("after", rollout(model, tokenizer, held_out, greedy=True))


if __name__ == "__main__":
    main()
