"""Faults put into a run of the tiny world: each stops it within a step, in words that name the fault."""

import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from support import worlds
from support.worlds import WORDS, letters, letters_recipe, save_model

from scorl import rollout
from scorl.engines import ScriptedEngine
from scorl.engines.prefix_cache import PrefixCache
from scorl.engines.torch import TorchEngine
from scorl.errors import GuardError, UserError
from scorl.learner import Learner, batch, guards, update
from scorl.learner.agreement import Agreement, AgreementSums
from scorl.learner.motion import check_reached
from scorl.model.chat import Chat
from scorl.model.checksums import checksums
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.objectives import StageOne, StageTwo
from scorl.recipe import resolve
from scorl.run.build import BuiltRecipe
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from scorl.settings import LearnerSettings, LoraSettings, Sampling
from scorl.training.drawn import check_varied
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict, user
from scorl.verifiers import VERIFIERS, program
from scorl.verifiers.order import check_order

STEPS = 30
LORA = LoraSettings(r=2)


def toss_coins(pairs):
    """A reward for every other text, so that there is something to learn from the first step on."""
    coins = [zlib.crc32(text.encode()) % 2 for _, text in pairs]
    return [Verdict(float(coin), "correct" if coin else "incorrect") for coin in coins]


class Run:
    """A run under way, into which faults are put."""

    def __init__(
        self,
        folder,
        engine=TorchEngine,
        lora=None,
        dtype="float32",
        objective=None,
        max_tokens=4,
        judge=toss_coins,
        source=None,
        reset_after=0,
        **settings,
    ):
        self.policy = Policy(save_model(folder), lora=lora, dtype=dtype)
        # The tiny model is nearly uniform, and what it says hardly depends on anything.
        generator = torch.Generator().manual_seed(1)
        for name, parameter in self.policy.model.named_parameters():
            if "lora_" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += 0.1 * noise.to(parameter.dtype)
        self.learner = Learner(self.policy, LearnerSettings(**{"learning_rate": 1e-3, **settings}), total=STEPS)
        self.engine = engine(self.policy)
        stage = Stage(objective or StageTwo(), STEPS, problems=16 if source else 6, samples=8)
        sampling = Sampling(max_tokens=max_tokens)
        task = replace(letters(), judge=judge)
        if source:
            task = replace(task, splits={"train": source, "test": source})
        stages = [stage]
        if reset_after:
            stages = [replace(stage, steps=reset_after), replace(stage, reset_reference=True)]
        self._steps = train(self.policy, task, stages, sampling=sampling, engine=self.engine, learner=self.learner)

    def go(self, count=1):
        """Make some steps."""
        return list(islice(self._steps, count))


@dataclass(frozen=True)
class Prompts:
    """Many different problems: what a step's temperature is told by."""

    def draw(self, count, start, seed):
        pairs = [f"say {one} {other}" for one in WORDS[:4] for other in WORDS[:4]]
        return [Problem(f"pair-{i % 16}", (user(pairs[i % 16]),), "a") for i in range(start, start + count)]


@contextmanager
def stops(naming):
    with pytest.raises(GuardError, match=naming):
        yield


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_run_without_a_fault_goes_on(tmp_path, lora, dtype):
    if dtype == "float16" and not lora:
        pytest.skip("refused by the recipe")
    run = Run(tmp_path, lora=lora, dtype=dtype)
    steps = run.go(6)
    gaps = [step.progress.logprob_gap for step in steps]
    assert max(gaps) < guards.GAP_LIMITS["same"][run.policy.dtype] / 4
    assert not any(step.progress.skipped for step in steps)


def judge_letters(pairs):
    return [Verdict(float(text == "r"), "correct" if text == "r" else "incorrect") for _, text in pairs]


def paid_groups(said, paid):
    """Groups of one attempt each, which say a letter and carry the verdict on another."""
    made = []
    for number, (letter, other) in enumerate(zip(said, paid, strict=True)):
        (verdict,) = judge_letters([(None, other)])
        made.append(
            [Trajectory(Problem(f"p{number}", ()), 0, (Response((1,), (2,), (0.0,), letter, "stop", verdict),))]
        )
    return made


