"""The recipe of a run of seconds on the shipped model, to which a test appends its own sections."""

TINY = """
model: {path: "scorl:countdown-base"}
task: {name: countdown}
engine: {max_tokens: 2}
stages: [{objective: reinforce, steps: 2, problems: 2, samples: 2}]
evaluation: {problems: 2}
"""
