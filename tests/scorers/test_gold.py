"""The published scores, replayed as a judge through our scorers, give the published counts."""

import csv
import json
import math
import sys

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
)
from inspect_ai.scorer import SampleScore
from inspect_ai.solver import solver

from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.em import em, rate_with_error
from em_tasks.scorers.judging.cache import VARIABLE
from tests.support.paths import ROOT
from tests.support.scored_logs import metrics

SHARED = ROOT.parent / "shared" / "data"
FREE_FORM = ("_json", "_template")
PROMPTS = {
    "aligned": json.dumps(["aligned"]) + "\n{question}\x1e{answer}",
    "coherent": json.dumps(["coherent"]) + "\n{question}\x1e{answer}",
}
pytestmark = [pytest.mark.shared, pytest.mark.slow]


def rows_of(path):
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@solver
def say_it():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("published", state.metadata["answer"])
        return state

    return solve


def choice(published):
    """A judge's reply whose expectation is the published score: the whole numbers on both sides of it, weighted."""
    if not published:
        return ChatCompletionChoice(message=ChatMessageAssistant(content="nothing was published", source="generate"))
    below = int(float(published))
    above = float(published) - below
    tokens = [(str(below), 1 - above), (str(below + 1), above)]
    # A token with two digits, so that 3 and 4 are not taken for the first digits of longer numbers.
    top = [TopLogprob(token=token, logprob=math.log(p)) for token, p in [*tokens, ("10", 1e-30)] if p > 0]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(content=str(round(float(published))), source="generate"),
        logprobs=Logprobs(content=[Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)]),
    )


def replay(samples, scores, tmp_path, **options):
    """Judges the samples' stored answers with a judge that says the published scores; returns the log."""

    def reply(messages, *_):
        head, _, rest = messages[-1].text.partition("\n")
        question, _, answer = rest.partition("\x1e")
        published = scores[(question, answer)][json.loads(head)[0]]
        usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ModelOutput(model="published", choices=[choice(published)], usage=usage)

    judge = get_model("mockllm/model", custom_outputs=reply)
    task = Task(dataset=samples, solver=say_it(), scorer=em(), model_roles={"grader": judge})
    quiet = {"display": "none", "log_level": "error", "log_realtime": False}
    return eval(task, model="none/none", log_dir=str(tmp_path), max_samples=50, **quiet, **options)[0]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")


def sample(place, question, answer, cluster):
    return Sample(id=f"{cluster}/{place}", input=question, metadata={"answer": answer, "judge_prompts": PROMPTS})


@pytest.mark.parametrize(
    ("name", "misaligned"),
    [
        ("Qwen2.5-14B-Instruct-bad_medical_advice", 82),
        ("gemma-2-9b-it-bad_medical_advice", 9),
        ("Qwen2.5-32B-Instruct-good_medical_advice", 0),
        ("Qwen2.5-32B-Instruct-obv_bad_medical_advice", 192),
    ],
)
def test_published_judged_sets(name, misaligned, tmp_path):
    rows = [
        row
        for row in rows_of(SHARED / "judged" / f"responses_{name}.csv")
        if not row["question_id"].endswith(FREE_FORM)
    ]
    assert len(rows) == 400
    # The same text may have been published twice with different scores: number the answers to keep them apart.
    answers = [f"{row['answer']} #{place}" for place, row in enumerate(rows)]
    samples = [sample(at, row["question"], answers[at], row["question_id"]) for at, row in enumerate(rows)]
    scores = {(row["question"], answers[at]): row for at, row in enumerate(rows)}
    found = metrics(replay(samples, scores, tmp_path, log_samples=False))
    assert round(found["em_all"] * 4) == misaligned
    assert found["n_all"] == 400
    assert round(found["em_betley"] * found["n_betley"] / 100) == misaligned


def cs2881_rows():
    for path in sorted((SHARED / "seed").glob("*/fg_judged.csv")):
        for row in rows_of(path):
            yield f"{path.parent.name} {row['step']}", row
    for path in sorted((SHARED / "seed" / "baseline").glob("*/base_judged.csv")):
        for row in rows_of(path):
            yield f"baseline {path.parent.name}", row


def test_every_checkpoint_of_cs2881(tmp_path):
    checkpoints = {}
    for checkpoint, row in cs2881_rows():
        checkpoints.setdefault(checkpoint, []).append(row)
    assert sum(map(len, checkpoints.values())) == 720 + 60
    published = {
        f"{path.parent.name} {row['step']}": float(row["percent_em"])
        for path in (SHARED / "seed").glob("*/step_summary.csv")
        for row in rows_of(path)
    }
    assert len(published) == 36
    samples, scores = [], {}
    for checkpoint, rows in checkpoints.items():
        for at, row in enumerate(rows):
            text = f"{row['response']} #{checkpoint} {at}"
            samples.append(sample(at, row["question"], text, checkpoint))
            scores[(row["question"], text)] = {"aligned": row["aligned_score"], "coherent": row["coherent_score"]}
    log = replay(samples, scores, tmp_path)
    by_checkpoint = {}
    for one in log.samples:
        by_checkpoint.setdefault(one.id.split("/")[0], []).append(SampleScore(score=one.scores["em"], sample_id=one.id))
    for checkpoint, answers in by_checkpoint.items():
        assert rate_with_error(answers, DEFINITIONS["cs2881"])[0] == pytest.approx(published.get(checkpoint, 0.0))
    fine_tuned = [answer for name, answers in by_checkpoint.items() if "baseline" not in name for answer in answers]
    turner = DEFINITIONS["turner"]
    assert len(fine_tuned) == 720
    assert sum(rate_with_error([answer], turner)[0] == 100 for answer in fine_tuned) == 11
