"""Planning: memory, time and cost of a recipe on given devices, before anything is run.

    shape, tokens     how large the model is, and what a step has it do
    work, seconds     operations and bytes, and how long they take at a device's rates
    memory, advice    what a device must hold, and which setting makes fit what does not
    estimate, table   the plan, and how it reads
    texts, prepare    from a recipe to all this; `probe` measures the CPU

All but `texts`, `prepare` and `probe` is arithmetic, and needs neither torch nor a model.
"""

__all__: list[str] = []
