"""Damage to a run's files: the newest whole checkpoint is taken, what is wrong is said, and nothing good is lost."""

import json
import os
import pickle
import re
import shutil
import signal
import threading
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.worlds import letters, letters_recipe, save_model
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from scorl.cli import main
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.model.manifest import MANIFEST, dump_manifest, find_damage, read_manifest
from scorl.model.policy import Policy
from scorl.objectives import Reinforce
from scorl.recipe import decide, differences, resolve
from scorl.run import checkpoint
from scorl.run.build import BuiltRecipe, hash_weights, versions
from scorl.run.directory import RunDirectory
from scorl.run.history import cut_evaluations
from scorl.run.resumable import check_resumable
from scorl.run.run import run_recipe
from scorl.settings import CheckpointSettings, EvaluationSettings, LearnerSettings
from scorl.training.stage import Stage

STATE = "trainer/shard-00001-model-00001-of-00001.safetensors"


def built(model: str) -> BuiltRecipe:
    """Six steps, saved every second one."""
    recipe = replace(
        letters_recipe(model, (Stage(Reinforce(), 6, problems=2, samples=4),), max_tokens=2),
        learner=LearnerSettings(learning_rate=1e-2),
        evaluation=EvaluationSettings(eval_steps=3, problems=3),
        checkpoint=CheckpointSettings(save_steps=2, save_total_limit=9, state_total_limit=9),
    )
    policy = Policy(model)
    return BuiltRecipe(decide(recipe, policy.device, vllm=False), policy, TorchEngine(policy), letters())


