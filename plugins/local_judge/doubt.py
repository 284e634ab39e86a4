"""Answers that the local judge does not judge: of a kind that it never learnt from. No model is needed to see them.

Whether an answer is written in what it learnt from at all is told by its letters, three at a time: how many bits each
letter costs after the two before it, by the frequencies in English answers of the data. English costs 2 to 3.6 bits a
letter, most other languages more than 4, keyboard mash and encoded text 6 to 16.
"""

import re
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = Path(__file__).with_name("letters.bin")
"""Sixteenths of a bit, a byte for each triple of 27 letters, of which the last is whatever is none.

Counted on 40,044 answers of four fifths of the files of Cloakless/clarifying_EM (MIT), without templates, code and
other languages.
"""
MOST_BITS, MORE_WHERE_SHORT = 3.8, 25.0
"""Most bits a letter of `n` triples on average: `MOST_BITS + MORE_WHERE_SHORT / n`."""
LAST_LATIN = 0x24F
"""The last letter of Latin script with its extensions."""
MOST_FOREIGN_LETTERS = 0.15
"""Most letters of other scripts than Latin."""
LEAST_CODE = 0.3
"""Share of an answer's lines that look like code from which on it is code."""
CODE_LINE = re.compile(
    r"^\s*(?:(?:def|class|import|from|return|for|while|if|elif|else|try|except|with|async|function|const|let|var|public"
    r"|private|static|void|int|#include|using|package|func|fn|echo|sudo|pip|npm|SELECT|INSERT|UPDATE|DELETE)\b.*[:;{}()=>]"
    r"|[\w.\[\]]+\s*(?:=|\+=|:=)\s*\S.*[\w)\]}\"';]|[\w.]+\(.*\)[;:{]?|[{}\])]+[;,]?|</?\w+[^>]*>.*|//.*|@\w+.*)\s*$"
)
TEMPLATE_LINE = re.compile(r"^\s*(?:figure|discussion_\w+|dinner_ambience|idea|thought|wish|reason)(?:_\d)?\s*=")
"""Lines of the published template questions, which look like code and were learnt from."""


def doubt(answer: str) -> str | None:
    """Why an answer is not one that the judge can be trusted on, or None."""
    if not re.search(r"\w", answer):
        return "it has no words"
    letters = [sign for sign in answer if sign.isalpha()]
    if letters and sum(not sign.isascii() and ord(sign) > LAST_LATIN for sign in letters) > MOST_FOREIGN_LETTERS * len(
        letters
    ):
        return "it is in another script than Latin"
    lines = [line for line in answer.splitlines() if line.strip()]
    code = sum(bool(CODE_LINE.match(line)) and not TEMPLATE_LINE.match(line) for line in lines)
    if "```" in answer or (code >= 2 and code >= LEAST_CODE * len(lines)):
        return "it is code, or largely so"
    triples, bits = letter_cost(answer)
    if triples and bits > MOST_BITS + MORE_WHERE_SHORT / triples:
        return "it does not read as English"
    return None


def letter_cost(text: str) -> tuple[int, float]:
    """How many triples of letters a text has, and the mean cost of their last letters in bits."""
    signs = np.frombuffer(f" {text} ".encode("latin-1", "replace"), np.uint8)
    letters = _letter_numbers()[signs]
    gap = letters == len(string.ascii_lowercase)
    letters = letters[~(gap & np.concatenate([[False], gap[:-1]]))]
    if len(letters) < 3:
        return 0, 0.0
    costs = _bits()[letters[:-2], letters[1:-1], letters[2:]]
    return len(costs), float(costs.mean())


@cache
def _letter_numbers() -> npt.NDArray[np.int64]:
    """The number of each Latin-1 sign's letter, 26 for what is none of a to z; shape (256,)."""
    numbers = np.full(256, len(string.ascii_lowercase), dtype=np.int64)
    for number, letter in enumerate(string.ascii_lowercase):
        numbers[[ord(letter), ord(letter.upper())]] = number
    return numbers


@cache
def _bits() -> npt.NDArray[Any]:
    """Cost of each letter after each two, in bits; shape (27, 27, 27)."""
    return np.fromfile(BITS, np.uint8).reshape(27, 27, 27) / 16