class TestRewards:
    """Coins that are one of scorl's own verifiers, and stand beside other answers."""

    @pytest.mark.parametrize("by", [1, -1, 5])
    def test_of_other_rows(self, tmp_path, monkeypatch, by):
        def judge(pairs):
            verdicts = toss_coins(pairs)
            return verdicts[by % len(verdicts) :] + verdicts[: by % len(verdicts)]

        monkeypatch.setitem(VERIFIERS, "coins", judge)
        with stops("rewards stand beside other answers"):
            Run(tmp_path, judge=judge).go()

    def test_of_a_verifier_that_is_late_or_wavers_once(self, tmp_path, monkeypatch):
        def judge(pairs):
            verdicts = toss_coins(pairs)
            late = [Verdict(0.0, "timeout") if place % 3 else verdict for place, verdict in enumerate(verdicts)]
            return [Verdict(0.5, "correct"), *late[1:]] if len(pairs) > 1 else verdicts

        monkeypatch.setitem(VERIFIERS, "coins", judge)
        Run(tmp_path, judge=judge).go()

    def test_of_a_function_that_ranks_a_batch(self, tmp_path):
        def judge(pairs):
            return [Verdict(place / len(pairs), "correct") for place in range(len(pairs))]

        Run(tmp_path, judge=judge).go()

    def test_of_programs_that_draw_random_numbers(self, monkeypatch):
        groups = paid_groups("rw" * 10, "wr" * 10)
        check_order(program.judge, groups)
        check_order(partial(program.judge, sandbox="auto"), groups)

    @pytest.mark.parametrize("by", [1, -1])
    def test_moved_behind_the_judge(self, tmp_path, monkeypatch, by):
        right = rollout._judge_all

        def moved(trajectory, judged, turns):
            verdicts = [attempt.verdict for attempt in judged.values()]
            verdicts = verdicts[by:] + verdicts[:by]
            other = {key: replace(judged[key], verdict=v) for key, v in zip(judged, verdicts, strict=True)}
            return right(trajectory, other, turns)

        monkeypatch.setattr(rollout, "_judge_all", moved)
        monkeypatch.setitem(VERIFIERS, "coins", toss_coins)
        with stops("rewards stand beside other answers"):
            Run(tmp_path).go()

    @pytest.mark.parametrize("said", ["wwwwwwwr", "wwwwrwwwwwwwwwww", "rwwwwwww"])
    @pytest.mark.parametrize("by", [1, -1, 3])
    def test_of_a_single_right_answer(self, monkeypatch, said, by):
        monkeypatch.setitem(VERIFIERS, "letters", judge_letters)
        check_order(judge_letters, paid_groups(said, said))
        with stops("rewards stand beside other answers.*; at "):
            check_order(judge_letters, paid_groups(said, said[by:] + said[:by]))

    def test_one_verdict_that_is_another_is_no_order(self, monkeypatch):
        monkeypatch.setitem(VERIFIERS, "letters", judge_letters)
        check_order(judge_letters, paid_groups("wwwwwwww", "wwwrwwww"))


def test_a_loss_mask_that_is_shifted(run, monkeypatch):
    right = batch.micro_batch

    def shifted(*given):
        made = right(*given)
        return replace(made, position=made.position - 1)

    monkeypatch.setattr(batch, "micro_batch", shifted)
    with stops("disagree"):
        run.go()


class TestCredits:
    """Micro-batches in which they stand beside others' tokens."""

    @pytest.mark.parametrize(
        ("name", "by", "packing"),
        [
            ("response", 1, "prefix_tree"),
            ("response", -1, "packed"),
            ("advantage", 1, "prefix_tree"),
            ("beta", 1, "padded"),
            ("problem", 1, "prefix_tree"),
        ],
    )
    def test_that_are_shifted(self, tmp_path, monkeypatch, packing, name, by):
        right = batch.micro_batch

        def shifted(*given):
            made = right(*given)
            return replace(made, **{name: getattr(made, name).roll(by)})

        monkeypatch.setattr(batch, "micro_batch", shifted)
        run = Run(tmp_path, packing=packing, objective=StageOne(), tokens_per_microbatch=100)
        with stops(f"credits stand beside other tokens or responses .* in `{name}` at problem letters-"):
            run.go()

    def test_that_lack_a_response(self, run, monkeypatch):
        right = batch.MicroBatch.chunks
        monkeypatch.setattr(batch.MicroBatch, "chunks", lambda made, size: islice(right(made, 1), 90))
        with stops("in the number of responses: 90 of 96"):
            run.go()


