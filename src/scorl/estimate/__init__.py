"""Estimates: memory and time of a recipe on a device, before it is run there.

device      what data sheets say of GPUs, and what this machine is measured to reach
model       a policy of hollow tensors, by a published configuration
workload    a step's texts: the real rollout, answered by random tokens of given lengths
meter       counts operations, bytes and live memory of what runs on hollow tensors
trace       the real learner and the real decode step, under the meter
served      vLLM's share of the device and its decoding
plan        what a device has to hold, how long a step takes, and what would make it fit
measured    real steps, where this machine is the device
"""

__all__: list[str] = []