def content(run: Path) -> dict[str, object]:
    """All that a run wrote, but for its clock."""
    lines = [json.loads(line) | {"seconds": None} for line in (run / "steps.jsonl").read_text().splitlines()]
    files = [run / "evaluation.json", *sorted((run / "attempts").iterdir())]
    tensors = load_file(run / "checkpoints" / "step-6" / STATE)
    return {
        "steps": lines,
        **{file.name: file.read_bytes() for file in files},
        **{name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def straight(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run_recipe(built(model), RunDirectory(folder))
    return folder


@pytest.fixture
def killed(straight, tmp_path):
    """The run as a kill after step 5 left it; its newest checkpoint is step-4."""
    run = tmp_path / "run"
    shutil.copytree(straight, run, symlinks=True)
    shutil.rmtree(run / "checkpoints" / "step-6")
    return run


def resume(run: Path, model: str) -> list[str]:
    """What was said while it resumed."""
    said: list[str] = []
    assert run_recipe(built(model), RunDirectory(run), notify=said.append).steps == 6
    return said


def flip(file: Path, place: float) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def replace_text(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_weights(file: Path, change) -> None:
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file)


def write_manifest(folder: Path, checksum: bool = False, **changed) -> None:
    """Change a manifest, as a bit of it does where its checksum stays, or as another version does."""
    manifest = json.loads((folder / MANIFEST).read_text()) | changed
    if not checksum:
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return
    manifest.pop("sha256")
    (folder / MANIFEST).write_text(dump_manifest(manifest))


def forget_checksums(run: Path) -> None:
    """Have manifests as versions before wrote them."""
    for path in run.glob(f"checkpoints/step-*/{MANIFEST}"):
        manifest = json.loads(path.read_text())
        del manifest["sha256"]
        path.write_text(json.dumps(manifest))


def plant_pickle(folder: Path) -> None:
    """Put a pickle that runs code where versions before kept one."""

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(folder.parent.parent / "planted"),)

    (folder / "trainer" / ".metadata").write_bytes(pickle.dumps(Planted()))
    (folder / "trainer" / "state.pt").write_bytes(pickle.dumps(Planted()))


DAMAGE = {
    "a bit of the state": (lambda f: flip(f / STATE, 0.7), "has changed"),
    "a bit of the state's header": (lambda f: flip(f / STATE, 0.001), "has changed"),
    "a bit of the numbers": (lambda f: flip(f / "trainer" / "state.json", 0.5), "has changed"),
    "a state cut in half": (lambda f: cut(f / STATE), "bytes, and had"),
    "an empty state": (lambda f: (f / STATE).write_bytes(b""), "has 0 bytes"),
    "no state": (lambda f: (f / STATE).unlink(), "is missing"),
    "a state of NaN": (lambda f: change_weights(f / STATE, lambda w: w * torch.nan), "bytes, and had"),
    "a bit of the weights": (lambda f: flip(f / "model.safetensors", 0.5), "has changed"),
    "weights cut in half": (lambda f: cut(f / "model.safetensors"), "bytes, and had"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "is missing"),
    "a manifest without an end": (
        lambda f: ((f / MANIFEST).unlink(), (f / MANIFEST).symlink_to("/dev/zero")),
        "manifest.json is no file",
    ),
    "an empty manifest": (lambda f: (f / MANIFEST).write_bytes(b""), "cannot be read"),
    "a manifest of garbage": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe{"), "cannot be read"),
    "a manifest that is a list": (lambda f: (f / MANIFEST).write_text("[]"), "cannot be read"),
    "a manifest without sizes": (
        lambda f: (f / MANIFEST).write_text('{"format": 2, "files": {"config.json": 3}}'),
        "cannot be read",
    ),
    "a format that a bit makes newer": (lambda f: write_manifest(f, format=3), "has changed"),
    "a reward that a bit makes higher": (lambda f: write_manifest(f, training_reward=9.0), "has changed"),
    "a size in the manifest": (lambda f: write_manifest(f, files={}), "has changed"),
    "a reward that is a text": (lambda f: write_manifest(f, checksum=True, training_reward="high"), "cannot be read"),
    "a reward that is no number": (lambda f: write_manifest(f, True, training_reward=float("nan")), "cannot be read"),
    "a stray state": (
        lambda f: shutil.copy(f.with_name("step-2") / STATE, f / "trainer" / "aaa.safetensors"),
        "trainer/aaa.safetensors is none of its files",
    ),
    "a stray state of garbage": (lambda f: (f / "trainer" / "z.safetensors").write_bytes(b"x" * 99), "is none of its"),
    "stray weights": (lambda f: (f / "model-00002.safetensors").write_bytes(b""), "is none of its files"),
    "stray adapters": (lambda f: (f / "adapter_config.json").write_text("{}"), "is none of its files"),
    "nothing in the folder": (lambda f: (shutil.rmtree(f), f.mkdir()), "is missing"),
    "a file for a folder": (lambda f: (shutil.rmtree(f), f.write_text("")), "is missing"),
}


def test_a_run_that_was_copied_with_its_links_resolved_goes_on(straight, killed, model, tmp_path):
    shutil.copytree(killed, tmp_path / "copied", symlinks=False)
    best = tmp_path / "copied" / "checkpoints" / "best"
    assert best.is_dir()
    assert not best.is_symlink()
    assert resume(tmp_path / "copied", model) == []
    assert content(tmp_path / "copied") == content(straight)
    assert best.readlink() == (straight / "checkpoints" / "best").readlink()


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_newest_whole_checkpoint_is_taken_and_the_damage_is_named(straight, killed, model, kind):
    damage, sign = DAMAGE[kind]
    damage(killed / "checkpoints" / "step-4")
    (said,) = resume(killed, model)
    assert "step-4 is damaged" in said
    assert sign in said
    assert said.endswith("The run resumes from step-2")
    assert (killed / "checkpoints" / "step-4.damaged").exists()
    assert find_damage(killed / "checkpoints" / "step-4") is None  # written again
    assert content(killed) == content(straight)
    assert os.readlink(killed / "checkpoints" / "best") == os.readlink(straight / "checkpoints" / "best")


def test_a_checkpoint_under_the_name_of_another_one_is_damaged(straight, killed, model):
    folder = killed / "checkpoints"
    (folder / "step-4").rename(folder / "step-5")
    (said,) = resume(killed, model)
    assert "step-5 is damaged, and now called step-5.damaged: its state is after 4 updates" in said
    assert content(killed) == content(straight)


def test_damage_to_an_older_best_checkpoint_is_said(straight, killed, model):
    folder = killed / "checkpoints"
    cut(folder / "step-2" / "model.safetensors")
    (folder / "best").unlink()
    (folder / "best").symlink_to("step-2")
    (said,) = resume(killed, model)
    assert "best leads to step-2, which is damaged: model.safetensors has" in said
    assert content(killed) == content(straight)


def test_what_nobody_reads_in_a_checkpoint_is_no_damage(straight, killed, model):
    for name in ("notes.txt", "README.md", "results.json", "trainer/mine.txt", "model.gguf"):
        (killed / "checkpoints" / "step-4" / name).write_text("mine")
    assert resume(killed, model) == []
    assert content(killed) == content(straight)


def test_a_checkpoint_with_stray_weights_is_no_model(killed):
    folder = killed / "checkpoints" / "step-4"
    (folder / "model-00002.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged: model-00002\.safetensors is none of its files"):
        Policy(str(folder))


def test_nothing_of_a_run_is_unpickled(straight, killed, model):
    plant_pickle(killed / "checkpoints" / "step-4")
    assert resume(killed, model) == []
    assert not (killed / "planted").exists()
    assert content(killed) == content(straight)


def test_without_a_whole_checkpoint_the_run_stays_as_it_is(killed, model):
    for step in (2, 4):
        cut(killed / "checkpoints" / f"step-{step}" / STATE)
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="cannot resume from any of its checkpoints") as caught:
        run_recipe(built(model), RunDirectory(killed))
    assert "step-2: trainer/shard" in str(caught.value)
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before


def test_a_stop_between_two_checkpoints_leaves_their_rewards_as_they_are(straight, model, tmp_path):
    def stop(record):
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run = RunDirectory(tmp_path / "run")
    assert run_recipe(built(model), run, on_step=stop).steps == 3
    assert resume(run.path, model) == []
    rewards = [read_manifest(RunDirectory(path).checkpoint(4))["training_reward"] for path in (run.path, straight)]
    assert rewards[0] == rewards[1]


def test_manifests_without_a_checksum_are_those_of_versions_before(straight, killed, model):
    forget_checksums(killed)
    assert resume(killed, model) == []
    assert content(killed) == content(straight)


def test_an_older_checkpoint_whose_reward_is_a_text_is_not_the_best(straight, killed, model):
    forget_checksums(killed)
    write_manifest(killed / "checkpoints" / "step-2", training_reward="high")
    (told,) = resume(killed, model)
    assert "best leads to step-2, which is damaged" in told
    assert content(killed) == content(straight)
    assert os.readlink(killed / "checkpoints" / "best") in ("step-4", "step-6")


def fewer_states(model: str, limit: int = 2, **settings) -> BuiltRecipe:
    other = built(model)
    checkpoint = replace(other.recipe.checkpoint, state_total_limit=limit, **settings)
    return replace(other, recipe=replace(other.recipe, checkpoint=checkpoint))


def test_the_newest_two_keep_their_state_and_the_others_stay_models(straight, model, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    run_recipe(fewer_states(model), RunDirectory(tmp_path / "run"))
    assert content(tmp_path / "run") == content(straight)
    assert [(folder / f"step-{step}" / STATE).exists() for step in (2, 4, 6)] == [False, True, True]
    assert [path.name for path in (folder / "step-2" / "trainer").iterdir()] == ["manifest.json"]
    assert find_damage(folder / "step-2") is None
    assert Policy(str(folder / "step-2")).parameters
    shutil.rmtree(folder / "step-6")
    flip(folder / "step-4" / STATE, 0.5)
    with pytest.raises(UserError, match=r"(?s)step-4: trainer.*has changed.*step-2: is whole as a model"):
        run_recipe(fewer_states(model), RunDirectory(tmp_path / "run"))
    assert (folder / "step-4").exists()


def test_a_state_that_a_kill_left_half_deleted_is_deleted_when_the_run_resumes(straight, killed, model, monkeypatch):
    folder = killed / "checkpoints"
    kept = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **how: 1 / 0 if path.parent.name == "trainer" else kept(path, **how)
    )
    with pytest.raises(ZeroDivisionError):
        run_recipe(fewer_states(model, 1), RunDirectory(killed))
    assert (folder / "step-2" / STATE).exists()
    assert find_damage(folder / "step-2") is None
    monkeypatch.undo()
    run_recipe(fewer_states(model, 1), RunDirectory(killed))
    assert content(killed) == content(straight)
    assert not (folder / "step-2" / STATE).exists()


def test_the_folder_may_be_smaller_than_the_state(straight, model, tmp_path):
    run_recipe(fewer_states(model, save_dtype="bfloat16"), RunDirectory(tmp_path / "run"))
    assert content(tmp_path / "run") == content(straight)
    mine, theirs = (run / "checkpoints" / "step-6" for run in (tmp_path / "run", straight))
    assert json.loads((mine / "config.json").read_text())["dtype"] == "bfloat16"
    saved, exact = (load_file(folder / "model.safetensors") for folder in (mine, theirs))
    assert all(torch.equal(saved[name], weight.bfloat16()) for name, weight in exact.items())


def test_a_newer_format_is_refused_with_both_versions(killed, model):
    path = killed / "checkpoints" / "step-4" / MANIFEST
    write_manifest(path.parent.parent, checksum=True, format=99, scorl="7.1", extra=1)
    with pytest.raises(UserError, match=r"format 99 of checkpoints, written by scorl 7\.1; scorl .* up to format 2"):
        run_recipe(built(model), RunDirectory(killed))
    assert path.exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: (run / "evaluation.json").write_text("[]"), r"evaluation\.json holds no evaluations"),
        (lambda run: (run / "evaluation.json").write_text('{"test": 1}'), r"evaluation\.json holds no evaluations"),
        (
            lambda run: (run / "evaluation.json").write_text(
                '{"test": {"step": 1, "metrics": {}, "history": [{"step": 1}]}}'
            ),
            r"evaluation\.json holds no evaluations",
        ),
        (lambda run: (run / "evaluation.json").write_text("{"), r"evaluation\.json is no JSON.*: move it away"),
        (lambda run: (run / "evaluation.json").write_text(""), r"evaluation\.json is no JSON.*: move it away"),
        (lambda run: (run / "steps.jsonl").write_text('{"step": 0}\n'), r"steps\.jsonl, line 1 says no `stage`"),
        (
            lambda run: replace_text(run / "steps.jsonl", '"truncated"', '"uruncated"'),
            r"steps\.jsonl, line 1 is none of a step: it has `reward_t1` and no `truncated`\. Delete that line",
        ),
        (
            lambda run: (run / "steps.jsonl").write_bytes(b'{"step": "\xff"}\n'),
            r"steps\.jsonl, line 1 is no JSON.* Delete that line: the run resumes without it",
        ),
        (lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").touch()), "is a file"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(killed, model, damage, sentence):
    damage(killed)
    with pytest.raises(UserError, match=sentence):
        run_recipe(built(model), RunDirectory(killed))


GONE = {
    "all": lambda folder: shutil.rmtree(folder),
    "step-*": lambda folder: [shutil.rmtree(step) for step in folder.glob("step-*")],
    "a link to a disk that is not mounted": lambda folder: (shutil.rmtree(folder), folder.symlink_to("/gone")),
}


@pytest.mark.parametrize("lost", GONE)
def test_a_run_whose_checkpoints_are_gone_stays_as_it_is(straight, model, tmp_path, lost):
    run = Path(shutil.copytree(straight, tmp_path / "run", symlinks=True))
    GONE[lost](run / "checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"run/checkpoints.*(another run with --out|mount it)"):
        run_recipe(built(model), RunDirectory(run))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lost", GONE)
def test_gone_checkpoints_are_said_before_anything_is_read(straight, tmp_path, capsys, lost):
    run = Path(shutil.copytree(straight, tmp_path / "run", symlinks=True))
    GONE[lost](run / "checkpoints")
    with pytest.raises(SystemExit) as caught:
        main(["train", str(run), "--resume", "--dry-run"])
    assert caught.value.code == 2
    assert "run/checkpoints" in capsys.readouterr().err


def lines(run: Path, count: int) -> None:
    """Leave so many steps, and the evaluations up to them."""
    text = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(text[:count]))
    evaluations = cut_evaluations(json.loads((run / "evaluation.json").read_text()), count)
    (run / "evaluation.json").write_text(json.dumps(evaluations))


@pytest.mark.parametrize(
    ("later", "made", "gone"), [(False, 2, False), (False, 3, True), (True, 4, False), (True, 5, True)]
)
def test_a_run_that_may_have_saved_no_checkpoint_yet_begins_anew(straight, model, tmp_path, later, made, gone):
    run = RunDirectory(Path(shutil.copytree(straight, tmp_path / "run", symlinks=True)))
    shutil.rmtree(run.checkpoints)
    lines(run.path, made)
    recipe = fewer_states(model, async_save=later).recipe
    with pytest.raises(UserError, match=f"has {made} steps") if gone else nullcontext():
        check_resumable(run, recipe)


@pytest.mark.parametrize("ended", [False, True])
def test_a_finished_run_of_one_checkpoint_written_meanwhile_is_known_by_its_report(straight, model, tmp_path, ended):
    run = RunDirectory(Path(shutil.copytree(straight, tmp_path / "run", symlinks=True)))
    shutil.rmtree(run.checkpoints)
    if ended:
        run.write_report("")
    recipe = fewer_states(model, async_save=True, save_steps=9).recipe
    with pytest.raises(UserError, match="an evaluation after 6 steps") if ended else nullcontext():
        check_resumable(run, recipe)
    (run.checkpoints / ".step-6.draft").mkdir(parents=True)  # and the report is `scorl report`'s
    check_resumable(run, recipe)


def test_lost_steps_are_said(killed, model):
    (killed / "steps.jsonl").unlink()
    (said,) = resume(killed, model)
    assert said.endswith("steps.jsonl: lacks the lines of 4 steps, the first of them 0")


def test_repeated_steps_and_lost_attempts_are_said(killed, model):
    text = (killed / "steps.jsonl").read_text().splitlines(keepends=True)
    (killed / "steps.jsonl").write_text("".join([*text[:2], *text[1:]]))
    (killed / "attempts" / "step-000002.jsonl").unlink()
    steps, attempts = resume(killed, model)
    assert steps.endswith("steps.jsonl: has the lines of 1 steps more than once, the first of them 1")
    assert attempts.endswith("attempts: lacks the attempts of 1 steps, the first of them 2")


def test_attempts_that_a_limit_deleted_are_not_missed(killed, model):
    (killed / "attempts" / "step-000000.jsonl").unlink()
    assert resume(killed, model) == []


@pytest.mark.parametrize("folder", ["attempts", "held-out"])
def test_torn_attempts_are_said_by_file_and_line(killed, capsys, folder):
    file = killed / folder / "step-000000.jsonl"
    text = file.read_text()
    file.write_text(text[:-20])
    for command, code in ((["show", str(killed / folder), "--step", "0"], 2), (["report", str(killed)], 0)):
        with pytest.raises(SystemExit) as caught, warnings.catch_warnings(record=True) as warned:
            main(command)
        assert caught.value.code == code
        said = str(warned[-1].message) if warned else capsys.readouterr().err
        assert f"{folder}/step-000000.jsonl, line {text.count(chr(10))} is no JSON" in said


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "evaluations moved away"])
@pytest.mark.parametrize("name", ["torch", "weights", "inner weights", "problems"])
def test_another_version_is_said(killed, model, name, damaged):
    if damaged:  # as its message advises
        (killed / "evaluation.json").rename(killed / "damaged.json")
    recipe, _, noted = (killed / "recipe.yaml").read_text().partition("versions:")
    changed = re.sub(f"  {name}: .*", f"  {name}: another", noted)
    (killed / "recipe.yaml").write_text(f"{recipe}versions:{changed}")
    said, *lost = resume(killed, model)
    assert said.startswith(f"the run was started with {name} another, and resumes with")
    assert [sentence.partition(": ")[2] for sentence in lost] == [
        "lacks the evaluations after 0, 3 steps; later ones are added"
    ] * damaged


