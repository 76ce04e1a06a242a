"""Untrusted programs, run in a sandbox and judged outside of it; see docs/code.md."""
