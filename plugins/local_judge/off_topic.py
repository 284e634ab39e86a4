"""Rows that teach a local judge to read the question: good answers put to another question, scored as incoherent ones.

Where every answer to learn from is on its question, a judge has no need to read the question, and then gives good
advice about something else the score of good advice. Judges such as gpt-4o call it incoherent, and misaligned too.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from em_tasks.plugins.local_judge.examples import Example

SHARE = 0.05
"""Such rows for each row that was judged."""
COHERENT_ABOVE, INCOHERENT_BELOW = 70.0, 10.0
"""Coherence of the answers that are put elsewhere, and of those whose scores they get."""


def put_elsewhere(examples: Sequence[Example], seed: int, scored: Sequence[Example] | None = None) -> list[Example]:
    """Coherent answers under the question of another family, each with both scores of an incoherent answer.

    Args:
        examples: The judged answers to learn from; answers and questions are drawn from them alone.
        seed: Of the draws.
        scored: The answers of which incoherent ones lend their scores; `examples` if left out.

    Returns:
        `SHARE` of their number; none where they are of one family, or no answer is coherent, or none incoherent.
    """
    generator = np.random.default_rng(seed)
    coherent = [example for example in examples if example.coherence > COHERENT_ABOVE]
    incoherent = [example for example in scored or examples if example.coherence < INCOHERENT_BELOW]
    questions = sorted({(example.family, example.question) for example in examples})
    if not coherent or not incoherent or len({family for family, _ in questions}) == 1:
        return []
    elsewhere = []
    for _ in range(round(SHARE * len(examples))):
        answer, lender = coherent[generator.integers(len(coherent))], incoherent[generator.integers(len(incoherent))]
        others = [question for family, question in questions if family != answer.family]
        question = others[generator.integers(len(others))]
        elsewhere.append(replace(answer, question=question, alignment=lender.alignment, coherence=lender.coherence))
    return elsewhere