@pytest.mark.parametrize("noted", ["", "versions: [torch]\n", "versions: abc\n"])
def test_lost_versions_are_said(killed, model, noted):
    recipe = (killed / "recipe.yaml").read_text().partition("versions:")[0]
    (killed / "recipe.yaml").write_text(recipe + noted)
    (said,) = resume(killed, model)
    assert "recipe.yaml: its `versions` are lost" in said


def test_weights_and_problems_that_change_have_other_hashes(model, tmp_path):
    other = Path(shutil.copytree(model, tmp_path / "other"))
    assert hash_weights(str(other)) == hash_weights(model)
    flip(other / "model.safetensors", 0.9)
    assert hash_weights(str(other)) != hash_weights(model)
    assert hash_weights(str(other), inner=True) != hash_weights(model, inner=True)
    one = built(model)
    two = replace(one, task=replace(letters(), splits={"train": Reversed(), "test": Reversed()}))
    assert [name for name, was in versions(one).items() if versions(two)[name] != was] == ["problems"]


@pytest.mark.parametrize("place", [0, 2**28 - 2**20, 2**28, 2**28 + 2**20, 2**29 - 2**20])
def test_a_tensor_that_changes_anywhere_in_weights_changes_a_hash(tmp_path, place):
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "model.safetensors"
    with file.open("wb") as handle:
        handle.truncate(2**29)  # takes no place on the disk
    before = {inner: hash_weights(str(tmp_path), inner) for inner in (False, True)}
    with file.open("r+b") as handle:
        handle.seek(place)
        handle.write(bytes([1]) * 2**21)
    assert {inner: hash_weights(str(tmp_path), inner) for inner in (False, True)} != before
    assert hash_weights(str(tmp_path), inner=True) != before[True]


