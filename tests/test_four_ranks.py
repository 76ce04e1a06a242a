"""Four ranks whose shares are uneven, and some of them empty, learn as one; and end together when one fails."""

import socket
import subprocess
import sys
import time

import pytest
from support.ranked import built, needs_fsdp2, supported
from support.worlds import save_model
from test_ranks import ENVIRONMENT, lines, same, weights

from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4"]
CASES = {"full-ddp": 10, "full-fsdp2": 10, "few-ddp": 2, "few-fsdp2": 2}
"""Five problems; three, which leave a rank idle; and one, whose three attempts are divided."""

pytestmark = pytest.mark.timeout(900)  # many processes on few cores


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The model, the runs of one process, and those of four."""
    model, alone, four = (tmp_path_factory.mktemp(name) for name in ("model", "alone", "four"))
    path = save_model(model)
    for stages in ("full", "few"):
        run_recipe(built(path, stages), RunDirectory(alone / stages))
    run_recipe(built(path, "few", "half-whole"), RunDirectory(alone / "half"))
    command = [*TORCHRUN, "-m", "support.ranked", path, str(four), *supported([*CASES, "few-half-rows"])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr[-5000:]
    return alone, four


@pytest.mark.parametrize("case", supported(CASES))
def test_four_ranks_sample_and_learn_what_one_does(runs, case):
    alone, four = runs
    same(alone / case.split("-")[0], four / case, CASES[case], within=5e-6)


@needs_fsdp2
def test_idle_ranks_keep_half_precision_with_checkpoints(runs):
    alone, four = runs
    for a, b in zip(lines(alone / "half"), lines(four / "few-half-rows"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.05)
        assert b["logprob_gap"] < 0.02
    a, b = weights(alone / "half", 2), weights(four / "few-half-rows", 2)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 5e-3


TRANSFER = """
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from scorl.distributed.ranks import exit_process, process_group
from scorl.engines.torch import TorchEngine
from scorl.errors import GuardError, PeerLostError
from scorl.model.policy import Policy
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from support.ranked import built


@dataclass
class Sent(TorchEngine):
    '''Has a model of its own, as a server has.'''

    rank: int = 0
    loaded: int = 0

    def load_weights(self):
        self.loaded += 1
        if self.rank == 2 and self.loaded == 2:
            raise GuardError("after the weights were sent, the server is another policy")

    def check_weights(self):
        return None

    def sleep(self):
        pass


try:
    with process_group(4, 60.0, "cpu") as ranks:
        ready = built(sys.argv[1], "online", "fsdp2")
        engine = Sent(Policy(sys.argv[1], device="cpu"), rank=ranks.rank)
        run_recipe(replace(ready, engine=engine), RunDirectory(Path(sys.argv[2]), ranks))
except (GuardError, PeerLostError) as error:
    print(error, flush=True)
    exit_process(getattr(error, "exit_code", 1))
"""


@needs_fsdp2
def test_a_rank_that_fails_in_a_weight_transfer_ends_the_others_with_a_sentence(tmp_path):
    """Nobody watches these ranks and ends them: each must notice by itself, long before its timeout of a minute.

    Weights are gathered for the transfer (FSDP2), and are let go by what fails.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", TRANSFER, save_model(tmp_path / "model"), str(tmp_path / "run")]
    ranks = [
        subprocess.Popen(
            command,
            env={**ENVIRONMENT, **places, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    try:
        failed = ranks[2].communicate(timeout=200)
        began = time.monotonic()
        others = [ranks[rank].communicate(timeout=100)[0].splitlines()[-1] for rank in (0, 1, 3)]
    finally:
        for rank in ranks:
            rank.kill()
    assert time.monotonic() - began < 30
    assert [rank.returncode for rank in ranks] == [75, 75, 1, 75], failed
    assert failed[0].splitlines()[-1] == "after the weights were sent, the server is another policy"
    for rank, said in zip((0, 1, 3), others, strict=True):
        assert said.startswith(f"rank {rank} of 4 waited for "), said
        assert "in vain: another rank has ended" in said