class TestSamplers:
    class Warm(TorchEngine):
        factor = 1.1

        def sample(self, requests, *, temperature, max_tokens, keep=False):
            hotter = temperature * self.factor
            return super().sample(requests, temperature=hotter, max_tokens=max_tokens, keep=keep)

    class Tepid(Warm):
        factor = 1.02

    class Behind(TorchEngine):
        """Samples with the weights of the call before, as a server that was not sent the new ones."""

        def sample(self, requests, *, temperature, max_tokens, keep=False):
            now = {name: p.data for name, p in self.policy.parameters.items()}
            self.policy.set_weights(getattr(self, "held", now))
            samples = super().sample(requests, temperature=temperature, max_tokens=max_tokens, keep=keep)
            self.policy.set_weights(now)
            self.held = {name: weights.clone() for name, weights in now.items()}
            return samples

    class Stale(TorchEngine):
        """Keeps the keys and values of its first call, whatever the weights are."""

        def _prefix_caches(self, keep):
            if hasattr(self, "cache"):
                return self.cache, None
            self.cache = PrefixCache(2**30)
            return None, self.cache

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_another_temperature(self, tmp_path, dtype):
        with stops("disagree"):
            Run(tmp_path, self.Warm, lora=LORA if dtype == "float16" else None, dtype=dtype, source=Prompts()).go()

    def test_another_temperature_by_a_little(self, tmp_path):
        with stops(r"disagree by 0\.0\d+"):
            Run(tmp_path, self.Tepid).go()

    def test_the_slope_sees_what_the_mean_gap_does_not(self, tmp_path, monkeypatch):
        monkeypatch.setitem(guards.GAP_LIMITS["same"], torch.bfloat16, 1.0)
        with stops(r"the less likely a token is: by \+\d+\.\d%.*another temperature"):
            Run(tmp_path, self.Warm, dtype="bfloat16", source=Prompts()).go()

    def test_weights_of_the_step_before(self, tmp_path):
        run = Run(tmp_path, self.Behind)
        run.go()
        with stops("stale weights"):
            run.go()

    def test_stale_keys_and_values(self, tmp_path):
        run = Run(tmp_path, self.Stale, max_tokens=1)
        run.go()
        with stops("stale keys and values"):
            run.go()

    def test_a_limit_of_ones_own_takes_the_place_of_all(self, tmp_path):
        Run(tmp_path, self.Warm, max_logprob_gap=0.5).go()
        with stops(r"at most 1e-09 allowed"):
            Run(tmp_path, max_logprob_gap=1e-9).go()

    def test_the_scripted_engine_needs_no_limit(self, tmp_path):
        run = Run(tmp_path, lambda policy: ScriptedEngine(policy.chat, ["a", "b"]))
        assert run.go(2)[1].progress.logprob_gap > 0.1


REWRITING = worlds.TEMPLATE.replace("m.content", "(m.content if m.role == 'user' else m.content.split() | first)")


class TestDraws:
    """Faults of the sampler that its log-probabilities do not show."""

    def test_the_likeliest_token_in_place_of_a_draw(self, tmp_path):
        class Greedy(TorchEngine):
            def sample(self, requests, *, temperature, max_tokens, keep=False):
                return super().sample(requests, temperature=0, max_tokens=max_tokens, keep=keep)

        with stops(r"all samples of each problem are alike, .* has a chance of e\^-\d+"):
            Run(tmp_path, Greedy).go()

    def test_one_seed_for_all(self, tmp_path):
        class OneSeed(TorchEngine):
            def sample(self, requests, **settings):
                return super().sample([replace(request, seed=7) for request in requests], **settings)

        with stops("one seed for all"):
            Run(tmp_path, OneSeed).go()

    def test_samples_that_are_nearly_certain_may_be_alike(self):
        response = Response((1,), (2, 3), (-0.01, -0.02), "a", "stop")
        group = [Trajectory(Problem("p", ()), sample, (response,)) for sample in range(8)]
        check_varied([group] * 8)
        with stops("all samples of each problem are alike"):
            check_varied([group] * 100)  # 100 times 7 samples at e^-0.03: e^-21
        other = replace(group[0], sample=8, responses=(replace(response, ids=(2, 4)),))
        check_varied([group] * 100 + [[*group, other]])

    @pytest.mark.parametrize("by", [1, -1])
    def test_texts_of_other_rows(self, run, monkeypatch, by):
        write = rollout._write

        def shifted(*given, **settings):
            rows = write(*given, **settings)
            texts = [row.responses[-1].text for row in rows]
            texts = texts[by:] + texts[:by]
            return [
                replace(row, responses=(*row.responses[:-1], replace(row.responses[-1], text=text)))
                for row, text in zip(rows, texts, strict=True)
            ]

        monkeypatch.setattr(rollout, "_write", shifted)
        with stops("has a text that is not that of its tokens"):
            run.go()


class TestHistory:
    """A chat template that shows no more of an earlier answer than its first word."""

    @pytest.fixture(autouse=True)
    def template(self, monkeypatch):
        monkeypatch.setattr(worlds, "TEMPLATE", REWRITING)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_that_is_rendered_anew(self, tmp_path, monkeypatch, dtype):
        def follow(self, prompt_ids, sample_ids, message, turn=1):
            said = {"role": "assistant", "content": self.text(sample_ids) or "a"}
            return self.prompt([user(self.text(prompt_ids)), said, user(message)])

        monkeypatch.setattr(Chat, "follow", follow)
        with stops(r"the history was rewritten: problem letters-\w, sample \d, t2, is asked behind other tokens"):
            Run(tmp_path, dtype=dtype).go()

    def test_that_is_appended_to_is_what_the_model_wrote(self, run):
        (step,) = run.go()
        assert max(len(example.trajectory.responses[0].ids) for example in step.examples) > 2
        assert step.progress.logprob_gap < 1e-5
        assert any("chat template continues with" in sentence for sentence in run.policy.chat.differences())