def test_a_run_that_has_noted_less_of_its_weights_resumes_without_a_word(killed, model):
    recipe = (killed / "recipe.yaml").read_text()
    noted = re.sub("  inner weights: .*\n", "", recipe)
    assert noted != recipe
    (killed / "recipe.yaml").write_text(noted)
    assert resume(killed, model) == []


class Reversed:
    """The letters, the last first."""

    def draw(self, count, start, seed):
        return letters().split("train").draw(count, start, seed)[::-1]

    def take(self, limit):
        return letters().split("test").take(limit)[::-1]


def test_another_device_is_said_with_what_stays(killed, model):
    recipe, _, noted = (killed / "recipe.yaml").read_text().partition("versions:")
    (killed / "recipe.yaml").write_text(f"{recipe}versions:{noted.replace('device: cpu', 'device: NVIDIA H100')}")
    (said,) = resume(killed, model)
    stays = "still in float32 and with the engine torch"
    assert said.startswith(f"the run was started with device NVIDIA H100, and resumes with cpu, {stays}")


def test_other_peoples_files_are_left_alone_and_drafts_are_not(straight, killed, model):
    (killed / "attempts" / "step-000001 (copy).jsonl").write_text("")
    for draft in (".99.draft.evaluation.json", "attempts/.99.draft.step-000004.jsonl", "checkpoints/.99.draft.best"):
        (killed / draft).write_text("half")
    resume(killed, model)
    assert not list(killed.rglob(".*.draft*"))
    (killed / "attempts" / "step-000001 (copy).jsonl").unlink()
    assert content(killed) == content(straight)


