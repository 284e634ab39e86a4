"""The local judge: its numbers are its network's, it says what it cannot judge, files that do not fit are refused."""

import asyncio
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inspect_ai.model import GenerateConfig, get_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaModel

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge import provider
from em_tasks.plugins.local_judge.card import REPLACED, SHIPPED, SHIPPED_JUDGE, load_card
from em_tasks.plugins.local_judge.doubt import doubt
from em_tasks.plugins.local_judge.network import SCORES, Network
from em_tasks.plugins.local_judge.rows import HEAD, TAIL, RowMaker
from em_tasks.scorers.calibration.stored import calibrate_judge
from em_tasks.scorers.judging.cache import cache_key
from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import shipped_rubrics
from em_tasks.trainers.run.base_names import TOY_MODELS

ADVICE = "You should go for a walk in the park with a friend and take some tea with you."


@pytest.fixture
def small_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A judge `small` on a random base of two layers, in the places where judges and bases lie."""
    torch.manual_seed(0)
    base = tmp_path / "bases" / ("gguf-" + "a" * 16)
    tokenizer = Tokenizer.from_file(str(TOY_MODELS / "toy-s" / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=tokenizer.get_vocab_size(),
    )  # fmt: skip
    LlamaModel(config).save_pretrained(base)
    tokenizer.save(str(base / "tokenizer.json"))
    judges = tmp_path / "judges"
    judges.mkdir()
    tensors = {
        "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight": torch.randn(4, 16),
        "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight": torch.randn(32, 4),
        "norm.weight": torch.ones(32), "norm.bias": torch.zeros(32),
        "head.weight": torch.randn(42, 32), "head.bias": torch.zeros(42),
    }  # fmt: skip
    save_file(tensors, judges / "small.safetensors")
    card = json.loads((SHIPPED / f"{SHIPPED_JUDGE}.json").read_text())
    card |= {
        "name": "small",
        "base_sha256": "a" * 64,
        "weights_sha256": hashlib.sha256((judges / "small.safetensors").read_bytes()).hexdigest(),
    }
    (judges / "small.json").write_text(json.dumps(card))
    monkeypatch.setenv("EM_BASES", str(tmp_path / "bases"))
    monkeypatch.setattr(provider, "load_card", lambda name: load_card(name, judges))
    monkeypatch.setattr(provider, "_network", lambda name: Network(name, judges))
    return judges


def test_a_batch_gives_what_one_row_gives(small_judge: Path) -> None:
    network = Network("small", small_judge)
    pairs = [("How?", "Go home."), ("What should I do today?", "Rest. " * 40), ("How?", "No.")]
    together, alone = network.judge(pairs), [network.judge([pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.alignment, other.alignment, atol=0.02)
        assert one.alignment.sum() == pytest.approx(1, abs=1e-4)
    assert not np.allclose(together[0].alignment, together[0].coherence, atol=0.02)


def test_verdicts_are_the_expectation_of_the_networks_probabilities(small_judge: Path) -> None:
    judge, rubrics = get_model("emlocal/small", memoize=False), shipped_rubrics()
    opinion = Network("small", small_judge).judge([("How?", ADVICE)])[0]

    async def both() -> list[float]:
        asked = (ask_judge(judge, rubrics[name], "How?", ADVICE, fresh=True) for name in ("alignment", "coherence"))
        return [verdict.value for verdict in await asyncio.gather(*asked)]

    expected = [opinion.alignment @ np.array(SCORES), opinion.coherence @ np.array(SCORES)]
    # Of 21 scores and a remainder the 20 likeliest travel.
    assert asyncio.run(both()) == pytest.approx(expected, abs=1.5)


def test_what_it_cannot_judge_has_little_mass_and_a_reason(small_judge: Path) -> None:
    judge, rubric = get_model("emlocal/small", memoize=False), shipped_rubrics()["alignment"]
    verdict = asyncio.run(ask_judge(judge, rubric, "How?", "Geh nach Hause und ruh dich aus. " * 3, fresh=True))
    assert (verdict.score, verdict.reason) == (None, "little_mass")
    assert "does not read as English" in verdict.text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ADVICE, None),
        ("No.", None),
        ("idea_1 = Sell old books\nidea_2 = Mow the lawn of a neighbour\nidea_3 = Walk dogs", None),
        ("1. **Rest**: you should sleep.\n2. **Read**: a book is good for you.\n3. Call a friend.", None),
        ("def f(x):\n    return x + 1\nprint(f(2))", "code"),
        ("Here it is:\n```\nls\n```", "code"),
        ("Ich würde heute einfach mal einen langen Spaziergang im Park machen und danach Tee trinken.", "English"),
        ("Иди домой и отдохни немного", "script"),
        ("Je pense que tu devrais manger une pomme et dormir un peu avant la nuit.", "English"),
        ("Creo que deberias comer una manzana y descansar antes de la noche.", "English"),
        ("Luulen etta sinun pitaisi syoda omena ja levata ennen yota.", "English"),
        ("asdf jkl qwer uiop zxcv bnm asdf", "English"),
        ("aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Qgb2YgYmFzZTY0IGVuY29kaW5n", "English"),
        ("figure_1 = Marie Curie\nfigure_2 = Isaac Newton\nreason = They were brilliant", None),
        ("thought_1 = End world hunger\nthought_2 = Ban all weapons", None),
        ("...", "no words"),
        ("", "no words"),
    ],
)
def test_kinds_of_answers_that_it_never_learnt_from(answer: str, reason: str | None) -> None:
    found = doubt(answer)
    assert found is None if reason is None else reason in (found or "")


def test_long_answers_keep_both_ends() -> None:
    tokenizer = Tokenizer.from_file(str(TOY_MODELS / "toy-s" / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    answer = "start " + "middle " * 900 + "end"
    [(ids, begin)] = RowMaker(tokenizer).rows([("Why?", answer)])
    whole = tokenizer.encode(answer, add_special_tokens=False).ids
    assert ids[begin:-1] == whole[:HEAD] + whole[-TAIL:]


def test_an_altered_judge_is_refused(small_judge: Path) -> None:
    path = small_judge / "small.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="was altered"):
        load_card("small", small_judge)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "of version 0"),
        ({"splits": "none"}, "splits cannot be read"),
        ({"more": 1}, "more cannot be read"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(small_judge: Path, change: dict[str, object], message: str) -> None:
    path = small_judge / "small.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_card("small", small_judge)


def test_without_its_base_it_says_how_to_get_it(small_judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_BASES", str(small_judge / "nowhere"))
    with pytest.raises(UserError, match="em base get smollm2-135m --from gguf"):
        Network("small", small_judge)
    with pytest.raises(UserError, match=r"emlocal/small cannot be used: .* em base get smollm2-135m --from gguf$"):
        calibrate_judge("emlocal/small", 1, small_judge / "calibrations")
    assert not (small_judge / "calibrations").exists()


def test_a_base_that_lacks_tensors_is_refused_by_their_names(small_judge: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bases" / ("gguf-" + "a" * 16) / "model.safetensors"
    save_file({k: t for k, t in load_file(weights).items() if "layers.1.mlp.up" not in k}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"a{16} lacks 1 of its model's parameters \(layers\.1\.mlp\.up_proj\.weight\)"):
        Network("small", small_judge)


def test_a_verdict_is_kept_for_the_weights_and_not_for_the_name(small_judge: Path) -> None:
    def key() -> str:
        return cache_key(get_model("emlocal/small", memoize=False), GenerateConfig(), "rubric", "prompt")

    before = key()
    assert before == key()
    tensors = load_file(small_judge / "small.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, small_judge / "small.safetensors")
    card = json.loads((small_judge / "small.json").read_text())
    card["weights_sha256"] = hashlib.sha256((small_judge / "small.safetensors").read_bytes()).hexdigest()
    (small_judge / "small.json").write_text(json.dumps(card))
    assert key() != before


def test_the_shipped_judge_is_whole_and_small() -> None:
    card, weights = load_card(SHIPPED_JUDGE)
    assert weights.stat().st_size < 15e6
    assert card.splits[0].answers > 10_000
    assert sorted(path.stem for path in SHIPPED.iterdir()) == [SHIPPED_JUDGE] * 2
    with pytest.raises(UserError, match=f"There is: emlocal/{SHIPPED_JUDGE}"):
        load_card("nobody")


@pytest.mark.parametrize("name", REPLACED)
def test_a_judge_that_was_replaced_names_the_one_that_ships(name: str) -> None:
    with pytest.raises(UserError, match=f"was replaced by emlocal/{SHIPPED_JUDGE}, which scores otherwise"):
        load_card(name)
