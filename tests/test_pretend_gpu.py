"""A whole training on a pretend GPU: no mixed devices, and how often the host waits; see tests/support/pretend_gpu."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.pretend_gpu.guard import build_guard, why_not

TESTS = Path(__file__).parent
ALL = [
    "-".join(parts)
    for parts in itertools.product(
        ("float32", "bfloat16"), ("full", "lora"), ("prefix_tree", "padded"), ("plain", "checkpointing")
    )
]
HALF = [case for case in ALL if ("float32" in case) + ("full" in case) + ("plain" in case) in (1, 3)]
"""Any two of the choices together; both packings of each."""
CASES = ALL if "SCORL_SLOW" in os.environ else HALF
# A limit goes down with the code, and never up.
SYNCS_A_TOKEN = 1
SYNCS_A_CALL = 2  # of the engine: whether the weights have changed, whether prompts are of one length
SYNCS_A_STEP = 5  # whatever the micro-batches, here two: the statistics, the gradient's norm, whether weights follow
SYNCS_OF_ROWS = 4  # more: transformers looks at the positions of rows in each pass, of the policy and of the reference
HEAD_CASTS_A_STEP = 1  # the policy's weight, as the last update left it

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1200),  # half a minute where nothing else runs
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each case told; all run in one process, since torch must find the guard when it is imported."""
    guard = build_guard(tmp_path_factory.mktemp("guard"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-m", "support.pretend_gpu.run", str(guard), *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stderr[-3000:]
    return {line.pop("case"): line for line in map(json.loads, done.stdout.splitlines())}


def test_it_refuses_what_cuda_refuses(told):
    assert told["refusals"] == {
        "sum of both": "MixedDevicesError",
        "lookup of a CPU index": "MixedDevicesError",
        "numpy": "TypeError",
        "a number of the CPU": "taken",
        "a copy": "taken",
        "backward": "taken",
        "synchronisations of three": "3",
    }


@pytest.mark.parametrize("case", CASES)
def test_a_training_stays_on_its_device(told, case):
    run = told[case]
    assert "error" not in run, run["error"][-3000:]
    assert run["placed"]
    assert run["packing"] == case.split("-")[2]
    assert max(run["gaps"]) < (1e-5 if "float32" in case else 0.02)


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_the_gpu_a_few_times(told, case):
    limit = SYNCS_A_STEP + ("padded" in case) * SYNCS_OF_ROWS
    assert sum(told[case]["syncs"].values()) <= limit, told[case]["syncs"]


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("plain")])
def test_a_decoded_token_waits_for_the_gpu_once(told, case):
    assert told[case]["decoding"]["syncs"] <= SYNCS_A_TOKEN, told[case]["decoding"]["places"]


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("plain")])
def test_rows_that_end_make_it_wait_once_more(told, case):
    decoding = told[case]["decoding"]
    assert len(set(decoding["lengths"])) > 4
    assert decoding["syncs_as_rows_end"] <= 2 * decoding["lengths"][-1] + SYNCS_A_CALL


@pytest.mark.parametrize("case", CASES)
def test_the_head_is_cast_once_a_step(told, case):
    limit = HEAD_CASTS_A_STEP if "bfloat16-full" in case else 0
    assert told[case]["head_casts"] <= limit


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("float32") and "padded" in case])
def test_trees_learn_what_rows_learn(told, case):
    assert told[case]["losses"] == pytest.approx(told[case.replace("padded", "prefix_tree")]["losses"], abs=1e-4)