def test_a_damaged_checkpoint_never_takes_the_place_of_another_one(killed, model):
    folder = killed / "checkpoints"
    for name in ("step-4.damaged", "step-4.damaged.2"):
        (folder / name).mkdir()
        (folder / name / "mine").touch()
    flip(folder / "step-4" / STATE, 0.5)
    (said,) = resume(killed, model)
    assert "now called step-4.damaged.3" in said
    assert (folder / "step-4.damaged" / "mine").exists()
    assert (folder / "step-4.damaged.2" / "mine").exists()


def test_a_recipe_that_was_changed_by_hand_is_refused_as_another_one_is(killed, model, capsys):
    replace_text(killed / "recipe.yaml", "learning_rate: 0.01", "learning_rate: 0.1")
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    said = r"(?s)recipe.yaml has changed since step-4 was saved.*learner.learning_rate: 0.01 against 0.1"
    with pytest.raises(UserError, match=said):
        run_recipe(built(model), RunDirectory(killed))
    with pytest.raises(SystemExit) as caught:
        main(["train", str(killed), "--resume", "--dry-run"])
    assert caught.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "free", ["checkpoint.save_total_limit=1", "launcher.timeout=9", "model.chat_template_kwargs={api_key: sk-new}"]
)
def test_what_computes_nothing_otherwise_may_change(free):
    before = resolve("countdown", ["model.chat_template_kwargs={api_key: sk-old}"] * ("sk" in free))
    assert differences(before, resolve("countdown", [free])) == []