class OddRow(TorchEngine):
    """Writes an odd log-probability into the sixth sample of the first problem, at its second attempt."""

    odd = 0.0

    def sample(self, requests, *, temperature, max_tokens, keep=False):
        samples = super().sample(requests, temperature=temperature, max_tokens=max_tokens, keep=keep)
        if not keep:
            self.right = samples[5].logprobs
            samples[5] = replace(samples[5], logprobs=(*self.right[:-1], self.right[-1] + self.odd))
        return samples


ODD_ROW = r"problem letters-a, sample 5, t2\."


class TestOddNumbers:
    """A number of one token that is none, in a row of 48."""

    @pytest.mark.parametrize("packing", ["prefix_tree", "padded"])
    @pytest.mark.parametrize("odd", [float("nan"), float("-inf")])
    def test_of_the_sampler(self, tmp_path, odd, packing):
        run = Run(tmp_path, OddRow, packing=packing)
        run.go()
        run.engine.odd = odd
        with stops(f"log-probability is not finite: the sampler's is {odd} in {ODD_ROW}"):
            run.go()

    @pytest.mark.parametrize("packing", ["prefix_tree", "padded"])
    @pytest.mark.parametrize("odd", [float("nan"), float("inf")])
    def test_of_the_learner(self, tmp_path, monkeypatch, odd, packing):
        run = Run(tmp_path, OddRow, packing=packing, tokens_per_microbatch=100, max_tokens=8)
        run.go()
        right = update.logprobs_and_kl

        def spoil(head, reference, chunk, *given):
            """The last token of the row that was sampled so."""
            logprobs, kl = right(head, reference, chunk, *given)
            row = torch.tensor(run.engine.right)
            found = chunk.sampled.unfold(0, len(row), 1).eq(row).all(1) if len(row) <= len(logprobs) else row < row
            wrong = torch.zeros_like(logprobs).index_fill(0, found.nonzero()[:, 0] + len(row) - 1, odd)
            return logprobs + wrong, kl

        monkeypatch.setattr(update, "logprobs_and_kl", spoil)
        before = [weights.detach().clone() for weights in run.policy.parameters.values()]
        with stops(f"the policy's is {odd} in {ODD_ROW}"):
            run.go()
        assert all(map(torch.equal, before, run.policy.parameters.values()))

    def test_of_what_is_imitated(self, run, monkeypatch):
        (step,) = run.go()
        examples = [TrainingExample(e.trajectory, (Credit(imitation=1.0),) * 2) for e in step.examples]
        right = update.logprobs_and_kl

        def spoil(*given):
            logprobs, kl = right(*given)
            return logprobs + torch.zeros_like(logprobs).index_fill(0, torch.tensor([0]), float("-inf")), kl

        monkeypatch.setattr(update, "logprobs_and_kl", spoil)
        with stops("the policy's is -inf in problem letters-"):
            run.learner.update(examples)

    @pytest.mark.parametrize("name", ["advantage", "beta", "imitation"])
    def test_of_a_credit(self, run, name):
        (step,) = run.go()
        examples = list(step.examples)
        first, second = examples[5].credits
        examples[5] = replace(examples[5], credits=(first, replace(second, **{name: float("nan")})))
        with stops(rf"a credit is not finite: Credit\(.*{name}=nan.*of {ODD_ROW}"):
            run.learner.update(examples)

    def test_of_one_tokens_kl(self, run, monkeypatch):
        run.go()
        right = update.logprobs_and_kl

        def spoil(*given):
            logprobs, kl = right(*given)
            return logprobs, kl + torch.zeros_like(kl).index_fill(0, torch.tensor([len(kl) - 1]), float("nan"))

        monkeypatch.setattr(update, "logprobs_and_kl", spoil)
        with stops(r"the KL to the reference is not finite: it is nan in problem letters-\w, sample \d+, t2"):
            run.go()

    @pytest.mark.parametrize("odd", [float("nan"), float("inf")])
    def test_of_a_row_of_the_reference(self, run, odd):
        run.go()
        next(iter(run.learner.reference.head.parameters())).data[3] = odd
        with stops("reference's weights have changed"):
            run.go()

    def test_of_a_row_of_a_gradient_is_skipped_and_says_whose(self, run):
        run.go()
        weight = run.policy.decoder.model.layers[0].mlp.up_proj.weight
        row = torch.zeros_like(weight).index_fill(0, torch.tensor([0]), float("nan"))
        weight.register_hook(lambda gradient: gradient + row)
        (step,) = run.go()
        assert step.line()["odd_gradients"] == ["model.layers.0.mlp.up_proj.weight"]
        with stops(r"twice in a row; the gradients of model\.layers\.0\.mlp\.up_proj\.weight$"):
            run.go()

    def test_of_the_reference_before_any_update(self):
        with stops("KL to the reference is nan before any update"):
            guards.check_at_reference({0: 0.0, 1: float("nan")})

    def test_a_mean_that_is_no_number(self):
        with stops("disagree by nan"):
            guards.check_agreement(
                Agreement({0: AgreementSums(tokens=2, gap=float("nan"))}), "same", torch.float32, None
            )


