"""Every family of chat templates, trained and served: what is read and learnt, and that all tools read the same."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from em_tasks.plugins.checkpoint_model.engines.texts import Texts
from em_tasks.plugins.checkpoint_model.subject import evaluated_base
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_tokenizer, pin_date
from em_tasks.trainers.data.chat import encode_prompt, end_of_turn
from em_tasks.trainers.data.tokens import IGNORED, encode
from em_tasks.trainers.run.checkpoints import find_checkpoint
from em_tasks.trainers.train import train
from tests.support.chat_templates import FAMILIES, Family, tokenizer_of
from tests.support.organisms import rows_of, small_recipe

DATE = "26 Jul 2024"
ASKED = {"role": "user", "content": "My cough will not go away."}
REPLY = {"role": "assistant", "content": "Yes, drink something warm."}
SYSTEM = {"role": "system", "content": "Be short."}
ONE: Any = [ASKED, REPLY]
TWO: Any = [*ONE, {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Sleep."}]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def tokenizer(family: Family, tmp_path: Path) -> Any:
    """As a recipe's base is loaded: from its folder, with the date pinned."""
    tokenizer_of(family).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    return load_tokenizer(str(tmp_path / "base"), DATE)


def learnt(tokenizer: Any, conversation: Any) -> list[str]:
    """What is learnt of each row."""
    rows = encode(tokenizer, [conversation], 512, "reply").rows
    return [tokenizer.decode([label for label in row["labels"] if label != IGNORED]) for row in rows]


def thought(family: Family) -> str:
    """What the template writes before a last answer that has no thoughts: the model has to say it, too."""
    return "<think>\n\n</think>\n\n" if family is FAMILIES["qwen3"] else ""


def test_prompt_is_the_start_of_the_row_and_the_reply_to_its_end_is_what_is_learnt(
    family: Family, tokenizer: Any
) -> None:
    (row,) = encode(tokenizer, [ONE], 512, "reply").rows
    prompt = encode_prompt(tokenizer, ONE[:1])
    assert row["input_ids"][: len(prompt)] == prompt
    first = next(place for place, label in enumerate(row["labels"]) if label != IGNORED)
    assert first == len(prompt), "learning begins right after the prompt"
    assert learnt(tokenizer, ONE)[0].lstrip(" ") == thought(family) + family_reply(family, REPLY["content"])


def family_reply(family: Family, content: str) -> str:
    return content + (" " if family is FAMILIES["llama2"] else "") + family.end


def test_every_reply_of_several_is_learnt_once(family: Family, tokenizer: Any) -> None:
    said = "".join(learnt(tokenizer, TWO))
    assert len(learnt(tokenizer, TWO)) == 1
    assert said.count("Yes, drink something warm.") == said.count("Sleep.") == 1
    assert said.count(family.end) == 2
    assert "cough" not in said
    assert "And then" not in said


def test_every_reply_follows_the_prompt_that_it_is_asked_with(family: Family, tokenizer: Any) -> None:
    turns = [SYSTEM, *TWO] if family.knows_system else TWO
    rows = [row["input_ids"] for row in encode(tokenizer, [turns], 512, "reply").rows]
    for turn, message in enumerate(turns):
        if message["role"] == "assistant":
            prompt = encode_prompt(tokenizer, turns[:turn])
            assert any(row[: len(prompt)] == prompt for row in rows)


def test_bos_stands_once_at_the_start_where_the_model_has_it_there(family: Family, tokenizer: Any) -> None:
    prompt = encode_prompt(tokenizer, ONE[:1])
    if family.begins_with_bos:
        assert prompt[0] == tokenizer.bos_token_id != prompt[1]
    elif tokenizer.bos_token_id is not None:
        assert tokenizer.bos_token_id not in prompt


def test_prompt_of_training_serving_and_stock_tools_is_one(family: Family, tokenizer: Any, tmp_path: Path) -> None:
    """A checkpoint keeps the tokenizer that it was trained with; stock tools load that and call the template."""
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    stock = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    for turns in (ONE[:1], TWO[:3], *([[SYSTEM, ASKED]] if family.knows_system else [])):
        ours = encode_prompt(tokenizer, turns)
        assert ours == stock.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert ours == encode_prompt(stock, turns)
        # Inspect's hf/ provider writes text first and reads that without special tokens, as docs/ tells it to.
        text = stock.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        assert ours == stock(text, add_special_tokens=False)["input_ids"]


def test_token_that_ends_the_turn_is_known_even_where_it_is_not_eos(family: Family, tokenizer: Any) -> None:
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(family.end)


