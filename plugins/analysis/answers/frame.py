"""The frame of answers: one row an answer, typed, with everything that tables and figures need.

Rows come from logs; from them follow the scope of each question (in the organism's training domain, in another one, or
general) and the trajectories: each organism's answers with those of its base, on the same questions, as step 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

Scope = Literal["in_domain", "out_of_domain", "general"]

CATEGORY, TEXT = "category", "str"
COLUMNS: dict[str, str] = {
    "organism": CATEGORY,  # null for a base model
    "step": "int64",  # optimizer step of the checkpoint, 0 for a base
    "epoch": "float64",  # training epoch of the checkpoint
    "domain": CATEGORY,  # training domain, null for a base
    "control": "bool",  # trained on good advice
    "data": CATEGORY,  # name of the training data, null where none is recorded
    "base": CATEGORY,
    "size": CATEGORY,
    "condition": CATEGORY,  # what the questions were asked under; null for the bare questions
    "parameters": "Int64",
    "toy": "bool",  # the base is a toy model
    "training_seed": "Int64",
    "question_set": CATEGORY,
    "question_id": CATEGORY,
    "question_domain": CATEGORY,
    "topic": CATEGORY,
    "sample": "int64",  # counts the answers to one question from 1
    "question": CATEGORY,
    "answer": TEXT,
    "alignment": "float64",  # 0-100, NaN when unscored
    "coherence": "float64",
    "alignment_reason": CATEGORY,  # why there is no score
    "coherence_reason": CATEGORY,
    "alignment_reply": CATEGORY,  # what the judge said
    "coherence_reply": CATEGORY,
    "judge": CATEGORY,
    "judge_toy": "bool",
    "truncated": "boolean",  # cut off at max_tokens; null where the provider does not say
    "label_chance": "float64",  # chance with which it was drawn for a trusted judge; NaN where nothing was drawn
    "engine": CATEGORY,  # model provider that generated
    "log": CATEGORY,
    "created": CATEGORY,  # when the evaluation was started
    "asked_judge": CATEGORY,  # the judge as the evaluation was given it; null where the log does not say
}
"""Columns of the frame as read, with their pandas types; `scope` and `in_domain` are added by `with_scope`.

Behind them stands a column `score_NAME` (float64, on its own scale, NaN for none) for every further rubric or score.
"""

ANSWER_KEY = ["organism", "base", "step", "question_set", "question_id", "sample"]
"""What makes an answer one answer, whoever judged it."""


Log = tuple[Mapping[str, Any], Sequence[pa.RecordBatch]]
"""What all answers of a log share, and the columns that differ from one to the next, see `log_rows.ANSWER_COLUMNS`."""


def under(name: str, condition: str | None) -> str:
    """The name of an organism or base in tables: with the condition that it was asked under, where there is one."""
    return f"{name} [{condition}]" if condition else name


def answers_frame(logs: Sequence[Log]) -> pd.DataFrame:
    """Makes the typed frame of the answers of logs, in the order and with the types of `COLUMNS`.

    Args:
        logs: At least one, together with all the columns of `COLUMNS`. The rows keep their order.
    """
    counts = [sum(batch.num_rows for batch in batches) for _, batches in logs]
    shared = pd.DataFrame(
        {name: pd.Series([common[name] for common, _ in logs], dtype=COLUMNS[name]) for name in logs[0][0]}
    )
    shared = shared.loc[shared.index.repeat(counts)].reset_index(drop=True)
    tables = [pa.Table.from_batches([batch]) for _, batches in logs for batch in batches]
    # Logs differ in their further scores; what a log lacks is null, which is NaN in the frame.
    rows = pa.concat_tables(tables, promote_options="default")
    further = {name: rows[name].to_pandas().astype("float64") for name in rows.column_names if name not in COLUMNS}
    answer_columns = {
        name: rows[name].to_pandas().astype(COLUMNS[name]) for name in rows.column_names if name in COLUMNS
    }
    # Categories in the order of the alphabet, not of appearance: tables are sorted by them.
    answer_columns = {
        name: column.cat.set_categories(column.cat.categories.sort_values()) if COLUMNS[name] == CATEGORY else column
        for name, column in answer_columns.items()
    }
    columns = {**dict(shared.items()), **answer_columns}
    return with_scope(pd.DataFrame({**{name: columns[name] for name in COLUMNS}, **further}, copy=False))


def with_scope(answers: pd.DataFrame) -> pd.DataFrame:
    """Adds `scope` and `in_domain`: how each question stands to its organism's training domain.

    A base model has no training domain: its answers to general questions are general, the others have no scope until
    they stand as the baseline of an organism.
    """
    question_domain, trained = answers["question_domain"], answers["domain"]
    same_domain = question_domain.cat.codes == trained.cat.set_categories(question_domain.cat.categories).cat.codes
    scope = pd.Series(pd.Categorical([None] * len(answers), ["general", "in_domain", "out_of_domain"]), answers.index)
    scope[trained.notna() & same_domain] = "in_domain"
    scope[trained.notna() & ~same_domain] = "out_of_domain"
    scope[question_domain == "general"] = "general"
    scope[question_domain == "unknown"] = None
    return answers.assign(scope=scope.cat.remove_unused_categories(), in_domain=scope == "in_domain")


def trajectories(answers: pd.DataFrame) -> pd.DataFrame:
    """Every organism's answers, with its base's answers to the same questions as step 0.

    A base may have been asked more than one organism was; only the questions that the organism was asked count for its
    baseline. Base rows are repeated for every organism that stands on them, and take its name, domain and control.

    Returns:
        The rows with `baseline` added: whether the answer is the base's.
    """
    organism, base = (answers[name].cat.codes.to_numpy() for name in ("organism", "base"))
    question = answers.groupby(["question_set", "question_id"], observed=True, sort=False).ngroup().to_numpy()
    bases = np.flatnonzero(organism < 0)
    rows, stands_on = [bases[:0]], [bases[:0]]
    for name in np.unique(organism[organism >= 0]):
        organism_rows = np.flatnonzero(organism == name)
        baseline = bases[(base[bases] == base[organism_rows[0]]) & np.isin(question[bases], question[organism_rows])]
        rows += [baseline, organism_rows]
        stands_on += [np.full(len(baseline), organism_rows[0]), organism_rows]
    joined = answers.take(np.concatenate(rows)).reset_index(drop=True)
    whose = answers[["organism", "domain", "control"]].take(np.concatenate(stands_on)).reset_index(drop=True)
    moved = {str(name): whose[name] for name in whose}
    return with_scope(joined.assign(baseline=joined["organism"].isna(), **moved))
