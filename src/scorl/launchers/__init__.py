"""Launchers: the same command, started on many processes."""