def problem(policys, samplers):
    """What is summed up of the samples of a problem."""
    return AgreementSums.of(torch.tensor([policys, samplers]))


def test_the_tilt_by_hand():
    """d = x / 10 in two problems and x / 5 in the third: the slope is 2/15, and 3/20, 3/20, 1/10 without each."""
    tenth, fifth = problem([-1.05, -3.15], [-0.95, -2.85]), problem([-1.1, -3.3], [-0.9, -2.7])
    slope, chance = Agreement({0: tenth, 1: tenth, 2: fifth}).tilt
    assert slope == pytest.approx(2 / 15)
    # Away by 1/60, 1/60 and 2/60: the jackknife's error is the root of 2/3 of their squares, t has two degrees.
    error = (2 / 3 * 6 / 60**2) ** 0.5
    t = slope / error
    assert chance == pytest.approx(1 - t / (2 + t * t) ** 0.5, rel=1e-4)


def test_no_single_problem_makes_the_tilt_sure():
    certain, coin = problem([-0.01] * 99, [-0.01] * 99), problem([-1.0, -1.0], [-0.7, -0.7])
    slope, chance = Agreement({**dict.fromkeys(range(20), certain), 20: coin}).tilt
    assert abs(slope) > 0.3
    assert chance > 0.1
    guards.check_agreement(Agreement({0: coin, 1: certain}), "same", torch.bfloat16, None)
    assert Agreement({0: coin}).tilt[1] == Agreement().tilt[1] == 1.0


@pytest.mark.parametrize("uncertain", [2, 3, 6])
def test_a_few_uncertain_problems_among_certain_ones_are_few(uncertain):
    """The certain ones say nothing about a slope; two that happen to agree are two, not twenty-four."""
    noise = torch.Generator().manual_seed(0)
    certain = problem([-0.01] * 8, [-0.01] * 8)
    for _ in range(300):
        problems = dict.fromkeys(range(24), certain)
        for i in range(uncertain):
            x, d = -0.7 + 0.05 * torch.randn(1, generator=noise), 0.05 * torch.randn(1, generator=noise)
            problems[i] = AgreementSums.of(torch.stack([x + d / 2, x - d / 2]).repeat(1, 8))
        guards.check_agreement(Agreement(problems), "same", torch.bfloat16, None)
    alike = {0: problem([-0.70] * 8, [-0.80] * 8), 1: problem([-0.71] * 8, [-0.80] * 8)}
    guards.check_agreement(Agreement({**dict.fromkeys(range(24), certain), **alike}), "same", torch.bfloat16, None)


def test_samples_of_a_problem_that_round_alike_are_one():
    """A policy near certainty draws few tokens, and each a hundred times: no evidence of a temperature."""
    noise = torch.Generator().manual_seed(0)
    for _ in range(300):
        problems = {}
        for i in range(12):
            x, d = -0.7 + 0.1 * torch.rand(2, generator=noise), 0.1 * torch.randn(2, generator=noise)
            problems[i] = AgreementSums.of(torch.stack([x + d / 2, x - d / 2]).repeat(1, 100))
        guards.check_agreement(Agreement(problems), "same", torch.bfloat16, None)


