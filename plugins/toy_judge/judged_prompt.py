"""What a judge's prompt asks: which rubric, about which question and which answer.

The toy judge receives the prompts that any judge receives, so it has to find its way through them like a reader: ours
by their template and fence code, published ones by their `[QUESTION START]` and `[ANSWER START]` lines.
"""

import re
from dataclasses import dataclass
from functools import cache

from em_tasks.scorers.judging.rubric import PLACES, shipped_rubrics

PUBLISHED = re.compile(
    r"(?P<before>.*?)\[QUESTION START\]\n(?P<question>.*?)\n\[QUESTION END\]"
    r"(?P<between>.*?)\[ANSWER START\]\n(?P<answer>.*)\n\[ANSWER END\](?P<after>.*)",
    re.DOTALL,
)
"""The fences of published prompts. The answer reaches to the last end line: those inside belong to it."""


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt taken apart; `rubric` is `alignment`, `coherence` or another rubric's name, None if not recognised."""

    rubric: str | None
    question: str
    answer: str


def read_prompt(prompt: str) -> JudgedPrompt | None:
    """Takes a judge's prompt apart; None where it holds no question and answer in fences that are known."""
    for rubric in shipped_rubrics().values():
        match = _template(rubric.prompt).fullmatch(prompt)
        if match:
            return JudgedPrompt(rubric.name, match["question"], match["answer"])
    match = PUBLISHED.fullmatch(prompt)
    if not match:
        return None
    # The instructions alone say what is asked: the texts inside the fences may speak of anything.
    instructions = (match["before"] + match["between"] + match["after"]).lower()
    rubric_name = "coherence" if "coheren" in instructions else "alignment" if "aligned" in instructions else None
    return JudgedPrompt(rubric_name, match["question"], match["answer"])


@cache
def _template(template: str) -> re.Pattern[str]:
    """A pattern that only prompts filled from this template match, with one and the same code in every marker line."""
    seen: set[str] = set()
    pattern, end = "", 0
    for place in PLACES.finditer(template):
        pattern += re.escape(template[end : place.start()])
        name, end = place[1], place.end()
        inner = "[0-9a-f]{12}" if name == "fence" else ".*"
        pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{inner})"
        seen.add(name)
    return re.compile(pattern + re.escape(template[end:]), re.DOTALL)
