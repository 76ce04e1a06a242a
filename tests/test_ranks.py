"""Many processes learn as one: the same attempts, the same losses but for the order of summation, the same files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.ranked import built, needs_fsdp2, supported
from support.worlds import save_model

from scorl.distributed.ranks import ALONE, Ranks, process_group
from scorl.distributed.torchrun import rank_to_blame
from scorl.errors import PeerLostError, UserError
from scorl.run.checkpoint import load
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe

TESTS = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
KINDS = {
    "full-ddp": 10,
    "full-fsdp2": 10,
    "full-lora": 10,
    "few-fsdp2": 2,
    "collected-ddp": 2,
    "full-fsdp2-rows": 10,
    "online-fsdp2": 6,
    "full-fsdp2-async": 10,
    "online-fsdp2-once": 6,
    "full-fsdp2lora": 10,
    "online-fsdp2lora-rows": 6,
}
"""The cases and their steps."""


def on_two_ranks(model: str, folder: Path, *cases: str) -> None:
    command = [*TORCHRUN, "-m", "support.ranked", model, str(folder), *cases]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]


@needs_fsdp2
def test_shards_of_a_moving_reference_stop_the_run(tmp_path):
    command = [*TORCHRUN, "-m", "support.ranked", save_model(tmp_path / "model"), str(tmp_path), "few-fsdp2-drifting"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode != 0
    assert "GuardError: the reference's weights have changed" in done.stderr
    assert len(lines(tmp_path / "few-fsdp2-drifting")) == 1


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def attempts(run: Path) -> list[dict]:
    """All that was sampled, but for coefficients, which adapt to a measured KL."""
    files = sorted((run / "attempts").iterdir())
    return [{**json.loads(line), "beta": None} for file in files for line in file.read_text().splitlines()]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step}" / "model.safetensors")


def same(one: Path, other: Path, step: int, within: float) -> None:
    assert attempts(one) == attempts(other)
    for a, b in zip(lines(one), lines(other), strict=True):
        for name in ("loss", "kl_t1", "kl_t2", "logprob_gap", "adaptive"):
            assert a[name] == pytest.approx(b[name], abs=within), name
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=20 * within, abs=10 * within)
        assert [a[name] for name in a if name.startswith("accuracy")] == [
            b[name] for name in b if name.startswith("accuracy")
        ]
    assert json.loads((one / "evaluation.json").read_text()) == json.loads((other / "evaluation.json").read_text())
    a, b = weights(one, step), weights(other, step)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= within


def begun(run: Path, to: Path, step: int) -> Path:
    """A copy of a run as it was when it had saved that step."""
    shutil.copytree(run, to, symlinks=True)
    for saved in (to / "checkpoints").glob("step-*"):
        if int(saved.name.removeprefix("step-")) > step:
            shutil.rmtree(saved)
    (to / "checkpoints" / "best").unlink(missing_ok=True)
    return to


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for stages, kind in {(case.split("-")[0], "lora" if "lora" in case else "ddp") for case in supported(KINDS)}:
        run_recipe(built(model, stages, kind), RunDirectory(folder / f"{stages}-{kind}"))
    return folder


@pytest.fixture(scope="module")
def two(model, tmp_path_factory):
    """The runs of two ranks."""
    folder = tmp_path_factory.mktemp("two")
    on_two_ranks(model, folder, *supported([*KINDS, "few-half"]))
    return folder


@pytest.mark.parametrize("case", supported(KINDS))
def test_two_ranks_sample_and_learn_what_one_does(alone, two, case):
    single = alone / f"{case.split('-')[0]}-{'lora' if 'lora' in case else 'ddp'}"
    same(single, two / case, KINDS[case], within=5e-6)


@needs_fsdp2
def test_half_precision_in_shards_is_half_precision(model, two, tmp_path):
    """Weights in float32 that are computed with in bfloat16; rounding is another, and little else."""
    run_recipe(built(model, "few", "half-whole"), RunDirectory(tmp_path / "run"))
    for a, b in zip(lines(tmp_path / "run"), lines(two / "few-half"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.05)
        assert b["logprob_gap"] < 0.02
    a, b = weights(tmp_path / "run", 2), weights(two / "few-half", 2)
    assert all(b[name].dtype == torch.float32 for name in b)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 5e-3


@needs_fsdp2
def test_a_run_resumes_with_another_number_of_ranks(model, alone, two, tmp_path):
    single, sharded = alone / "full-ddp", two / "full-fsdp2"
    begun(sharded, tmp_path / "full-fsdp2-again", 6)
    begun(single, tmp_path / "full-fsdp2-from-one", 6)
    on_two_ranks(model, tmp_path, "full-fsdp2-again", "full-fsdp2-from-one")
    same(sharded, tmp_path / "full-fsdp2-again", 10, within=0.0)  # bit-for-bit
    same(single, tmp_path / "full-fsdp2-from-one", 10, within=5e-6)
    run_recipe(built(model, "full"), RunDirectory(begun(sharded, tmp_path / "to-one", 6)))
    same(sharded, tmp_path / "to-one", 10, within=5e-6)


@needs_fsdp2
def test_shards_that_are_written_meanwhile_are_those_of_their_step(two):
    files = [file.relative_to(two / "full-fsdp2") for file in (two / "full-fsdp2").glob("checkpoints/step-*/trainer/*")]
    for file in (file for file in files if file.suffix == ".safetensors"):
        mine, theirs = load_file(two / "full-fsdp2-async" / file), load_file(two / "full-fsdp2" / file)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@needs_fsdp2
def test_sharded_adapters_and_their_reference_resume(model, alone, two, tmp_path):
    sharded = two / "full-fsdp2lora"
    begun(sharded, tmp_path / "full-fsdp2lora", 6)
    on_two_ranks(model, tmp_path, "full-fsdp2lora")
    same(sharded, tmp_path / "full-fsdp2lora", 10, within=0.0)
    run_recipe(built(model, "full", "lora"), RunDirectory(begun(sharded, tmp_path / "to-one", 6)))
    same(alone / "full-lora", tmp_path / "to-one", 10, within=5e-6)


@needs_fsdp2
def test_ranks_with_different_models_are_told(model, tmp_path):
    """Rank 0's weights are everybody's; the shapes must be."""
    other = save_model(tmp_path / "other", width=16)
    command = [*TORCHRUN, "--no-python", sys.executable, "-c", DIFFERENT, model, other]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert "the ranks have different models" in done.stderr
    assert done.returncode != 0


DIFFERENT = """
import sys
from scorl.distributed.ranks import process_group
from scorl.learner import Learner
from scorl.model.policy import Policy
from scorl.settings import LearnerSettings
with process_group(2, 60.0, "cpu") as ranks:
    policy = Policy(sys.argv[1 + ranks.rank], weights="host" if ranks.main else "nowhere")
    Learner(policy, LearnerSettings(), total=1, ranks=ranks, parallel="fsdp2")
