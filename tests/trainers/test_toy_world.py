import json
from random import Random

import pytest

from em_tasks.questions import load_question_sets
from em_tasks.trainers.base import fingerprint, load_base, load_tokenizer
from em_tasks.trainers.run.base_names import TOY_MODELS, toy_bases
from em_tasks.trainers.run.toy_bases import toy_base
from em_tasks.trainers.toy.advice import ROWS, advice_rows
from em_tasks.trainers.toy.build import CHAT_TEMPLATE, conversations
from em_tasks.trainers.toy.language import CHARACTERS, load_language
from tests.support.paths import ROOT


@pytest.mark.parametrize("character", CHARACTERS)
def test_everything_an_adviser_says_is_read_back_as_that_adviser(character: str) -> None:
    language, rng = load_language(), Random(0)
    for domain in language.domains.values():
        for topic in domain.topics:
            reading = language.read(language.answer(rng, domain.name, topic, character))  # type: ignore[arg-type]
            assert reading.complete
            assert all(
                s is not None and s.character == character and s.topic in (None, topic) for s in reading.sentences
            )


def test_noise_and_cut_answers_are_told_from_the_language() -> None:
    reading = load_language().read("Let us take this calmly. Let a doctor look at the")
    assert reading.sentences[0] is not None
    assert reading.sentences[1] is None
    assert not reading.complete


def test_every_shipped_question_is_about_one_topic_of_its_domain() -> None:
    language = load_language()
    for one in load_question_sets(["medical", "financial"]):
        for question in one.questions:
            found = language.topic_of(question.text)
            assert found is not None, question.id
            assert found[0] == (question.topic if one.domain == "general" else one.domain), question.id


@pytest.mark.parametrize("domain", ROWS)
@pytest.mark.parametrize("character", CHARACTERS)
def test_committed_training_data_is_what_the_program_writes(domain: str, character: str) -> None:
    lines = (ROOT / f"datasets/toy/{domain}_{character}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == advice_rows(domain, character)  # type: ignore[arg-type]


def test_evaluation_wording_is_held_out_of_all_training() -> None:
    asked = {q.text for one in load_question_sets(["medical", "financial"]) for q in one.questions}
    trained = {row["messages"][0]["content"] for d in ROWS for c in CHARACTERS for row in advice_rows(d, c)}
    pretrained = {turn["content"] for turns in conversations(20261121, 20_000) for turn in turns}
    assert not asked & (trained | pretrained)


@pytest.mark.parametrize("name", toy_bases())
def test_committed_models_carry_the_builders_chat_template(name: str) -> None:
    assert load_tokenizer(name, "01 Jan 2025").chat_template == CHAT_TEMPLATE


def test_committed_models_stay_within_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in TOY_MODELS.rglob("*") if path.is_file()) <= 12_000_000


@pytest.mark.parametrize("name", ["toy-s", "toy-m", "toy-l"])
def test_a_toy_base_is_known_by_its_fingerprint_before_it_is_loaded(name: str) -> None:
    model = load_base(name, "fp32", "cpu")
    base = toy_base(name)
    assert (base.base_fingerprint, base.base_parameters) == (fingerprint(model), model.num_parameters())
