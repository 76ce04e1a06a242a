r"""Mathematics as people type it, as LaTeX: `10 - 2√5`, `x²`, `½`, `pi/2`, `x**2`, `3 x 10^8`, `negative 3`.

What is LaTeX already stays as it is. Only what means one thing is rewritten: `x` is a sign of multiplication between a
number and a power of ten, and nowhere else.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["write_latex"]

SIGNS = {
    "−": "-", "–": "-", "‐": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "∗": "*",
    "÷": "/", "∕": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "ℝ": r"\mathbb{R}", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ",
    "φ": r"\phi ", "ω": r"\omega ", "∠": r"\angle ", "¬": r"\neg ", "…": "...",
    "’": "'", "′": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
CHARACTERS = str.maketrans({**WIDE, **SIGNS})
RAISED = {unicodedata.normalize("NFKD", letter).replace("−", "-"): letter for letter in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ"}
LOWERED = {unicodedata.normalize("NFKD", letter): letter for letter in "₀₁₂₃₄₅₆₇₈₉"}
PLAIN = str.maketrans({mark: letter for table in (RAISED, LOWERED) for letter, mark in table.items()})
SUPERSCRIPT = re.compile(f"[{''.join(RAISED.values())}]+")
SUBSCRIPT = re.compile(f"[{''.join(LOWERED.values())}]+")
VULGAR = re.compile("[¼-¾⅐-⅞]")
ROOT = re.compile(r"([√∛])\s*(?:\(([^()√∛]*)\)|\{([^{}√∛]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))")
CALL = re.compile(r"(?<![\\A-Za-z])(sqrt|exp)\s*\(([^()]*)\)")
REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[\w)}])\*\*(?=[-+\w({\\])", "^"),
        (
            r"(?<![\\A-Za-z])(pi|infinity|theta)(?![A-Za-z])",
            lambda m: "\\infty " if m[1] == "infinity" else f"\\{m[1]} ",
        ),
        (r"(?<![\\A-Za-z])(ln|log|sin|cos|tan)(?=\s*\(|_)", r"\\\1"),
        (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r" \\times "),
        (r"\b(?:negative|minus)\s+(?=[\d\\.])", "-"),
        (r"(\d*\.\d*?)(\d{1,9}?)\2{2,}\s*(?:\.{3}|\\[lc]?dots)", r"\1\\overline{\2}"),
        (r"(\.\d*)\((\d+)\)", r"\1\\overline{\2}"),
        (r"(?<![\w/])(\d+)/(\d+)\s+(?=\\pi)", r"\\frac{\1}{\2}"),
        (r"(?<=\d)\.0+(?=\s*[-+i])(?!\S*[eE])", ""),
        (r"(?<![\d.])1(?=i(?![A-Za-z]))", ""),
        (r"\+\s*-\s*(?=[\d.])", "- "),
        (r"(?<=[\d\\])\*(?=\\|\d*\\)", " "),
        (r"\^\(\s*(-?\d+)\s*\)", r"^{\1}"),
    )
)


def write_latex(text: str) -> str:
    """The text with Unicode's signs and plain words of mathematics as LaTeX commands."""
    if not text.isascii():
        text = text.replace("³√", "∛")
        text = VULGAR.sub(write_fraction, text)
        text = SUPERSCRIPT.sub(lambda run: f"^{{{run[0].translate(PLAIN)}}}", text)
        text = SUBSCRIPT.sub(lambda run: f"_{{{run[0].translate(PLAIN)}}}", text)
        text = ROOT.sub(write_root, text.translate(CHARACTERS))
    text = CALL.sub(lambda call: f"\\sqrt{{{call[2]}}}" if call[1] == "sqrt" else f"e^{{{call[2]}}}", text)
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    return text


def write_fraction(sign: re.Match[str]) -> str:
    """`½` as a fraction."""
    above, below = unicodedata.normalize("NFKD", sign[0]).split("⁄")
    return f"\\frac{{{above}}}{{{below}}}"


def write_root(root: re.Match[str]) -> str:
    """`√5`, `√(x+1)` or `∛8` as a root."""
    body = next(group for group in root.groups()[1:] if group is not None)
    return f"\\sqrt{'[3]' if root[1] == '∛' else ''}{{{body}}}"