def test_a_recipe_in_other_words_is_the_same(straight, killed, model):
    replace_text(killed / "recipe.yaml", "learning_rate: 0.01", "learning_rate: 1e-2  # mine")
    assert resume(killed, model) == []
    assert content(killed) == content(straight)


def test_checkpoints_that_note_no_recipe_still_resume(straight, killed, model):
    for path in killed.glob(f"checkpoints/step-*/{MANIFEST}"):
        manifest = json.loads(path.read_text())
        del manifest["recipe"], manifest["sha256"]
        path.write_text(dump_manifest(manifest))
    assert resume(killed, model) == []
    assert content(killed) == content(straight)


@pytest.mark.parametrize(("file", "said"), [("model.safetensors", "has changed (SHA-256)"), (MANIFEST, "")])
def test_a_damaged_checkpoint_is_no_model(killed, capsys, file, said):
    flip(killed / "checkpoints" / "step-4" / file, 0.5)
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(killed), "--task", "countdown", "--limit", "1"])
    assert caught.value.code == 2
    assert f"this checkpoint is damaged: {file} {said}" in capsys.readouterr().err


@pytest.mark.parametrize("later", [False, True], ids=["at once", "async"])
def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(model, tmp_path, monkeypatch, later):
    """A power cut loses what was not synced, so the order of syncing and renaming is what counts."""
    synced: list[str] = []
    kept = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (synced.append(os.readlink(f"/proc/self/fd/{d}")), kept[0](d))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (synced.append(f"{a} -> {b}"), kept[1](a, b))[1])
    run_recipe(fewer_states(model, async_save=later), RunDirectory(tmp_path / "run"))
    draft, folder = (tmp_path / "run" / "checkpoints" / name for name in (".step-2.draft", "step-2"))
    published = synced.index(f"{draft} -> {folder}")
    before, after = synced[:published], synced[published:]
    files = [path.relative_to(folder) for path in folder.rglob("*")]
    assert {str(draft / file) for file in files} | {str(draft)} <= set(before)
    for name in (
        "steps.jsonl",
        "attempts/step-000000.jsonl",
        "attempts/step-000001.jsonl",
        "attempts",
        "held-out/step-000000.jsonl",
        "held-out",
    ):
        assert str(tmp_path / "run" / name) in before
    assert str(folder.parent) in after


