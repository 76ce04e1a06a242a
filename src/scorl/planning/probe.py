"""What this machine reaches, measured: matrix operations, bytes, and the cost of calls in which nothing is computed.

With one thread the clock is the process's own, so that other processes at work count little.
"""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from scorl import tasks
from scorl.engines.engine import Request
from scorl.engines.torch import TorchEngine
from scorl.learner import Learner
from scorl.model.onednn import KERNELS, onednn_is_faster, onednn_linear
from scorl.model.policy import Policy
from scorl.planning.device import Device, Rates, Reach
from scorl.planning.setup import Setup
from scorl.planning.shape import ModelShape
from scorl.planning.tokens import lesson, micro_batches, writings
from scorl.planning.work import passes
from scorl.rollout import Draws, rollout
from scorl.seeds import derive
from scorl.settings import LearnerSettings, LoraSettings, Sampling
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

__all__ = ["clock", "measured", "reach", "resident", "settled", "this_cpu"]

SMALLEST = "scorl:countdown-base"
"""A model in which hardly anything is computed for one row."""
MOST_TOKENS = 4096
"""Rates do not rise beyond."""
MOST_NUMBERS = 2**26
"""In the matrices that are gone through: 256 MiB."""
MOST_HELD = 2**27
"""In the results that are held: 512 MiB. A layer's are a quarter of what it reads and writes."""
DRAWN = 24
"""Decoded steps of a probe."""
SAMPLES = 8
"""Samples of each of eight problems."""


def clock() -> float:
    """Seconds: of this process with one thread, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def this_cpu(setup: Setup) -> Device:
    """This machine as a device, measured for a setup."""
    stage = next((stage for stage in setup.stages if stage.objective.source != "solutions"), setup.stages[0])
    runtime, rates = settled(), measured(setup, stage)
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    reach = rates.many
    name = f"cpu with {torch.get_num_threads()} threads"
    return Device(name, memory, reach.bandwidth, reach.flops, reach.flops, 0.0, 0.0, runtime, rates)


def settled() -> float:
    """Bytes of this process once its libraries have been at work and what they freed is given back."""
    _calls(1, None)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return resident() + (KERNELS if onednn_is_faster() else 0)


def resident() -> float:
    """Bytes of this process in memory; where the system does not tell, the most that there were."""
    told = Path("/proc/self/statm")
    if not told.exists():
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return int(told.read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def measured(setup: Setup, stage: Stage) -> Rates:
    """The rates of this CPU for a stage: on tensors of its sizes, and of calls like its own."""
    learned, calls = lesson(setup, stage), writings(setup, stage)
    tokens = learned.tokens / micro_batches(setup, learned)
    rows = calls[-1].alive if calls else 1.0
    few, many = _calls(1, setup.lora), _calls(3, setup.lora)
    layer = [(b - a) / 2 for a, b in zip(few, many, strict=True)]
    return Rates(
        many=reach(setup.shape, round(tokens), round(learned.longest / 2), round(learned.longest), held=True),
        few=reach(setup.shape, round(rows), 1, round(learned.longest), held=False),
        decode_call=few[0] - layer[0],
        decode_layer=layer[0],
        response=_response(),
        learn_call=few[1] - layer[1],
        learn_layer=layer[1],
    )


def reach(shape: ModelShape, tokens: int, queries: int, keys: int, *, held: bool) -> Reach:
    """Rates of a layer's matrices, of its attention, and of its element-wise operations, on so many tokens at once.

    Args:
        shape: of the layer.
        tokens: at once; rates do not rise beyond 4,096.
        queries: neighbours that attend together.
        keys: that they attend to.
        held: as learning does it: with both gradients of each product, and with results that are held layer after
            layer, so that they take new memory each time, which the system has to hand out; else the matrices of many
            layers are gone through, so that few tokens meet them outside the caches, as decoding does.
    """
    count = max(1, min(MOST_TOKENS, tokens))
    copies = 1 if held else max(1, min(shape.layers, MOST_NUMBERS * shape.layers // shape.body))
    layers = max(1, min(2 * shape.layers, round(MOST_HELD / (count * passes(shape) / 4)))) if held else 1
    weights = [torch.randn(out, inner) for _ in range(copies) for inner, out in shape.linears.values()]
    inputs = [torch.randn(count, inner) for inner, _ in shape.linears.values()] * copies
    query, key, value, mask = _attending(shape, max(1, count // queries), queries, keys)
    x, rotated = torch.randn(count, shape.width), torch.randn(count, shape.query_width + shape.key_width)
    gate, up = torch.randn(2, count, shape.inner)

    linear = onednn_linear if onednn_is_faster() else F.linear

    def matrices() -> list[Tensor]:
        found = []
        for tokens, weight in zip(inputs, weights, strict=True):
            made = linear(tokens, weight)
            found += [made, linear(made, weight.t()), linear(made.t(), tokens.t())] if held else [made]
        return found

    def element_wise() -> list[Tensor]:
        return [kept for _ in range(layers) for kept in _element_wise(x, rotated, gate, up, shape.norms)]

    with torch.inference_mode():
        return Reach(
            flops=(6 if held else 2) * count * sum(w.numel() for w in weights) / _seconds(matrices),
            attention=4
            * query.numel()
            * keys
            / _seconds(lambda: F.scaled_dot_product_attention(query, key, value, mask)),
            bandwidth=4 * count * layers * passes(shape) / _seconds(element_wise),
        )


def _attending(shape: ModelShape, rows: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and a mask as a tree's attention and a decoded step's have them."""
    folded = shape.heads // shape.groups * queries
    key, value = torch.randn(2, rows, shape.groups, keys, shape.head_size)
    query = torch.randn(rows, shape.groups, folded, shape.head_size)
    return query, key, value, torch.ones(rows, 1, folded, keys, dtype=torch.bool)


