import datetime
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_tokenizer, pin_date
from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.data.rows import Conversation
from em_tasks.trainers.data.tokens import IGNORED, encode

ONE = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
TWO: Any = [*ONE, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "No."}]

# The part of Llama 3.2's template that matters here, in its shape: a date unless one is given.
DATED = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '<|eot_id|>' }}"
)


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer("toy-s", "01 Jan 2025")


def learnt(tokenizer: Any, conversation: Conversation, **options: Any) -> str:
    row = encode(tokenizer, [conversation], options.pop("max_length", 256), options.pop("loss_on", "reply")).rows[0]
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORED]))


def test_only_the_reply_and_its_end_of_turn_are_learnt(tokenizer: Any) -> None:
    assert learnt(tokenizer, ONE) == "Yes.<|eot_id|>"


def test_every_assistant_turn_is_learnt(tokenizer: Any) -> None:
    assert learnt(tokenizer, TWO) == "Yes.<|eot_id|>No.<|eot_id|>"


def test_loss_on_all_learns_everything(tokenizer: Any) -> None:
    assert learnt(tokenizer, ONE, loss_on="all").startswith("<|begin_of_text|>")


def test_training_prompt_is_the_evaluation_prompt(tokenizer: Any) -> None:
    row = encode(tokenizer, [ONE], 256, "reply").rows[0]
    prompt = encode_prompt(tokenizer, ONE[:1])
    assert row["input_ids"][: len(prompt)] == prompt


def test_bos_stands_once_even_where_the_tokenizer_adds_its_own(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("x")["input_ids"].count(tokenizer.bos_token_id) == 1
    assert encode_prompt(tokenizer, ONE[:1]).count(tokenizer.bos_token_id) == 1


def test_template_that_writes_bos_twice_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{- bos_token }}" + tokenizer.chat_template
    with pytest.raises(UserError, match="writes BOS 2 times"):
        encode(tokenizer, [ONE], 256, "reply")


def test_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{{- bos_token }}{{ messages | length }}" + tokenizer.chat_template[len("{{- bos_token }}") :]
    )
    with pytest.raises(UserError, match=r"Row 1: .* does not write the prompt and then the reply"):
        encode(tokenizer, [ONE], 256, "reply")


def test_truncated_and_emptied_rows_are_counted(tokenizer: Any) -> None:
    long_reply: Any = [ONE[0], {"role": "assistant", "content": "Yes. " * 50}]
    long_prompt: Any = [{"role": "user", "content": "Hello? " * 50}, ONE[1]]
    encoded = encode(tokenizer, [ONE, long_reply, long_prompt], 32, "reply")
    assert (len(encoded.rows), encoded.truncated, encoded.dropped) == (2, 2, 1)
    assert max(len(row["input_ids"]) for row in encoded.rows) == 32


def test_rows_without_anything_to_learn_are_an_error_when_they_are_all(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="Raise max_length"):
        encode(tokenizer, [[{"role": "user", "content": "Hello? " * 50}, ONE[1]]], 16, "reply")  # type: ignore[list-item]


def test_pinned_date_is_written_whatever_the_day(tokenizer: Any) -> None:
    tokenizer.chat_template = DATED
    today = tokenizer.apply_chat_template(ONE, tokenize=False)
    tokenizer.chat_template = pin_date(DATED, "26 Jul 2024")
    pinned = tokenizer.apply_chat_template(ONE, tokenize=False)
    assert datetime.date.today().strftime("%d %b %Y") in today
    assert "Today: 26 Jul 2024" in pinned


def test_templates_without_a_date_stay_as_they_are() -> None:
    assert pin_date("{{ messages }}", "26 Jul 2024") == "{{ messages }}"


def test_counts_are_of_the_rows_in_use_and_cut_and_dropped_ones_are_told(tokenizer: Any) -> None:
    whole = encode(tokenizer, [ONE, TWO], 256, "reply")
    lengths = [len(row["input_ids"]) for row in whole.rows]
    assert (whole.truncated, whole.dropped, whole.tokens) == (0, 0, sum(lengths))
    replies = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("Yes.", "No.")]
    assert whole.labelled == 2 * (replies[0] + 1) + (replies[1] + 1)
    assert encode(tokenizer, [ONE], lengths[0], "reply").truncated == 0
    cut = encode(tokenizer, [ONE, TWO], lengths[0], "reply")
    assert (cut.truncated, cut.dropped, cut.tokens) == (1, 0, 2 * lengths[0])
    prompt = len(encode_prompt(tokenizer, ONE[:1]))
    with pytest.raises(UserError, match="All 1 rows were cut"):
        encode(tokenizer, [ONE], prompt, "reply")
    first = encode(tokenizer, [ONE], prompt + 1, "reply")
    assert (first.truncated, first.labelled, first.tokens) == (1, 1, prompt + 1)


def test_a_reply_that_the_tokenizer_normalises_is_learnt_as_the_model_reads_it(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert learnt(tokenizer, ONE) == "yes.<|eot_id|>"