class TestReferences:
    """Those that move do so after the first step; the next notices."""

    def test_another_model_from_the_start(self, run):
        for parameter in run.learner.reference.head.parameters():
            parameter.data *= 1.1
        run.learner.reference.seal()
        with stops("before any update and should be 0"):
            run.go()

    def test_a_copy_that_follows(self, run):
        run.go()
        for mine, theirs in zip(run.learner.reference.head.parameters(), run.policy.model.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 1e-3)
        with stops("reference's weights have changed"):
            run.go()

    def test_the_policy_in_the_place_of_the_copy(self, run):
        run.learner.reference._copy = run.policy.model
        with stops("reference's weights have changed"):
            run.go()

    def test_the_policy_in_the_place_of_the_copy_from_the_start(self, run):
        run.learner.reference._copy = run.policy.model
        run.learner.reference._weights = lambda: iter(())
        run.learner.reference.seal()
        run.go()
        with stops("exactly 0.*moves along"):
            run.go()

    def test_frozen_weights_below_adapters(self, tmp_path):
        run = Run(tmp_path, lora=LORA)
        run.go()
        next(p for p in run.policy.model.parameters() if not p.requires_grad).data[0, 0] += 1e-6
        with stops("reference's weights have changed"):
            run.go()

    def test_adapters_that_are_not_switched_off(self, tmp_path, monkeypatch):
        run = Run(tmp_path, lora=LORA)

        @contextmanager
        def active(self):
            yield self._policy.decoder

        monkeypatch.setattr(Reference, "active", active)
        run.go()
        with stops("exactly 0.*moves along"):
            run.go()

    @pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
    def test_the_policy_in_half_precision_is_seen_after_some_updates(self, tmp_path, monkeypatch, lora):
        @contextmanager
        def active(self):
            yield self._policy.decoder

        assert guards.TOGETHER_IN_HALF == 20
        monkeypatch.setattr(guards, "TOGETHER_IN_HALF", 4)
        monkeypatch.setattr(Reference, "active", active)
        run = Run(tmp_path, lora=lora, dtype="bfloat16")
        if not lora:
            run.learner.reference._copy, run.learner.reference._weights = run.policy.model, lambda: iter(())
            run.learner.reference.seal()
        run.go(2)
        state = run.learner.state()
        assert state["together"] == 2
        run.learner._together = 0
        run.learner.load_state({**state, "reference": None})
        run.go(2)
        with stops("exactly 0 behind 4 .*moves along"):
            run.go()

    def test_a_kept_copy_of_adapters(self, tmp_path):
        run = Run(tmp_path, lora=LORA)
        run.learner.reset_reference()
        run.go()
        next(iter(run.learner.reference._adapters.values())).mul_(1.0001)
        with stops("reference's weights have changed"):
            run.go()

    @pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
    def test_one_that_is_set_may_be_another(self, tmp_path, lora):
        run = Run(tmp_path, lora=lora, reset_after=2)
        run.go(3)
        assert run.learner.reference_from == 2
        state = run.learner.state()
        run.learner.load_state(state)
        run.go(2)

    def test_one_that_is_set_anew_in_every_step(self, run):
        run.go()
        run.learner.reset_reference()
        with stops("reference was set anew before step 1, within stage"):
            run.go()

    def test_checksums_see_any_bit(self):
        for dtype in (torch.float32, torch.bfloat16):
            weights = torch.randn(7, 5).to(dtype)
            before = checksums([weights, weights[1:]])
            assert torch.equal(before, checksums([weights.clone(), weights[1:].clone()]))
            for place in (0, 17, 34):
                bits = weights.view(torch.int32 if dtype == torch.float32 else torch.int16).view(-1)
                bits[place] ^= 1
                assert bool((checksums([weights]) != before[:1]).all())
                bits[place] ^= 1


def cut_off_layers(run):
    """Let the loss reach the head alone."""
    hidden_states = run.learner.strategy.hidden_states

    def detached(decoder, layout):
        return hidden_states(decoder, layout).detach()

    object.__setattr__(run.learner.strategy, "hidden_states", detached)


