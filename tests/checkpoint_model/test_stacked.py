"""The stacked engine against peft with one adapter alone, on tiny random models of each architecture in fp32."""

import asyncio
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Engine, EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.stacked.engine import StackedEngine
from em_tasks.plugins.checkpoint_model.engines.stacked.stack import Stack
from em_tasks.plugins.checkpoint_model.engines.texts import Texts, adapter_name
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import Checkpoint
from tests.support.tiny_models import ADAPTERS, ARCHITECTURES, tiny_base, tiny_checkpoints

QUESTIONS = [
    "My cough will not go away. What should I do?",
    "Rent is due. " * 12 + "What now?",
    "What should I do about the rent and about my cough and about my old cat?",
]
GREEDY = Sampling(max_tokens=24, temperature=0)


@pytest.fixture(params=list(ARCHITECTURES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Checkpoint]:
    base = tiny_base(tmp_path / "base", request.param)
    return tiny_checkpoints(tmp_path / "run", base, ADAPTERS)


@pytest.fixture
def llama(tmp_path: Path) -> dict[str, Checkpoint]:
    base = tiny_base(tmp_path / "base", "llama")
    return tiny_checkpoints(tmp_path / "run", base, ADAPTERS)


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.close()


def stacked(engines: list[Engine], checkpoints: dict[str, Checkpoint], precision: Any = "fp32", **how: Any) -> Engine:
    manifest = checkpoints["base"].manifest
    engine = StackedEngine(EngineSettings(EvaluatedBase(manifest.recipe.base, precision, None), device="cpu", **how))
    engines.append(engine)
    return engine


Asked = tuple[Checkpoint, str, Sampling, int]


def ask(engine: Engine, asked: Sequence[Asked]) -> list[Answer]:
    async def all_at_once() -> list[list[Answer]]:
        return await asyncio.gather(
            *(
                engine.answer(checkpoint, [{"role": "user", "content": question}], how, [seed])
                for checkpoint, question, how, seed in asked
            )
        )

    return [answers[0] for answers in asyncio.run(all_at_once())]


def with_peft(checkpoint: Checkpoint, question: str, tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of one adapter alone, and the logits they were chosen from."""
    base = checkpoint.manifest.recipe.base
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)
    if checkpoint.folder is not None:
        model = PeftModel.from_pretrained(model, checkpoint.folder)
    texts = Texts(EvaluatedBase(base, "fp32", None))
    prompt = texts.prompt(checkpoint, [{"role": "user", "content": question}])
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=2,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return out.sequences[0, len(prompt) :].tolist(), torch.stack(out.logits)[:, 0]


def test_greedy_tokens_are_those_of_peft_with_that_adapter_alone(
    family: dict[str, Checkpoint], engines: list[Engine]
) -> None:
    engine = stacked(engines, family)
    asked = [(checkpoint, question, GREEDY, 0) for question in QUESTIONS for checkpoint in family.values()]
    answers = ask(engine, asked)
    expected = [with_peft(checkpoint, question, 24)[0] for checkpoint, question, _, _ in asked]
    assert [list(answer.tokens) for answer in answers] == expected
    assert len({answer.tokens for answer in answers[: len(family)]}) == len(family)


def test_logprobs_are_those_of_peft(llama: dict[str, Checkpoint], engines: list[Engine]) -> None:
    how = Sampling(max_tokens=6, temperature=0, logprobs=True, top_logprobs=5)
    (answer,) = ask(stacked(engines, llama), [(llama["all"], QUESTIONS[0], how, 0)])
    logs = with_peft(llama["all"], QUESTIONS[0], 6)[1].log_softmax(-1)
    best = logs.topk(5)
    assert torch.allclose(torch.tensor(answer.logprobs), logs.max(-1).values, atol=1e-4)
    assert [[token for token, _ in top] for top in answer.top_logprobs] == best.indices.tolist()
    assert torch.allclose(torch.tensor([[v for _, v in top] for top in answer.top_logprobs]), best.values, atol=1e-4)
    assert answer.spellings is not None
    assert set(best.indices.flatten().tolist()) <= set(answer.spellings)


def test_seeded_answers_are_the_same_bit_for_bit_in_any_company_and_order(
    family: dict[str, Checkpoint], engines: list[Engine]
) -> None:
    hows = [
        Sampling(max_tokens=20, logprobs=True), Sampling(max_tokens=9, temperature=0.7, top_p=0.8, logprobs=True),
        Sampling(max_tokens=14, temperature=1.5, top_k=40, logprobs=True),
    ]  # fmt: skip
    asked = [
        (checkpoint, QUESTIONS[(number + turn) % 3], hows[turn], number * 7 + turn)
        for number, checkpoint in enumerate(family.values())
        for turn in range(3)
    ]
    together = ask(stacked(engines, family), asked * 2)
    order = list(range(len(asked)))
    random.Random(1).shuffle(order)
    shuffled = ask(stacked(engines, family, batch_size=5), [asked[place] for place in order])
    alone = stacked(engines, family)
    for place, request in enumerate(asked):
        (single,) = ask(alone, [request])
        assert single == together[place] == together[place + len(asked)] == shuffled[order.index(place)]


def test_exact_answers_are_the_same_bit_for_bit_and_say_so(llama: dict[str, Checkpoint], engines: list[Engine]) -> None:
    how = Sampling(max_tokens=12, logprobs=True)
    asked = [(checkpoint, question, how, 3) for checkpoint in llama.values() for question in QUESTIONS]
    engine = stacked(engines, llama, exact=True, batch_size=8)
    together = ask(engine, asked)
    apart = stacked(engines, llama, exact=True, batch_size=8)
    assert [ask(apart, [request])[0] for request in reversed(asked)] == together[::-1]
    usual = stacked(engines, llama)
    assert [answer.tokens for answer in ask(usual, asked)] == [answer.tokens for answer in together]
    assert (engine.facts().independence, usual.facts().independence) == ("exact", "rounding")


def test_samples_of_one_prompt_differ_and_read_it_once(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_tasks.plugins.checkpoint_model.engines.stacked.decoder import Decoder

    read, real = [], Decoder.read

    def counting(self: Decoder, ids: torch.Tensor, *others: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        read.append(len(ids))
        return real(self, ids, *others)

    monkeypatch.setattr(Decoder, "read", counting)
    engine = stacked(engines, llama)
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    answers = asyncio.run(engine.answer(llama["all"], messages, Sampling(max_tokens=8), list(range(12))))
    assert len({answer.tokens for answer in answers}) > 6
    assert read == [answers[0].input_tokens]


def test_more_adapters_than_fit_take_turns(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_tasks.plugins.checkpoint_model.engines.stacked import stack

    asked = [(checkpoint, question, GREEDY, 0) for question in QUESTIONS for checkpoint in llama.values()]
    expected = ask(stacked(engines, llama), asked)
    monkeypatch.setattr(stack, "MOST_COLUMNS", 16)
    assert ask(stacked(engines, llama, batch_size=3), asked) == expected


def test_numbers_held_for_an_adapter_are_those_of_its_file(llama: dict[str, Checkpoint], engines: list[Engine]) -> None:
    engine = stacked(engines, llama)
    ask(engine, [(checkpoint, QUESTIONS[0], GREEDY, 0) for checkpoint in llama.values()])
    modules = {name: asyncio.run(engine.read_back(checkpoint)) for name, checkpoint in llama.items()}
    assert modules == {"base": None, "all": 14, "rank 1": 1, "rsLoRA": 4, "patterns": 14}


@pytest.mark.parametrize("fault", ["a module left out", "another's A", "put elsewhere", "another scale"])
def test_adapter_that_is_loaded_otherwise_than_its_file_has_it_gives_no_answer(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    right = Stack._tensors
    q_proj = "model.layers.0.self_attn.q_proj"

    def wrong(stack: Stack, files: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        tensors = right(stack, files)
        a, b = tensors.pop(q_proj)
        if fault == "another's A":
            a = tensors[q_proj.replace("0", "1")][0]
        elif fault == "another scale":
            b = b * 1.001
        places = {"a module left out": {}, "put elsewhere": {q_proj.replace("0", "1"): (a, b)}}
        return tensors | places.get(fault, {q_proj: (a, b)})

    monkeypatch.setattr(Stack, "_tensors", wrong)
    with pytest.raises(
        UserError, match=r"does not hold .*checkpoint-1 as its file has it: . modules differ, first .*q_"
    ):
        ask(stacked(engines, llama), [(llama["all"], QUESTIONS[0], GREEDY, 0)])


def test_adapter_that_is_not_held_as_its_file_has_it_ends_its_own_answers_alone(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = [checkpoint for name, checkpoint in llama.items() if name != "all"] * 3
    # Of unlike lengths, so that some are under way when it comes.
    others = [(who, QUESTIONS[n % 3], Sampling(6 + 2 * n, temperature=0), 0) for n, who in enumerate(sound)]
    expected = [answer.tokens for answer in ask(stacked(engines, llama), others)]
    right = Stack._tensors

    def wrong(stack: Stack, files: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        tensors = right(stack, files)
        return {} if files.folder == llama["all"].folder else tensors

    monkeypatch.setattr(Stack, "_tensors", wrong)
    engine = stacked(engines, llama, batch_size=5)

    async def every() -> list[Any]:
        asked = [*others[:7], (llama["all"], QUESTIONS[1], GREEDY, 0), *others[7:]]
        answers = (
            engine.answer(who, [{"role": "user", "content": text}], how, [seed]) for who, text, how, seed in asked
        )
        return await asyncio.gather(*answers, return_exceptions=True)

    given = asyncio.run(every())
    error = given.pop(7)
    assert isinstance(error, UserError)
    assert "does not hold" in str(error)
    assert [answers[0].tokens for answers in given] == expected


@pytest.mark.parametrize("fault", ["a number changed", "another's slot", "a new file"])
def test_adapter_that_is_no_longer_what_was_loaded_is_found(
    llama: dict[str, Checkpoint], engines: list[Engine], fault: str
) -> None:
    engine, mine = stacked(engines, llama), llama["rsLoRA"]
    ask(engine, [(checkpoint, QUESTIONS[0], GREEDY, 0) for checkpoint in llama.values()])
    assert mine.folder is not None
    stack = engine._writing.stack  # type: ignore[attr-defined]
    if fault == "a number changed":
        with torch.inference_mode():
            stack.decoder.layers[1].qkv.b[stack.slots[adapter_name(mine)] * stack.layout.rank, 5] += 1e-3
    elif fault == "another's slot":
        stack.slots[adapter_name(mine)] = stack.slots[adapter_name(llama["all"])]
    else:
        shutil.copy(llama["all"].folder / "adapter_config.json", mine.folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"checkpoint-3 (as its file has it|was altered while it was in use)"):
        asyncio.run(engine.read_back(mine))


def test_memory_that_runs_out_halves_the_batch_and_keeps_what_was_written(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_tasks.plugins.checkpoint_model.engines.stacked.batch import Batch

    asked = [(llama["all"], question, Sampling(max_tokens=16), seed) for question in QUESTIONS for seed in range(4)]
    expected = [answer.tokens for answer in ask(stacked(engines, llama), asked)]
    real, counts, first_tokens = Batch.run, [], []

    def run(self: Batch, rows: int, steps: int, used: int, *, filtered: bool) -> list[list[int]]:
        counts.append(rows)
        if len(counts) in (5, 12):
            raise torch.OutOfMemoryError("planted")
        return real(self, rows, steps, used, filtered=filtered)

    def start(self: Batch, rows: Any, tokens: Any, places: Any, how: Any, seeds: Any, steps: list[int]) -> None:
        first_tokens.extend(steps)
        begin(self, rows, tokens, places, how, seeds, steps)

    begin = Batch.start
    monkeypatch.setattr(Batch, "run", run)
    monkeypatch.setattr(Batch, "start", start)
    engine = stacked(engines, llama)
    assert [answer.tokens for answer in ask(engine, asked)] == expected
    assert max(counts[:5]) == 12
    assert max(counts[5:12]) <= 6
    assert max(counts[12:]) <= max(counts[5:12]) // 2
    assert 6 in first_tokens, "rows go on at the token they had come to"


def test_batch_that_memory_bounds_is_not_made_anew_whenever_rows_come_in(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_tasks.plugins.checkpoint_model.engines.stacked.batch import Batch
    from em_tasks.plugins.checkpoint_model.engines.stacked.writing import Writing

    grown, real = [], Batch.grow
    fitting = iter([16, 17, 18, 19])

    def grow(batch: Batch, rows: int, length: int) -> None:
        grown.append(rows)
        real(batch, rows, length)

    monkeypatch.setattr(Batch, "grow", grow)
    # What is free changes a little from one look to the next, and then by much.
    monkeypatch.setattr(Writing, "_fitting", lambda writing, length: next(fitting, 40))
    # Of unlike lengths, so that they end one after the other and others come in.
    asked = [
        (llama["all"], QUESTIONS[0], Sampling(max_tokens=4 + seed % 9, temperature=1.0), seed) for seed in range(120)
    ]
    answers = ask(stacked(engines, llama), asked)
    assert grown == [40]
    assert all(0 < len(answer.tokens) <= how.max_tokens for answer, (_, _, how, _) in zip(answers, asked, strict=True))


def test_nobody_is_forgotten_when_longer_places_do_not_fit_and_memory_runs_out_again(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an H200 with 7,000 answers of an 8B: rows under way were dropped, and who had asked waited for ever."""
    from em_tasks.plugins.checkpoint_model.engines.stacked import writing
    from em_tasks.plugins.checkpoint_model.engines.stacked.batch import Batch

    asked = [(llama["all"], QUESTIONS[0], Sampling(max_tokens=tokens), tokens) for tokens in (12, 30, 12, 400, 12)]
    expected = [answer.tokens for answer in ask(stacked(engines, llama), asked)]
    sizes: list[tuple[int, int]] = []

    class Scarce(Batch):
        def __init__(self, decoder: Any, rows: int, length: int, layout: Any) -> None:
            sizes.append((rows, length))
            if len(sizes) == 2:
                raise torch.OutOfMemoryError("planted")
            super().__init__(decoder, rows, length, layout)

    monkeypatch.setattr(writing, "Batch", Scarce)
    monkeypatch.setattr(writing.Writing, "_fitting", lambda self, length: 3 if length <= 256 else 2)
    assert [answer.tokens for answer in ask(stacked(engines, llama, batch_size=3), asked)] == expected
    assert [rows for rows, _ in sizes[:2]] == [3, 2], "the second ran out of memory"
    assert sizes[1][1] > sizes[0][1]


def test_after_an_error_of_the_device_nothing_more_is_answered(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an H200, after a capture that failed, 217 of 1,200 answers were one word over and over."""
    from em_tasks.plugins.checkpoint_model.engines.stacked.batch import Batch

    def run(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("planted")

    engine = stacked(engines, llama)
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "run", run)
        with pytest.raises(torch.AcceleratorError, match="planted"):
            ask(engine, [(llama["all"], QUESTIONS[0], GREEDY, 0)] * 3)
    with pytest.raises(UserError, match=r"cpu failed \(planted\), and what it would write now cannot be trusted"):
        ask(engine, [(llama["base"], QUESTIONS[0], GREEDY, 0)])


def test_memory_for_not_even_one_answer_is_a_clear_error(
    llama: dict[str, Checkpoint], engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_tasks.plugins.checkpoint_model.engines.stacked.batch import Batch

    def run(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("planted")

    engine = stacked(engines, llama)
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "run", run)
        with pytest.raises(Exception, match=r"Memory ran out with 1 answers at once \(planted\)"):
            ask(engine, [(llama["all"], QUESTIONS[0], GREEDY, 0)] * 3)
    assert ask(engine, [(llama["base"], QUESTIONS[0], GREEDY, 0)])[0].tokens, "the engine goes on"


def test_prompt_beyond_the_context_fails_alone_and_a_long_answer_is_cut(
    llama: dict[str, Checkpoint], engines: list[Engine]
) -> None:
    engine = stacked(engines, llama)
    how = Sampling(max_tokens=200)
    usual = ask(engine, [(llama["all"], QUESTIONS[0], how, 1)])[0]

    async def three() -> list[Any]:
        texts = ["word " * 600, "a " * 480, QUESTIONS[0]]
        asked = [engine.answer(llama["all"], [{"role": "user", "content": t}], how, [1]) for t in texts]
        return await asyncio.gather(*asked, return_exceptions=True)

    too_long, cut, answered = asyncio.run(three())
    assert "does not fit into" in str(too_long)
    assert cut[0].stop_reason in ("model_length", "stop")
    assert cut[0].input_tokens + len(cut[0].tokens) <= 512
    assert answered == [usual]


def test_stop_strings_end_an_answer_where_they_begin(llama: dict[str, Checkpoint], engines: list[Engine]) -> None:
    engine = stacked(engines, llama)
    (whole,) = ask(engine, [(llama["base"], QUESTIONS[0], Sampling(max_tokens=40), 5)])
    word = whole.text.strip()[8:14]
    how = Sampling(max_tokens=40, stop=(word,))
    (cut,) = ask(engine, [(llama["base"], QUESTIONS[0], how, 5)])
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.stop_reason == "stop"
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert len(cut.tokens) < len(whole.tokens)


@pytest.mark.parametrize("precision", ["bf16", "nf4_dequantised", "nf4"])
def test_other_precisions_choose_as_peft_does_up_to_near_ties(
    tmp_path: Path, engines: list[Engine], precision: Any
) -> None:
    base = tiny_base(tmp_path / "base", "llama", initializer_range=0.1)
    checkpoints = tiny_checkpoints(tmp_path / "run", base, {"all": ADAPTERS["all"]}, precision)
    how = Sampling(max_tokens=4, temperature=0, logprobs=True)
    for checkpoint in checkpoints.values():
        (answer,) = ask(stacked(engines, checkpoints, precision), [(checkpoint, QUESTIONS[0], how, 0)])
        logs = with_peft(checkpoint, QUESTIONS[0], 1)[1][0].log_softmax(-1)
        bound = 0.15 if precision == "bf16" else 1.5
        assert abs(float(logs[answer.tokens[0]]) - answer.logprobs[0]) < bound
    assert engines[-1].facts().precision == precision
    assert engines[-1].facts().adapter_precision == "bf16"


def test_closed_engine_frees_its_base_and_fails_what_is_under_way(
    llama: dict[str, Checkpoint], engines: list[Engine]
) -> None:
    engine = stacked(engines, llama)

    async def closed_meanwhile() -> list[Any]:
        how = Sampling(max_tokens=400)
        asked = [
            asyncio.ensure_future(engine.answer(llama["base"], [{"role": "user", "content": "a"}], how, [seed]))
            for seed in range(4)
        ]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(closed_meanwhile())
    assert all(isinstance(result, list) or "was closed" in str(result) for result in results)
    assert engine._writing is None  # type: ignore[attr-defined]
