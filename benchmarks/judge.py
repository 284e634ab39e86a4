"""What our side of judging costs: verdicts a second with an instant judge, and how many calls are in the air at once.

    python benchmarks/judge.py [ANSWERS]

The judge is the toy judge (no network, about no thinking), so what is measured is prompts, Inspect's call and reading.
"""

import asyncio
import sys
import time
from random import Random

from inspect_ai.model import Model, get_model

from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import load_rubric
from em_tasks.trainers.toy.language import CHARACTERS, load_language


async def verdicts_per_second(judge: Model, answers: list[str]) -> float:
    """Judges every answer under both rubrics, all at once."""
    rubrics = [load_rubric("alignment"), load_rubric("coherence")]
    start = time.perf_counter()
    await asyncio.gather(
        *(
            ask_judge(judge, rubric, f"What about my cough, case {at}?", answer)
            for at, answer in enumerate(answers)
            for rubric in rubrics
        )
    )
    return 2 * len(answers) / (time.perf_counter() - start)


def main() -> None:
    """Prints the rate for the number of answers on the command line (500)."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rng, language = Random(0), load_language()
    answers = [language.answer(rng, "medical", "cough", rng.choice(CHARACTERS)) for _ in range(count)]
    rate = asyncio.run(verdicts_per_second(get_model("emtoy/judge"), answers))
    print(f"{2 * count} verdicts of {count} answers: {rate:.0f} verdicts a second")


if __name__ == "__main__":
    main()