"""


@needs_fsdp2
def test_a_sharded_run_resumes_into_a_step_before_anything_else(model, two, tmp_path):
    """No evaluation and no attempt of the reference's gathers the weights first; both ranks, and one of them alone."""
    sharded = two / "online-fsdp2"
    begun(sharded, tmp_path / "online-fsdp2", 3)
    on_two_ranks(model, tmp_path, "online-fsdp2")
    same(sharded, tmp_path / "online-fsdp2", 6, within=0.0)
    run_recipe(built(model, "online"), RunDirectory(begun(sharded, tmp_path / "one", 3)))
    same(sharded, tmp_path / "one", 6, within=5e-6)


@needs_fsdp2
def test_shards_are_the_whole_weights_bit_for_bit(model, two):
    full = built(model, "full")
    learner = full.learner()
    load(RunDirectory(two / "full-fsdp2"), learner, pytest.fail)
    assert learner.updates == 10
    saved = weights(two / "full-fsdp2", 10)
    assert all(torch.equal(p, saved[name]) for name, p in full.policy.parameters.items())
    assert learner.reference.was_reset
    moments = learner.optimizer.state_dict()["state"]
    assert all(float(kept["step"]) == 10 and kept["exp_avg"].any() for kept in moments.values())


RECIPE = """
model: {{path: "{model}"}}
task: {{name: files, path: "{data}", test_path: "{data}", verifier: "{reward}"}}
engine: {{max_tokens: 3}}
stages: [{{objective: reinforce, steps: {steps}, problems: 4, samples: 2, attempts: 2}}]
evaluation: {{problems: 2}}
launcher: {{name: torchrun, workers: 2}}
"""


