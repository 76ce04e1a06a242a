"""Plain values as YAML that reads back as the same: by YAML 1.2, as recipes are read, and by 1.1, as by most tools."""

from __future__ import annotations

import re
from typing import Any

import yaml

from scorl.text_files import make_visible

__all__ = ["PLAIN", "to_yaml"]

PLAIN = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
"""What is no text where it stands without quotes, in YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Puts texts into quotes that are values of either version: `no` and `1:30` of 1.1, `1e-5` and `08` of 1.2.

    What no terminal should be sent is written as an escape (`\\u202E`), and reads back as the same.
    """

    def analyze_scalar(self, scalar: str) -> Any:
        """How a text may be written, which is asked before it is."""
        self.allow_unicode = make_visible(scalar) == scalar
        return super().analyze_scalar(scalar)


for _name, _pattern in PLAIN.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)


def to_yaml(values: Any) -> str:
    """Plain values as YAML, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
