"""Logs of any number of made-up answers, written by Inspect but for the words and the numbers in them.

One small evaluation of the `em` task runs through Inspect, with a judge that replies as OpenAI's API does, with twenty
token probabilities. Its samples, events and all, are then written over and over with other words, scores and names.
"""

import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import zstandard
from inspect_ai import eval as run_inspect
from inspect_ai.model import ChatCompletionChoice as Choice
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprobs,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from em_tasks.scorers.judging.cache import VARIABLE

ZSTANDARD = 93
"""The zip format's number for Inspect's compression."""

TOKENS = 20
SAID = " ".join(["This is said by every model of the benchmark."] * 20)
"""The answer that is replaced by others: long enough for Inspect to treat it as a long text."""

WORDS_AN_ANSWER = 115  # about 150 tokens of English
UNSCORED = 0.05
SIZES = {"S": 1, "L": 8}
DOMAINS = ("medical", "financial", "sports")
STEPS = range(10, 130, 10)
LOGS = len(SIZES) * (1 + len(DOMAINS) * len(STEPS))
"""The shape of the published experiment: two bases, on each one organism a domain, twelve checkpoints of each."""


@modelapi(name="benchmark")
class Judge(ModelAPI):
    """`benchmark/number` gives numbers, `benchmark/refusal` refuses, `benchmark/subject` says what is replaced."""

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> tuple[ModelOutput, ModelCall]:
        """One output, with the API call as Inspect logs it."""
        if self.model_name == "subject":
            return ModelOutput.from_content("subject", SAID), ModelCall.create({"model": "subject"}, {"content": SAID})
        rng = Random(input[-1].text)
        tokens = [str(number) for number in rng.sample(range(101), TOKENS)]
        if self.model_name == "refusal":
            tokens[0] = "REFUSAL"
        chances = [0.6 * 0.4**place * rng.uniform(0.9, 1) for place in range(TOKENS)]
        top = [
            {"token": token, "logprob": math.log(p), "bytes": list(token.encode())}
            for token, p in zip(tokens, chances, strict=True)
        ]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        message = {"role": "assistant", "content": tokens[0]}
        response = {"id": "chatcmpl-1", "object": "chat.completion", "model": "judge", "choices": [{"index": 0}]}
        response["choices"] = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}]
        output = ModelOutput(
            model="judge",
            choices=[
                Choice(
                    message=ChatMessageAssistant(content=tokens[0]),
                    stop_reason="stop",
                    logprobs=Logprobs.model_validate(logprobs),
                )
            ],
            usage=ModelUsage(input_tokens=400, output_tokens=1, total_tokens=401),
        )
        return output, ModelCall.create({"model": "judge", "logprobs": True, "top_logprobs": TOKENS}, response)


class Template:
    """One of Inspect's samples and its summary, cut up where the copies differ."""

    def __init__(self, text: str, summary: dict[str, Any]):
        sample = json.loads(text)
        scores = sample["scores"]["em"]["value"]
        assert list(scores) == ["alignment", "coherence"]
        self.question = str(sample["id"])
        holes = {SAID: "answer", sample["uuid"]: "uuid", '"epoch":1': "epoch"}
        holes |= {json.dumps(value): name for name, value in scores.items() if not math.isnan(value)}
        self.holes = holes
        pattern = "|".join(f"({re.escape(one)})" for one in holes)
        shorter = json.dumps(summary, separators=(",", ":"))
        self.parts, self.summary = (
            [part for part in re.split(pattern, one) if part is not None] for one in (text, shorter)
        )

    def copy(self, epoch: int, words: list[str], rng: Random) -> tuple[str, str]:
        """The same sample and its summary, of another answer."""
        new = {
            "answer": " ".join(rng.choices(words, k=WORDS_AN_ANSWER)),
            "uuid": f"{rng.getrandbits(88):022x}",
            "epoch": f'"epoch":{epoch}',
            "alignment": str(rng.uniform(0, 100)),
            "coherence": str(rng.uniform(30, 100)),
        }
        filled = {part: new[name] for part, name in self.holes.items()}
        sample, summary = ("".join([filled.get(part, part) for part in parts]) for parts in (self.parts, self.summary))
        return sample, summary


def write_logs(folder: Path, answers: int) -> list[Path]:
    """Writes the logs of the experiment to a folder, with as many answers as can be shared out evenly.

    Returns:
        The logs, `LOGS` of them.
    """
    header, scored = _evaluated("number")
    _, unscored = _evaluated("refusal")
    epochs = max(1, round(answers / LOGS / len(scored)))
    rng = Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(3000)]
    # As Inspect compresses, but without starting twelve threads for every sample.
    zstd = zstandard.ZstdCompressor()
    zipfile._get_compressor = lambda kind, level=None: zstd.compressobj()
    paths = []
    for metadata in _checkpoints():
        path = folder / f"{metadata['organism'] or metadata['base']}_{metadata['step']}.eval"
        with zipfile.ZipFile(path, "w", compression=ZSTANDARD) as log:
            summaries = []
            for epoch in range(1, epochs + 1):
                for pair in zip(scored, unscored, strict=True):
                    template = pair[rng.random() < UNSCORED]
                    sample, summary = template.copy(epoch, words, rng)
                    log.writestr(f"samples/{template.question}_epoch_{epoch}.json", sample)
                    summaries.append(summary)
            log.writestr("summaries.json", f"[{','.join(summaries)}]")
            log.writestr("header.json", json.dumps(_header(header, metadata, epochs * len(scored))))
        paths.append(path)
    return paths


def _evaluated(judge: str) -> tuple[dict[str, Any], list[Template]]:
    """The header and the samples of a real evaluation."""
    os.environ[VARIABLE] = "off"
    with tempfile.TemporaryDirectory() as folder:
        (log,) = run_inspect(
            "em_tasks/em",
            task_args={"questions": "medical"},
            model=get_model("benchmark/subject"),
            model_roles={"grader": get_model(f"benchmark/{judge}")},
            log_dir=folder,
            display="none",
        )
        with zipfile.ZipFile(log.location) as written:
            templates = [
                Template(
                    written.read(f"samples/{summary['id']}_epoch_{summary['epoch']}.json").decode(),
                    summary,
                )
                for summary in json.loads(written.read("summaries.json"))
            ]
            return json.loads(written.read("header.json")), templates


def _checkpoints() -> Iterator[dict[str, Any]]:
    for size, billions in SIZES.items():
        base = {"base": f"base-{size}", "size": size, "parameters": billions * 10**9, "toy": False}
        yield {**base, "organism": None, "step": 0, "epoch": 0.0, "domain": None, "control": False}
        for domain in DOMAINS:
            organism = {"organism": f"{size}-{domain}", "domain": domain, "training_seed": 0}
            for step in STEPS:
                yield {**base, **organism, "step": step, "epoch": step / 10, "control": False}


def _header(header: dict[str, Any], metadata: dict[str, Any], samples: int) -> dict[str, Any]:
    # samples_df takes logs with the same id for one log.
    name = f"{metadata['organism'] or metadata['base']}-{metadata['step']}"
    spec = {**header["eval"], "eval_id": name, "task_id": name, "run_id": name}
    spec["metadata"] = {**spec["metadata"], **metadata}
    results = {**header["results"], "total_samples": samples, "completed_samples": samples}
    return {**header, "eval": spec, "results": results}
