"""A sandbox for programs that nobody trusts, and an examination whose tests stay on the trusted side; docs/code.md."""