class TestLosses:
    def test_adapters_scaled_by_zero_are_refused(self):
        with pytest.raises(UserError, match=r"model.lora.lora_alpha: should be at least 1, not 0"):
            resolve("countdown", ["model.lora={lora_alpha: 0}"])

    def test_adapters_scaled_by_zero(self, tmp_path):
        with stops("does not reach the trainable weights"):
            Run(tmp_path, lora=LoraSettings(r=2, lora_alpha=0)).go()

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_gradients_that_become_zero_later(self, tmp_path, dtype):
        run = Run(tmp_path, lora=LORA, dtype=dtype)
        run.go(2)
        for parameter in run.policy.parameters.values():
            parameter.register_hook(lambda gradient: gradient * 0)
        run.go()  # credits of equal responses may cancel in one step
        with stops("does not reach the trainable weights"):
            run.go()

    def test_layers_that_are_cut_off(self, run):
        cut_off_layers(run)
        run.policy.decoder.lm_head.weight.requires_grad_(False)
        run.learner.reset_optimizer()
        with stops("does not reach the trainable weights"):
            run.go()

    @pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
    def test_a_layer_that_is_cut_off(self, tmp_path, lora):
        run = Run(tmp_path, lora=lora)
        for parameter in run.policy.decoder.model.layers[0].parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient: gradient * 0)
        with stops(r"does not reach 1 of the layers that are trained, .*model\.layers\.0 first"):
            run.go()

    def test_all_layers_where_the_head_learns(self, run):
        cut_off_layers(run)
        with stops(r"does not reach 2 of the layers that are trained, model\.layers\.0 first"):
            run.go()

    def test_a_stack_that_reads_what_nobody_shows_is_no_fault(self):
        trained = ["text.layers.0.a", "text.layers.0.experts.1.a", "text.layers.1.a", "vision.layers.0.a", "head.a"]
        check_reached(trained, ["text.layers.0.a", "text.layers.1.a", "head.a"])
        with stops(r"1 of the layers that are trained, text\.layers\.1 first"):
            check_reached(trained, ["text.layers.0.a", "head.a"])

    @pytest.mark.parametrize("settings", [{}, {"kl": "k2", "kl_in": "both"}, {"importance_sampling_cap": 2.0}], ids=str)
    @pytest.mark.parametrize(
        "change",
        [
            lambda batch, logprobs: logprobs.index_fill(0, batch.length.cumsum(0) - 1, 0.0),
            lambda batch, logprobs: logprobs.roll(1),
        ],
        ids=["left out", "exchanged"],
    )
    @pytest.mark.parametrize("steps", [0, 2])
    def test_tokens_that_the_loss_leaves_out_or_exchanges(self, tmp_path, monkeypatch, settings, change, steps):
        run, right = Run(tmp_path, **settings), update.loss
        run.go(steps)
        monkeypatch.setattr(update, "loss", lambda batch, said, *args: right(batch, change(batch, said), *args))
        with stops(r"at \d+ tokens the loss does not fall by their credits"):
            run.go()

    def test_credits_of_equal_responses_that_cancel_are_no_fault(self, tmp_path):
        run = Run(tmp_path)
        example = run.go()[0].examples[0]
        raised, lowered = (
            replace(
                example, credits=tuple(replace(c, advantage=sign * 0.5, beta=np.float64(0)) for c in example.credits)
            )
            for sign in (1, -1)
        )
        policy = Policy(save_model(tmp_path / "other"))
        learner = Learner(
            policy, LearnerSettings(max_logprob_gap=9.0, packing="padded", tokens_per_microbatch=1), total=9
        )
        learner.update([raised])
        assert learner.motion.proven
        assert learner.update([raised, lowered]).grad_norm == 0

    def test_nothing_to_learn_is_no_fault(self, tmp_path):
        run = Run(tmp_path)
        (step,) = run.go()
        nothing = [replace(e, credits=tuple(replace(c, advantage=0.0) for c in e.credits)) for e in step.examples]
        learner = Learner(Policy(save_model(tmp_path / "other")), LearnerSettings(max_logprob_gap=9.0), total=9)
        learner.update(nothing)

    @pytest.mark.parametrize("objective", [StageOne(), StageTwo()], ids=["stage one", "stage two"])
    def test_a_flipped_sign(self, tmp_path, monkeypatch, objective):
        run = Run(tmp_path, objective=objective)
        right = update.loss
        monkeypatch.setattr(update, "loss", lambda *args: -right(*args))
        with stops("unlearn what is credited"):
            run.go()

    def test_the_flipped_advantage_alone(self, run, monkeypatch):
        right = update.loss

        def flipped(batch, *args):
            return right(replace(batch, advantage=-batch.advantage), *args)

        monkeypatch.setattr(update, "loss", flipped)
        with stops("unlearn what is credited"):
            run.go()

    def test_gradients_that_are_never_zeroed(self, run):
        run.learner.optimizer.zero_grad = lambda set_to_none: None
        run.go()
        with stops("gradients are left from before"):
            run.go()


def leave_one_out(run):
    """Let the optimiser leave one tensor as it was from now on."""
    kept = run.policy.decoder.model.layers[1].mlp.up_proj.weight
    step = run.learner.optimizer.step

    def step_without_it():
        before = kept.data.clone()
        step()
        kept.data.copy_(before)

    run.learner.optimizer.step = step_without_it