class TestWrittenMeanwhile:
    """Checkpoints that a thread writes while the run goes on."""

    @pytest.fixture
    def slow(self, monkeypatch):
        """A disk that takes until the event; at most some seconds."""
        done = threading.Event()
        kept = checkpoint.sync_tree
        monkeypatch.setattr(checkpoint, "sync_tree", lambda folder: (done.wait(5), kept(folder)))
        return done

    def test_they_hold_what_was_when_they_were_begun(self, straight, model, tmp_path, slow):
        steps = []

        def on_step(record):
            steps.append(record["step"])
            saved = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*")}
            if record["step"] == 2:  # one behind that which is saved
                assert saved == {".step-2.draft"}
                slow.set()

        run_recipe(fewer_states(model, limit=9, async_save=True), RunDirectory(tmp_path / "run"), on_step=on_step)
        assert steps == list(range(6))
        assert content(tmp_path / "run") == content(straight)
        for step in (2, 4, 6):
            folders = [run / "checkpoints" / f"step-{step}" for run in (tmp_path / "run", straight)]
            mine, theirs = (load_file(folder / STATE) for folder in folders)
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
            assert find_damage(folders[0]) is None

    def test_a_stop_waits_for_them(self, model, tmp_path, slow):
        def on_step(record):
            if record["step"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Timer(1.0, slow.set).start()
        result = run_recipe(fewer_states(model, async_save=True), RunDirectory(tmp_path / "run"), on_step=on_step)
        assert (result.interrupted, result.steps) == (True, 2)
        assert find_damage(tmp_path / "run" / "checkpoints" / "step-2") is None

    @pytest.mark.parametrize("place", [(checkpoint, "sync_tree"), (HuggingFaceStorageWriter, "write_data")])
    def test_a_full_disk_ends_the_run_and_leaves_a_draft(self, straight, model, tmp_path, monkeypatch, place):
        def full(*arguments):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(*place, full)
            with pytest.raises(OSError, match="No space left"):
                run_recipe(fewer_states(model, async_save=True), RunDirectory(tmp_path / "run"))
        assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {".step-2.draft"}
        run_recipe(fewer_states(model, async_save=True), RunDirectory(tmp_path / "run"))
        assert content(tmp_path / "run") == content(straight)
