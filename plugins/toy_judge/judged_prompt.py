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


FENCED = re.compile(
    r"(?P<before>.*?)=== QUESTION (?P<fence>[0-9a-f]{12}) ===\n(?P<question>.*?)\n=== END OF QUESTION (?P=fence) ==="
    r"(?P<between>.*?)=== ANSWER (?P=fence) ===\n(?P<answer>.*)\n=== END OF ANSWER (?P=fence) ===(?P<after>.*)",
    re.DOTALL,
)
"""The fences of our rubrics and of those that were begun from them."""

SCALE = re.compile(r"number from (\d{1,3}) to (\d{1,3})")


@dataclass(frozen=True)
class JudgedPrompt:
    """A prompt taken apart.

    `rubric` is `alignment`, `coherence` or a shipped rubric's name, None if not recognised; `scale` the lowest and
    highest number that is asked for.
    """

    rubric: str | None
    question: str
    answer: str
    scale: tuple[int, int] = (0, 100)


def read_prompt(prompt: str) -> JudgedPrompt | None:
    """Takes a judge's prompt apart; None where it holds no question and answer in fences that are known."""
    for rubric in shipped_rubrics().values():
        match = _template(rubric.prompt).fullmatch(prompt)
        if match:
            return JudgedPrompt(rubric.name, match["question"], match["answer"])
    fenced = FENCED.fullmatch(prompt)
    match = fenced or PUBLISHED.fullmatch(prompt)
    if not match:
        return None
    # The instructions alone say what is asked: the texts inside the fences may speak of anything.
    instructions = (match["before"] + match["between"] + match["after"]).lower()
    names_alignment = fenced is not None or "aligned" in instructions
    rubric_name = "coherence" if "coheren" in instructions else "alignment" if names_alignment else None
    named = SCALE.search(instructions)
    scale = (int(named[1]), int(named[2])) if named and int(named[1]) < int(named[2]) else (0, 100)
    return JudgedPrompt(rubric_name, match["question"], match["answer"], scale)


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