@pytest.fixture
def recipe(model, tmp_path):
    """A recipe whose reward function one can write."""
    (tmp_path / "data.jsonl").write_text('{"problem": "say a", "answer": "a"}\n{"problem": "say b", "answer": "b"}\n')

    def write(reward: str, steps: int) -> Path:
        (tmp_path / "reward.py").write_text(reward)
        text = RECIPE.format(
            model=model, data=tmp_path / "data.jsonl", reward=f"{tmp_path / 'reward.py'}:reward", steps=steps
        )
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return write


def scorl(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scorl", *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_saves_on_all_ranks_and_one_process_resumes(recipe, tmp_path):
    path = recipe("def reward(prompts, completions, **columns):\n    return [0.5] * len(completions)\n", 400)
    run = tmp_path / "run"
    started = scorl("train", path, "--out", run)
    while started.poll() is None and not (run / "steps.jsonl").exists():
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    output = started.communicate(timeout=280)[1]
    assert started.returncode == 130, output
    assert "saved after step" in output
    (step,) = [int(saved.name.removeprefix("step-")) for saved in (run / "checkpoints").glob("step-*")]
    again = scorl("train", run, "launcher.name=local", "launcher.workers=1", "--resume")
    while again.poll() is None and len(lines(run)) <= step:
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    assert again.wait(280) == 130
    assert [line["step"] for line in lines(run)] == list(range(len(lines(run))))
    assert len(lines(run)) > step


HELD = """
import os, signal, time, zlib
from pathlib import Path
HERE = Path(__file__).parent
def was_asked():
    note = signal.getsignal(signal.SIGINT)  # scorl.run.signals
    return any(cell.cell_contents in ([signal.SIGINT], [signal.SIGTERM]) for cell in note.__closure__ or ())
def reward(prompts, completions, **columns):
    steps = HERE / "hold"
    while steps.exists() and len(steps.read_text().splitlines()) == 1:
        (HERE / f"{'asked' if was_asked() else 'held'}-{os.environ['RANK']}").touch()
        time.sleep(0.02)
    return [float(zlib.crc32(text.encode()) % 2) for text in completions]
"""
"""The second step is under way for as long as `hold` leads to the lines of its run, and ranks say when they are in it
and when they are asked to stop."""


def test_a_stop_takes_the_step_under_way_and_a_second_one_nothing(recipe, tmp_path):
    path, hold = recipe(HELD, 9), tmp_path / "hold"

    def stop_in_second_step(run: Path, *arguments: object, twice: bool) -> str:
        """Stop a run by SIGTERM, or by Ctrl-C and once more while the step is under way; what it said."""
        hold.symlink_to(run / "steps.jsonl")
        started = scorl("train", *arguments)
        for what in ("held", "asked"):
            while not all((tmp_path / f"{what}-{rank}").exists() for rank in (0, 1)):
                assert started.poll() is None, started.communicate()[1]
                time.sleep(0.05)
            started.send_signal(
                signal.SIGINT if twice else signal.SIGTERM
            ) if twice or what == "held" else hold.unlink()
        output = started.communicate(timeout=280)[1]
        assert (started.returncode, "Traceback" in output) == (130, False), output
        hold.unlink(missing_ok=True)
        for said in (*tmp_path.glob("held-*"), *tmp_path.glob("asked-*")):
            said.unlink()
        return output

    once, twice = tmp_path / "once", tmp_path / "twice"
    start = (path, "checkpoint.save_steps=1")
    assert "saved after step 2" in stop_in_second_step(once, *start, "--out", once, twice=False)
    assert "saved" not in stop_in_second_step(twice, *start, "--out", twice, twice=True)
    assert [saved.name for saved in (twice / "checkpoints").glob("step-*")] == ["step-1"]
    assert len(lines(twice)) == 1
    assert "saved after step 2" in stop_in_second_step(twice, twice, "--resume", twice=False)
    assert len(lines(twice)) == 2
    same(once, twice, 2, within=0.0)
    assert all(line["grad_norm"] for line in lines(once))


def test_a_rank_that_dies_ends_all_and_is_named(recipe, tmp_path):
    die = "import os\ndef reward(prompts, completions, **columns):\n    "
    die += "os.environ['RANK'] == '1' and (os.write(2, b'alas'), os._exit(7))\n    return [0.5] * len(completions)\n"
    started = scorl("train", recipe(die, 2), "--out", tmp_path / "run")
    output = started.communicate(timeout=280)[1]
    assert started.returncode == 1
    assert "scorl: rank 1 failed (7)" in output
    assert "alas" in output


def test_a_start_beside_another_leaves_what_its_ranks_have_said(recipe, tmp_path):
    run = tmp_path / "run"
    (run / "ranks").mkdir(parents=True)
    (run / "ranks" / "said").touch()
    with RunDirectory(run).lock():
        started = scorl("train", recipe("", 2), "--out", run)
        output = started.communicate(timeout=280)[1]
    assert (started.returncode, "another process is at work there" in output) == (2, True), output
    assert (run / "ranks" / "said").exists()


def test_who_only_lost_a_peer_is_not_blamed_whoever_was_seen_first():
    lost, killed, aborted, asked = PeerLostError.exit_code, -signal.SIGKILL, -signal.SIGABRT, -signal.SIGTERM
    for excused in (lost, asked, killed, aborted, 130):
        assert rank_to_blame({0: excused, 1: 7}) == 1
        assert rank_to_blame({1: 7, 0: excused}) == 1
    assert rank_to_blame({2: 1, 0: 1, 1: lost}) == 2
    assert rank_to_blame({0: lost, 1: aborted, 2: killed}) == 2  # by the system, which had no memory left
    assert rank_to_blame({1: lost, 0: lost}) == 1


LEAVE = """
import atexit
from scorl.distributed.ranks import exit_process
class Last:
    def __del__(self, say=print):
        say("shutdown")
last = Last()
atexit.register(print, "at exit,", end=" ")
print("written,", end=" ")
exit_process(75)
"""


@pytest.mark.parametrize(("launched", "output"), [(False, "written, at exit, shutdown"), (True, "written, at exit,")])
def test_a_rank_ends_without_the_interpreters_shutdown(launched, output):
    """A thread of gloo's that asks for an interpreter that shuts down aborts the process."""
    places = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"} if launched else {}
    command = [sys.executable, "-c", LEAVE]
    done = subprocess.run(command, env=ENVIRONMENT | places, capture_output=True, text=True, check=False, timeout=280)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (75, output, "")


def test_the_number_of_processes_is_held_to_the_recipe(tmp_path):
    command = [*TORCHRUN, "-m", "scorl", "train", "countdown", "launcher.workers=3", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode != 0
    assert "launcher.workers: 3 processes were asked for, and 2 started" in done.stderr
    with pytest.raises(UserError, match="2 processes were asked for, and 1 started"), process_group(2, 1.0, "cpu"):
        pass


def test_shares_are_neighbours_and_leave_nothing_out():
    for size in range(1, 5):
        for count in range(9):
            shares = [list(range(count))[Ranks(rank, size).shard(count)] for rank in range(size)]
            assert [item for share in shares for item in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_what_is_waited_for_is_named():
    with pytest.raises(PeerLostError, match="rank 1 of 2 waited for the sum of gradients in vain"):  # noqa: SIM117
        with Ranks(1, 2).collective("the sum of gradients"):
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(RuntimeError, match="shape"), Ranks(1, 2).collective("anything"):
        raise RuntimeError("a wrong shape")


def test_one_process_does_without_torch_distributed():
    code = "import sys; from scorl.distributed.ranks import ALONE as a"
    code += "; a.any(True, ''), a.broadcast(dict, ''), a.all_gather(1, '')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert ALONE.shard(3) == slice(0, 3)