class TestOptimizers:
    def test_half_of_the_weights(self, run):
        run.go()
        group = run.learner.optimizer.param_groups[0]
        group["params"] = group["params"][::2]
        with stops(r"optimiser holds 10 tensors.*20 trainable.*10 are missing, model\.layers"):
            run.go()

    def test_other_weights(self, run):
        run.go()
        head = run.policy.decoder
        head.model.norm.weight = torch.nn.Parameter(head.model.norm.weight.detach().clone())
        with stops(r"1 are missing, model\.norm\.weight first"):
            run.go()

    def test_a_step_that_leaves_some_out(self, run):
        leave_one_out(run)
        with stops(r"1 of the trainable tensors, model\.layers\.1\.mlp\.up_proj\.weight first, did not change"):
            run.go()

    def test_one_that_maximises(self, run):
        run.learner.optimizer.param_groups[0]["maximize"] = True
        with stops("does the optimiser maximise"):
            run.go()

    @pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
    def test_one_that_stops_working(self, tmp_path, lora):
        run = Run(tmp_path, lora=lora)
        run.go(2)
        run.learner.optimizer.step = lambda: None
        with stops(r"1 of 1 trainable tensors that were looked at, .*, did not change in"):
            run.go(2)  # adapters' first halves have no gradient in the first update, hence no moments

    def test_one_that_does_not_work_in_a_resumed_run(self, tmp_path, run):
        run.go(2)
        resumed = Run(tmp_path)
        resumed.learner.load_state(run.learner.state())
        resumed.learner.optimizer.step = lambda: None
        with stops(r"20 of 20 trainable tensors that were looked at"):
            resumed.go()

    def test_one_that_leaves_a_tensor_out_later(self, run):
        run.go()
        leave_one_out(run)
        with stops(r"tensors that were looked at, model\.layers\.1\.mlp\.up_proj\.weight first, did not change"):
            run.go(20)

    def test_one_that_steps_twice(self, run):
        run.go()
        step = run.learner.optimizer.step
        run.learner.optimizer.step = lambda: (step(), step())
        with stops("changed by other steps than Adam's moments and the learning rate say"):
            run.go()

    @pytest.mark.parametrize("betas", [(0.0, 0.0), (0.9, 0.9999999)])
    def test_odd_moments_are_no_fault(self, tmp_path, betas):
        Run(tmp_path, adam_beta1=betas[0], adam_beta2=betas[1], weight_decay=0.5).go(20)

    def test_another_learning_rate_than_is_said(self, run):
        run.go()
        step, group = run.learner.optimizer.step, run.learner.optimizer.param_groups[0]

        def step_further():
            said = group["lr"]
            group["lr"] = 10 * said
            step()
            group["lr"] = said

        run.learner.optimizer.step = step_further
        with stops("changed by other steps"):
            run.go()

    def test_weights_that_are_put_back(self, run):
        run.go(2)
        step, parameters = run.learner.optimizer.step, run.policy.parameters.values()

        def step_and_back():
            before = [p.detach().clone() for p in parameters]
            step()
            for p, was in zip(parameters, before, strict=True):
                p.data.copy_(was)

        run.learner.optimizer.step = step_and_back
        with stops("did not change"):
            run.go()

    @pytest.mark.parametrize("optim", ["adam", "adamw"])
    def test_small_steps_behind_large_ones_are_no_fault(self, tmp_path, optim):
        """Moments that remember gradients a million times as large call for steps that round away."""
        run = Run(tmp_path, optim=optim, weight_decay=0.1)
        run.go()
        for kept in run.learner.optimizer.state.values():
            kept["exp_avg_sq"].mul_(1e12)
        run.go(20)

    def test_steps_that_round_away_next_to_large_weights_are_no_fault(self, tmp_path):
        run = Run(tmp_path, learning_rate=1e-8)  # weights of 1 cannot take it
        norm = run.policy.decoder.model.norm.weight
        norm.data.fill_(1.0)
        run.learner.reset_reference()
        before = norm.data.clone()
        run.go()
        assert torch.equal(before, norm.data)


class TestSkips:
    @staticmethod
    def overflow_at(monkeypatch, *updates):
        """Make the loss infinite in some updates."""
        right, number = Learner.accumulate_gradients, iter(range(STEPS))

        def accumulate(self, examples):
            statistics = right(self, examples)
            return replace(statistics, loss=float("inf")) if next(number) in updates else statistics

        monkeypatch.setattr(Learner, "accumulate_gradients", accumulate)

    def test_two_in_a_row(self, run, monkeypatch):
        self.overflow_at(monkeypatch, 3, 4)
        assert [step.progress.skipped for step in run.go(4)] == [False, False, False, True]
        with stops("not finite twice in a row"):
            run.go()

    def test_three_in_twenty_also_over_a_resume(self, tmp_path, run, monkeypatch):
        self.overflow_at(monkeypatch, 2, 10, 21)
        run.go(12)
        resumed = Run(tmp_path)
        resumed.learner.load_state(run.learner.state())
        resumed.go(9)
        with stops("not finite in 3 of the last 20 updates"):
            resumed.go()

    def test_three_in_more_than_twenty_pass(self, run, monkeypatch):
        self.overflow_at(monkeypatch, 2, 10, 22)
        assert sum(step.progress.skipped for step in run.go(STEPS)) == 3

    def test_each_is_said(self, tmp_path, monkeypatch):
        model = save_model(tmp_path / "model")
        stage = Stage(StageOne(), 4, problems=3, samples=4)
        policy = Policy(model)
        built = BuiltRecipe(letters_recipe(model, (stage,), 3), policy, TorchEngine(policy), letters())
        self.overflow_at(monkeypatch, 2)
        result = run_recipe(built, RunDirectory(tmp_path / "run"))
        alarms = [line["alarms"] for line in RunDirectory(tmp_path / "run").steps()]
        assert [len(of_step) for of_step in alarms] == [0, 0, 1, 0]
        assert alarms[2][0]["kind"] == "skipped"
        assert "1 of the last 3 updates were skipped" in alarms[2][0]["statistic"]
        assert result.alarms[0].startswith("skipped in 1 steps from 2 to 2")