def _element_wise(x: Tensor, rotated: Tensor, gate: Tensor, up: Tensor, norms: int) -> list[Tensor]:
    """What a layer does besides matrices and attention, as `scorl.planning.work.passes` counts it."""
    found = []
    for _ in range(norms):
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        found += [scaled, x * scaled]
    one, other = rotated.chunk(2, -1)
    opened = F.silu(gate)
    return [*found, x + x, x + x, rotated * rotated + torch.cat([-other, one], -1) * rotated, opened, opened * up]


def _seconds(action: Callable[[], object], least: float = 0.1) -> float:
    """Median seconds of an action over at least five rounds and so many seconds."""
    action()
    rounds: list[float] = []
    while len(rounds) < 5 or sum(rounds) < least:
        began = clock()
        action()
        rounds.append(clock() - began)
    return statistics.median(rounds)


def _calls(layers: int, lora: LoraSettings | None) -> tuple[float, float]:
    """Seconds of a decoded step, in which one row ends, and of an update: the smallest model cut to so many layers."""
    policy = _smallest(layers, lora)
    policy.decoder.config.max_position_embeddings = DRAWN + 4  # the room that is left ends the rows one by one
    requests = [Request((1,) * (row + 4), row) for row in range(DRAWN)]
    learner = Learner(policy, LearnerSettings(learning_rate=1e-9, max_logprob_gap=float("inf")), total=10**6)
    lessons = [_lesson(3), _lesson(4)]

    def drawing(tokens: int) -> float:
        engine = TorchEngine(policy)
        return _seconds(lambda: engine.sample(requests, temperature=1.0, max_tokens=tokens, keep=True))

    return (drawing(DRAWN) - drawing(1)) / (DRAWN - 1), _seconds(lambda: learner.update(lessons))


def _response() -> float:
    """Seconds of a response of one token, in a rollout of two turns."""
    policy, task = _smallest(1), tasks.load("countdown")
    engine, problems = TorchEngine(policy), task.split("train").draw(8, 0, 0)
    draws = Draws(lambda problem, sample, place: derive(problem.id, sample, place), SAMPLES, Sampling(max_tokens=1))

    return _seconds(lambda: rollout(engine, task, problems, task.turns(2), draws)) / (len(problems) * SAMPLES * 2)


def _smallest(layers: int, lora: LoraSettings | None = None) -> Policy:
    """The smallest model, cut to so many layers; no token ends its responses."""
    policy = Policy(SMALLEST, device="cpu", lora=lora)
    policy.decoder.base_model.layers = policy.decoder.base_model.layers[:layers]
    policy.decoder.config.num_hidden_layers = layers
    policy.chat = replace(policy.chat, end_ids=frozenset({-1}))
    return policy


def _lesson(token: int) -> TrainingExample:
    """Two attempts of two tokens."""
    attempts = tuple(
        Response((1, 2, *(token, 5, 6) * turn), (token, 5), (0.0, 0.0), "", "stop", Verdict(0.0, "")) for turn in (0, 1)
    )
    return TrainingExample(Trajectory(Problem("", ()), 0, attempts), (Credit(1.0, 0.1), Credit(-1.0, 0.1)))
