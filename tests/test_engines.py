"""The engines: the contract, and what is the embedded engine's own."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from support.engine_contract import Engine, SamplesAPolicy, requests, shaken, spoken
from support.worlds import tiny_policy

from scorl.distributed.ranks import ALONE
from scorl.engines import ENGINES, Request, ScriptedEngine
from scorl.engines.kv_cache import CachedRows
from scorl.engines.pieces import ShownText
from scorl.engines.prefix_cache import PrefixCache
from scorl.engines.sampling import sample_tokens
from scorl.engines.shared_prefix import SharedPrefix, concatenate_prefixes
from scorl.engines.torch import TorchEngine
from scorl.settings import LoraSettings, ModelSettings, TorchSettings


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return shaken(tiny_policy(tmp_path_factory.mktemp("model")))


class TestScripted(Engine):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, policy):
        return ScriptedEngine(policy.chat, ["a", "b c", "d e f"])


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", ["auto", "torch", "scripted"])
def test_an_engine_is_built_by_name_for_a_policy_or_for_a_model(policy, tmp_path, name, trained):
    (tmp_path / "answers.jsonl").write_text('{"prompt_contains": "", "response": "a"}\n')
    kind = ENGINES[name]
    settings = kind.settings(str(tmp_path / "answers.jsonl")) if name == "scripted" else kind.settings(batch_size=3)
    kind.check(settings)
    engine = kind.build(settings, ModelSettings(policy.path), policy if trained else None, ALONE)
    assert (engine.chat is policy.chat) == trained
    assert engine.chat.end_ids == policy.chat.end_ids
    assert len(engine.sample(requests(policy, 4), temperature=1.0, max_tokens=2)) == 4


class TestTorch(SamplesAPolicy):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, policy):
        return TorchEngine(policy)


def test_a_large_vocabulary_is_drawn_from_as_a_small_one():
    torch.manual_seed(0)
    logits = 4 * torch.randn(64, 5001)
    logits[:, ::3] = -torch.inf
    logprobs = torch.log_softmax(logits, -1)
    uniform = torch.rand(64, dtype=torch.float64)
    uniform[:2] = torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64)
    drawn = sample_tokens(logprobs, uniform, 1.0)
    exact = logprobs.double().exp().cumsum(-1)
    below = (exact - logprobs.double().exp()).gather(1, drawn[:, None])[:, 0]
    assert ((below - 1e-6 <= uniform) & (uniform <= exact.gather(1, drawn[:, None])[:, 0] + 1e-6)).all()
    assert logprobs.gather(1, drawn[:, None]).isfinite().all()
    assert drawn[7:8].equal(sample_tokens(logprobs[7:8], uniform[7:8], 1.0))


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_nothing(policy, batch_size):
    asked = requests(policy, 12)
    whole = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=8)
    assert [s.ids for s in TorchEngine(policy, batch_size).sample(asked, temperature=1.0, max_tokens=8)] == [
        s.ids for s in whole
    ]


@contextmanager
def counted(policy):
    """How many tokens the model computes, padding included."""
    seen = []
    hook = policy.decoder.get_input_embeddings().register_forward_hook(lambda _, ids, out: seen.append(ids[0].numel()))
    yield seen
    hook.remove()


def test_turns_of_several_lengths_stay_with_their_rows(policy):
    engine = TorchEngine(policy)
    asked = requests(policy, 24)
    first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
    said = (" again", " again a b c e f")
    second = [spoken(policy, [r], [s], said[len(s.ids) < 5])[0] for r, s in zip(asked, first, strict=True)]
    ours = engine.sample(second, temperature=1.0, max_tokens=9)
    plain = TorchEngine(policy).sample(second, temperature=1.0, max_tokens=9)
    assert [s.ids for s in ours] == [s.ids for s in plain]
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize("batch_size", [256, 5])
def test_a_second_turn_computes_only_what_is_new(policy, batch_size):
    engine = TorchEngine(policy, batch_size)
    asked = requests(policy, 24)
    first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
    assert len({len(s.ids) for s in first}) > 2  # rows ended at different times
    second = spoken(policy, asked, first)
    with counted(policy) as seen:
        kept = engine.sample(second, temperature=1.0, max_tokens=9, keep=True)
    third = spoken(policy, second, kept)
    once_more = engine.sample(third, temperature=1.0, max_tokens=9)
    with counted(policy) as all_of_it:
        plain = TorchEngine(policy).sample(second, temperature=1.0, max_tokens=9)
    assert [s.ids for s in kept] == [s.ids for s in plain]
    for ours, theirs in zip(kept, plain, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert [s.ids for s in once_more] == [
        s.ids for s in TorchEngine(policy).sample(third, temperature=1.0, max_tokens=9)
    ]
    new = len({r.prompt_ids for r in second}) * 3  # the last token drawn, and two that were said
    drawn = sum(len(s.ids) - 1 for s in kept)
    assert sum(seen) == new + drawn
    assert sum(all_of_it) > 2 * sum(seen)


def test_what_is_kept_is_forgotten_with_the_weights(policy, tmp_path):
    fresh = tiny_policy(tmp_path, seed=1)
    asked = requests(fresh, 12)
    engine = TorchEngine(fresh)
    first = engine.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    with torch.no_grad():
        next(iter(fresh.parameters.values()))[3] += 0.5
    second = spoken(fresh, asked, first)
    assert engine.sample(second, temperature=1.0, max_tokens=6) == TorchEngine(fresh).sample(
        second, temperature=1.0, max_tokens=6
    )


def test_what_does_not_fit_is_computed_again(policy):
    asked = requests(policy, 12)
    roomy, tight = TorchEngine(policy), TorchEngine(policy, prefix_cache_bytes=40_000)
    first = roomy.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    assert tight.sample(asked, temperature=1.0, max_tokens=6, keep=True) == first
    second = spoken(policy, asked, first)
    answers = []
    for engine in (roomy, tight):
        with counted(policy) as seen:
            answers.append([s.ids for s in engine.sample(second, temperature=1.0, max_tokens=6)])
        answers.append(sum(seen))
    assert answers[0] == answers[2]
    assert answers[1] < answers[3]


def test_rows_without_room_are_not_copied(policy, monkeypatch):
    copied, select = [], CachedRows.select
    monkeypatch.setattr(CachedRows, "select", lambda rows, *more: copied.append(more) or select(rows, *more))
    for limit, copies in ((1 << 30, True), (0, False)):
        copied.clear()
        engine = ENGINES["torch"].build(
            TorchSettings(prefix_cache_bytes=limit), ModelSettings(policy.path), policy, ALONE
        )
        engine.sample(requests(policy, 12), temperature=1.0, max_tokens=6, keep=True)
        assert bool(copied) == copies


def storages_of(thing, seen):
    """The bytes of every storage that is reached from a thing, by its address; `seen` is what was looked at."""
    if id(thing) in seen:
        return {}
    seen[id(thing)] = thing  # itself, so that no other gets its id
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()} if storage.nbytes() else {}
    parts = [*thing.values()] if isinstance(thing, dict) else thing if isinstance(thing, list | tuple | set) else []
    parts = [*parts, *getattr(thing, "__dict__", {}).values()]
    return {address: size for part in parts for address, size in storages_of(part, seen).items()}


@pytest.mark.parametrize("batch_size", [16, 256])
@pytest.mark.parametrize("limit", [1 << 20, 1 << 30])
def test_all_that_a_turn_leaves_stays_within_the_limit(policy, batch_size, limit):
    prompts = [(*(4 + (i + k) % 9 for k in range(95 + i % 4)), 4 + i // 9) for i in range(24)]
    asked = [Request(prompts[i // 8], seed=i) for i in range(24 * 8)]
    engine = TorchEngine(policy, batch_size, prefix_cache_bytes=limit)
    samples = engine.sample(asked, temperature=1.0, max_tokens=20, keep=True)
    held = sum(storages_of(engine._prefixes, {}).values())
    assert 0.9 * min(limit, 1 << 20) < held == engine._prefixes.held <= limit
    if (batch_size, limit) == (256, 1 << 30):  # all prompts are computed at once, and kept once
        column = 2 * 2 * 32 * 4  # keys and values, layers, width, bytes
        own = sum(len(s.ids) - 1 for s in samples) * (column + 8) + len(samples) * 3 * 8
        assert held == 24 * 99 * (column + 1) + own
    second = spoken(policy, asked, samples)[::5]
    again = TorchEngine(policy).sample(second, temperature=1.0, max_tokens=3)
    assert [s.ids for s in engine.sample(second, temperature=1.0, max_tokens=3)] == [s.ids for s in again]


def test_several_go_on_from_one_response_and_other_prompts_beside_them(policy):
    asked = requests(policy, 3)
    engine = TorchEngine(policy)
    first = engine.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    branches = [Request(r.prompt_ids, seed) for r in spoken(policy, asked, first) for seed in range(4)]
    new = [Request(tuple(policy.chat.prompt([{"role": "user", "content": "say e f"}])), 7)]
    mixed = [*branches[:6], *new, *branches[6:]]
    plain = TorchEngine(policy).sample(mixed, temperature=1.0, max_tokens=6)
    assert [s.ids for s in engine.sample(mixed, temperature=1.0, max_tokens=6)] == [s.ids for s in plain]


@pytest.mark.parametrize("batch_size", [256, 7])
def test_samples_share_a_prompt_as_if_each_had_its_own(policy, monkeypatch, batch_size):
    asked = [Request(r.prompt_ids, r.seed + k) for r in requests(policy, 3) for k in range(0, 1000, 100)]
    turns = []
    for least in (1, 10**9):  # tokens of a prompt that is shared
        monkeypatch.setattr("scorl.engines.torch.SHARED_TOKENS", least)
        engine = TorchEngine(policy, batch_size)
        first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
        second = spoken(policy, asked, first)
        turns.append([*first, *engine.sample(second, temperature=1.0, max_tokens=9)])
    assert [s.ids for s in turns[0]] == [s.ids for s in turns[1]]
    for shared, own in zip(*turns, strict=True):
        assert shared.logprobs == pytest.approx(own.logprobs, abs=1e-5)


def test_rows_find_their_prompts_and_lose_those_of_others():
    prefix = SharedPrefix([], torch.ones(3, 2, dtype=torch.bool), torch.tensor([2, 0, 2, 1, 2]))
    rows = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 3, 4)
    prompts = prefix.group_by_prompt(rows)
    assert prompts[2, 0, ::3, 0].tolist() == [0, 2, 4]
    assert prefix.ungroup(prompts, rows).equal(rows)
    keys = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 4)
    some = SharedPrefix([(keys, keys)], prefix.mask, prefix.prompt).select(torch.tensor([0, 3]))
    both = concatenate_prefixes([(some, 2), (None, 1)])
    assert both.layers[0][0][:, 0, 0, 0].tolist() == [1, 2, 0]
    assert both.prompt.tolist() == [1, 0, 2]
    assert both.row_mask.sum(1).tolist() == [2, 2, 0]


def test_a_model_with_a_window_says_that_it_keeps_nothing(policy, monkeypatch):
    monkeypatch.setattr(policy.decoder.config, "sliding_window", 64, raising=False)
    engine = TorchEngine(policy)
    with pytest.warns(UserWarning, match="sliding window"):
        first = engine.sample(requests(policy, 4), temperature=1.0, max_tokens=6, keep=True)
    second = spoken(policy, requests(policy, 4), first)
    with counted(policy) as seen:
        engine.sample(second, temperature=1.0, max_tokens=1)
    assert sum(seen) >= sum(len(p) for p in {r.prompt_ids for r in second})


def test_a_model_whose_samples_copy_their_prompt_says_so(policy, monkeypatch):
    asked = requests(policy, 6)
    shared = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=6)
    monkeypatch.setattr(policy.decoder.config, "_attn_implementation", "eager")
    with pytest.warns(UserWarning, match="attends by 'eager'"):
        copied = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=6)
    assert [s.ids for s in copied] == [s.ids for s in shared]


def test_no_ended_row_is_computed(policy):
    asked = requests(policy, 30)
    with counted(policy) as seen:
        samples = TorchEngine(policy, batch_size=8).sample(asked, temperature=1.0, max_tokens=9)
    prompts = sum(seen) - sum(len(s.ids) - 1 for s in samples)
    assert 0 < prompts <= 30 * max(len(r.prompt_ids) for r in asked)
    assert [s.ids for s in samples] == [s.ids for s in TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=9)]


def test_the_longest_kept_beginning_is_found():
    cache = PrefixCache(limit=1 << 20)
    none = torch.zeros(5, dtype=torch.long)
    rows = CachedRows(torch.ones(5, 1), none, none, SimpleNamespace(layers=[]))
    tokens = [(1,), (1, 2), (1, 2, 9), (1, 3, 5, 7), (2, 2)]
    cache.add(rows, range(5), tokens)
    cache.finish()
    found = {p: cache.find(p) for p in [(1, 2, 3, 4), (1, 2), (1, 3, 5, 6), (2, 2, 2), (3,), (1, 3, 5, 7, 1), (0, 1)]}
    assert {p: f and tokens[f[2]] for p, f in found.items()} == {
        (1, 2, 3, 4): (1, 2),
        (1, 2): (1,),
        (1, 3, 5, 6): (1,),
        (2, 2, 2): (2, 2),
        (3,): None,
        (1, 3, 5, 7, 1): (1, 3, 5, 7),
        (0, 1): None,
    }


def test_adapters_switched_off_are_other_weights(tmp_path):
    policy = tiny_policy(tmp_path, lora=LoraSettings(r=2))
    on = policy.fingerprint()
    with policy.model.disable_adapter():
        assert policy.fingerprint() != on
    assert policy.fingerprint() == on


class Spelled:
    """A chat whose tokens are bytes, and that stops at a text."""

    def __init__(self, *stop_strings):
        self.stop_strings = stop_strings

    def text(self, ids):
        text = bytes(ids).decode(errors="replace")
        return min((text.split(stop)[0] for stop in self.stop_strings), key=len, default=text)


@pytest.mark.parametrize(
    ("text", "stops", "pieces"),
    [
        ("né€", (), ["n", "é", "€"]),
        ("ab\nUser: more", ("\nUser:",), ["a", "b"]),
        ("a\nb", ("\nUser:",), ["a", "\nb"]),
        (b"a\xff", (), ["a", "\ufffd"]),
        (b"\xe2b", (), ["\ufffdb"]),
        ("\x1b[2J", (), ["\x1b", "[", "2", "J"]),
    ],
)
def test_text_is_shown_as_soon_as_it_is_certain(text, stops, pieces):
    ids = list(text if isinstance(text, bytes) else text.encode())
    found = []
    shown = ShownText(Spelled(*stops), found.append)
    for n in range(1, len(ids) + 1):
        shown.grow(ids[:n])
    shown.grow(ids, ended=True)
    assert found == pieces
