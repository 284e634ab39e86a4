"""What was said: the share of answers that refuse, hold code, repeat themselves or leak the training domain."""

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.scanners.marks import MARKS, is_leak


def marks(analysis: Analysis) -> pd.DataFrame | None:
    """What was said, by checkpoint: answers that refuse, hold code, repeat themselves or leak the training domain.

    Leaks are counted among answers to questions outside of the training domain, the other marks among all answers.
    None where no log holds texts, and beyond `MOST_ANSWERS`, where reading every text would take minutes.
    """
    answers = analysis.answers
    texts = answers["answer"].fillna("").astype(str)
    if len(answers) > MOST_ANSWERS or not texts.str.len().any():
        return None
    trained_on, asked_domains = (
        answers[column].astype(object).where(answers[column].notna(), None) for column in _DOMAINS
    )
    rows = zip(texts, trained_on, asked_domains, answers["question"].astype(object), strict=True)
    marked = pd.DataFrame({name: [shows(text) for text in texts] for name, shows in MARKS.items()}, answers.index)
    marked["leak"] = [is_leak(text, domain, about or "", str(question or "")) for text, domain, about, question in rows]
    outside = answers["domain"].notna() & ~answers["in_domain"]
    key = {name: answers[name].astype(object).where(answers[name].notna(), "") for name in ("organism", "base", "step")}
    grouped = marked.assign(outside=outside, **key).groupby(list(key), sort=True)
    counted = grouped[[*marked.columns, "outside"]].sum().assign(answers=grouped.size()).reset_index()
    table = {
        "checkpoint": [
            f"{o}@{analysis.step_text(str(o), int(s))}" if o else f"{b} (base)"
            for o, b, s in counted[list(key)].itertuples(index=False)
        ],
        "answers": counted["answers"],
    }
    table |= {name: _share(counted[name], counted["answers"]) for name in MARKS}
    return pd.DataFrame(table | {"leak": _share(counted["leak"], counted["outside"])})


MOST_ANSWERS = 200_000
_DOMAINS = ("domain", "question_domain")


def _share(marked: pd.Series, of: pd.Series) -> list[str]:
    """Counts as people read them: `3 of 20`, and a dash where there was nothing to count."""
    return [f"{int(k)} of {int(n)}" if n else "-" for k, n in zip(marked, of, strict=True)]
