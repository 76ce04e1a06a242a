"""A vLLM server that is none: it answers as vLLM's does, with a policy of its own, and notes what it was asked."""

import json
import threading
from itertools import pairwise
from pathlib import Path

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from scorl.engines import Request
from scorl.engines.torch import TorchEngine
from scorl.engines.vllm import launch
from scorl.engines.vllm.check import policy_logprobs


class Pretended:
    """Answers as vLLM's server does.

    Args:
        policy: its own.
        lost: names of weights that do not arrive.
        calls: where it notes the routes that it is asked by.
    """

    def __init__(self, policy, lost=(), calls=None):
        self.policy, self.lost, self.calls = policy, lost, [] if calls is None else calls
        self.engine, self.lock, self.adapters, self.bodies = TorchEngine(policy), threading.Lock(), {}, []

    def post(self, path, body=None):
        with self.lock:
            self.calls.append(path)
            self.bodies.append(body)
            return json.loads(json.dumps(self.answer(path, json.loads(json.dumps(body)))))

    def get(self, path):
        return {"/get_world_size": {"world_size": 2}}[path]

    def answer(self, path, body):
        if path == "/update_weights":
            self.receive(load_file(body["update_info"]["path"]))
        if path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = load_file(Path(body["lora_path"], "adapter_model.safetensors"))
        if path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
        return self.generate(**body) if path == "/inference/v1/generate" else None

    def receive(self, weights):
        assert weights.keys() == dict(self.policy.model.named_parameters()).keys()
        for name, parameter in self.policy.model.named_parameters():
            if name not in self.lost:
                parameter.data = weights[name]

    def generate(self, token_ids, sampling_params, model=None):
        if model is not None:
            set_peft_model_state_dict(self.policy.model, self.adapters[model])
        if self.policy.lora and model is None:
            with self.policy.model.disable_adapter():
                return self.write(token_ids, sampling_params)
        return self.write(token_ids, sampling_params)

    def write(self, token_ids, p):
        assert set(p.get("stop_token_ids", ())) <= self.policy.chat.end_ids
        (sample,) = self.engine.sample(
            [Request(tuple(token_ids), p.get("seed", 0))], temperature=p["temperature"], max_tokens=p["max_tokens"]
        )
        prompt = None
        if "prompt_logprobs" in p:
            scored = policy_logprobs(self.policy, token_ids).tolist()
            prompt = [None, *({t: {"logprob": scored[i][t]}} for i, t in enumerate(token_ids[1:]))]
        content = [{"token_id": t, "logprob": x} for t, x in zip(sample.ids, sample.logprobs, strict=True)]
        choice = {"token_ids": sample.ids, "finish_reason": sample.finish, "logprobs": {"content": content}}
        return {"prompt_logprobs": prompt, "choices": [choice]}


def record_servers(monkeypatch, folder):
    """The servers that would be started from now on: the options of each, and its environment.

    Args:
        monkeypatch: pytest's.
        folder: in place of shared memory.
    """
    servers = []

    def record(command, folder, timeout, variables):
        servers.append(({name: value for name, value in pairwise(command) if name.startswith("--")}, variables))

    monkeypatch.setattr(launch, "Server", record)
    monkeypatch.setattr(launch, "SHARED_MEMORY", str(folder))
    return servers