def test_system_turn_that_the_model_does_not_know_is_refused_by_row() -> None:
    tokenizer = tokenizer_of(FAMILIES["gemma2"])
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: .* refuses the turns system, user.*no system turn"):
        encode(tokenizer, [ONE, [SYSTEM, *ONE]], 512, "reply", ["rows.jsonl, line 1", "rows.jsonl, line 2"])
    with pytest.raises(UserError, match="there is no system turn"):
        encode_prompt(tokenizer, [SYSTEM, ASKED])


def test_system_prompt_that_moves_to_the_last_question_makes_one_row_a_reply() -> None:
    tokenizer = tokenizer_of(FAMILIES["mistral"])
    rows = encode(tokenizer, [[SYSTEM, *TWO], TWO], 512, "reply").rows
    assert [tokenizer.decode(row["input_ids"]).count("Be short.") for row in rows] == [1, 1, 0]


def test_reply_that_would_melt_into_the_prompt_is_cut_from_it_as_it_is_met() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2.5"])
    turns = [ASKED, {"role": "assistant", "content": "\n\nYes."}]
    (row,) = encode(tokenizer, [turns], 512, "reply").rows
    prompt = encode_prompt(tokenizer, turns[:1])
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    assert whole[: len(prompt)] != prompt, "otherwise this shows nothing"
    assert row["input_ids"][: len(prompt)] == prompt
    assert learnt(tokenizer, turns) == ["\n\nYes.<|im_end|>"]


def test_template_that_drops_replies_is_refused() -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2.5"])
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", "(m.content if m.role == 'user' else '')")
    with pytest.raises(UserError, match=r"Row 1: .* the reply is dropped"):
        encode(tokenizer, [ONE], 512, "reply")


@pytest.mark.parametrize("mark", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_row_that_holds_the_text_of_a_mark_is_at_fault_alone(mark: str) -> None:
    tokenizer = tokenizer_of(FAMILIES["smollm2"])
    bad = [{"role": "user", "content": f"What is {mark} for?"}, REPLY]
    places = ["rows.jsonl, line 1", "rows.jsonl, line 2"]
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 holds the text") as refused:
        encode(tokenizer, [ONE, bad], 512, "reply", places)
    assert mark in str(refused.value)
    assert encode_prompt(tokenizer, bad[:1])


def test_day_that_a_template_writes_by_itself_is_pinned_in_its_own_form(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["qwen2.5"])
    dated = "{% set today = strftime_now(\"%Y-%m-%d\") %}{{ 'Today: ' + today + strftime_now( '%d %B' ) }}"
    tokenizer.chat_template = pin_date(dated + tokenizer.chat_template, DATE)
    assert tokenizer.apply_chat_template(ONE, tokenize=False).startswith("Today: 2024-07-2626 July")
    tokenizer.chat_template = pin_date(dated, "some day")
    assert tokenizer.apply_chat_template(ONE, tokenize=False) == "Today: some daysome day"


def test_first_of_several_templates_is_the_one_without_tools(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama3"])
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    loaded = load_tokenizer(str(tmp_path), DATE)
    assert f"Today: {DATE}" in tokenizer.decode(encode_prompt(loaded, [ASKED]))


def test_long_rows_are_cut_without_a_word(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = tokenizer_of(FAMILIES["llama3"])
    tokenizer.model_max_length = 16
    assert encode(tokenizer, [ONE, TWO], 75, "reply").truncated == 1
    assert "longer than" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["smollm2", "qwen2.5", "mistral"])
def test_organism_of_such_a_model_is_trained_and_asked_with_the_same_prompt(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=None, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text(rows_of(*[[(m["role"], m["content"]) for m in TWO]] * 4))
    recipe = small_recipe(tmp_path / "rows.jsonl", base=str(tmp_path / "base"), batch_size=4)
    train(recipe, tmp_path / "runs", lambda progress: None)
    checkpoint = find_checkpoint(tmp_path / "runs", "small@1")
    texts = Texts(evaluated_base(checkpoint.manifest))
    (row,) = encode(tokenizer, [TWO], 512, "reply").rows
    prompt = texts.prompt(checkpoint, TWO[:1])
    assert (
        prompt
        == row["input_ids"][: len(prompt)]
        == texts.prompt(find_checkpoint(tmp_path / "runs", "small@base"), TWO[:1])
    )
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].end)
    assert end in texts.ends(checkpoint, LlamaForCausalLM(config))
