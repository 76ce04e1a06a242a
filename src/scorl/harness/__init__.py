"""Self-correction as a task of other people's harnesses, and our engines as models of theirs."""
