"""Products of matrices by MKL, which torch takes for float32, and by oneDNN, which scorl takes on some.

    OMP_NUM_THREADS=1 python benchmarks/products.py

The layers of the tiny model and of SmolLM2 on as many tokens as decoding and learning have; forward, and the two
gradients, in GFLOP/s of processor time. The faster is also what `scorl.model.onednn` should choose.
"""

from __future__ import annotations

import torch
from floor import least
from torch.nn import functional as F

from scorl.model import onednn as room

SHAPES = [(96, 96), (96, 256), (256, 96), (576, 576), (576, 1536), (1536, 576), (576, 49152)]
"""Inputs and outputs."""
TOKENS = (16, 128, 600, 2048)
MOST = 2**25
"""Numbers of a product; larger ones are left out."""


def rates(inner: int, out: int, tokens: int) -> list[float]:
    """GFLOP/s of MKL and of oneDNN: forward, gradient of the input, gradient of the weight."""
    x, weight, gradient = torch.randn(tokens, inner), torch.randn(out, inner), torch.randn(tokens, out)
    pairs = ((x, weight), (gradient, weight.t()), (gradient.t(), x.t()))
    work = 2 * tokens * inner * out / 1e9
    count = max(1, round(10 / work))
    ways = (F.linear, room.matmul_onednn)
    return [work / least(lambda by=by, pair=pair: by(*pair), count) for pair in pairs for by in ways]


def main() -> None:
    torch.set_num_threads(1)
    print(f"scorl.model.onednn takes oneDNN here: {room.onednn_is_known_faster()}, from {room.WORTH:,} operations on\n")
    print("| inputs, outputs | tokens | operations | forward | gradient of inputs | of weights |")
    print("|---|---|---|---|---|---|")
    for inner, out in SHAPES:
        for tokens in TOKENS:
            if tokens * out <= MOST:
                found = [f"{rate:.0f}" for rate in rates(inner, out, tokens)]
                pairs = " | ".join(" -> ".join(found[i : i + 2]) for i in (0, 2, 4))
                print(f"| {inner}, {out} | {tokens} | {2 * tokens * inner * out:,} | {pairs} |", flush=True)


if __name__ == "__main__":
    main()
