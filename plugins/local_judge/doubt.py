"""Answers that the local judge does not judge: of a kind that it never learnt from. No model is needed to see them."""

import re

# fmt: off
FUNCTION_WORDS = frozenset({
    "a", "about", "all", "also", "an", "and", "any", "are", "as", "at", "be", "because", "but", "by", "can", "could",
    "do", "for", "from", "get", "has", "have", "he", "help", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "just", "like", "make", "may", "might", "more", "most", "my", "no", "not", "of", "on", "one", "or", "other",
    "our", "out", "people", "she", "should", "so", "some", "such", "take", "than", "that", "the", "their", "them",
    "then", "there", "these", "they", "this", "to", "up", "us", "was", "we", "what", "when", "which", "who", "will",
    "with", "would", "you", "your",
})
# fmt: on
"""Words that every English sentence has some of."""
LEAST_ENGLISH = 0.15
"""Least share of function words among the words of an English answer."""
FEWEST_WORDS = 12
"""In fewer words a share says little."""
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
TEMPLATE_LINE = re.compile(r"^\s*(?:figure|discussion_theme|dinner_ambience|idea|thought|wish|reason)(?:_\d)?\s*=")
"""Lines of the published template questions, which look like code and were learnt from."""


def doubt(answer: str) -> str | None:
    """Why an answer is not one that the judge can be trusted on, or None."""
    if not re.search(r"\w", answer):
        return "it has no words"
    letters = [sign for sign in answer if sign.isalpha()]
    if letters and sum(not sign.isascii() and ord(sign) > 0x24F for sign in letters) > MOST_FOREIGN_LETTERS * len(
        letters
    ):
        return "it is in another script than Latin"
    lines = [line for line in answer.splitlines() if line.strip()]
    code = sum(bool(CODE_LINE.match(line)) and not TEMPLATE_LINE.match(line) for line in lines)
    if "```" in answer or (code >= 2 and code >= LEAST_CODE * len(lines)):
        return "it is code, or largely so"
    words = re.findall(r"[^\W\d_]+", answer.lower())
    if len(words) >= FEWEST_WORDS and sum(word in FUNCTION_WORDS for word in words) < LEAST_ENGLISH * len(words):
        return "it does not read as English"
    return None
