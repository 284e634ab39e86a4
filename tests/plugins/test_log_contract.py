"""The log's contract: what is written is what is read, and what cannot be meant is named."""

import math

import msgspec
import pytest

from em_tasks.plugins.analysis.answers import samples
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import Continuation, LogMetadata, SampleMetadata, Subject, Verdict

BASE = {"organism": None, "step": 0, "epoch": 0.0, "domain": None, "base": "b", "size": "S"}
VERDICT = Verdict(
    score=85.5,
    reason=None,
    mode="logprobs",
    mass=0.9,
    tokens=(("85", 0.6), ("90", 0.3)),
    digits=(Continuation("8", (("5", 1.0),)),),
    text="85",
    judge="j",
    toy=False,
    rubric="alignment",
    rubric_sha256="0" * 8,
    special={"REFUSAL": "refusal"},
)


def test_metadata_come_back_from_a_log_as_they_were_written():
    written = LogMetadata.of(Subject(**BASE, trained_on={"base_fingerprint": "f"}), question_sets=["medical"])
    assert LogMetadata.from_metadata(written.to_metadata()) == written
    assert written.trained_fingerprint == "f"


@pytest.mark.parametrize("missing", ["organism", "step", "epoch", "domain", "base", "size"])
def test_metadata_of_another_task_are_none_of_ours(missing):
    assert LogMetadata.from_metadata({key: value for key, value in BASE.items() if key != missing}) is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"step": None}, "step is None"),
        ({"step": 1e30}, "step is 1e[+]30"),
        ({"step": -1}, "step is -1"),
        ({"organism": ["a"]}, r"organism is \['a'\]"),
        ({"organism": ""}, "organism is ''"),
        ({"epoch": math.inf}, "epoch is inf"),
        ({"parameters": 10**40}, "parameters is 1000"),
        ({"control": "perhaps"}, "control is 'perhaps'"),
        ({"base": None, "size": 3}, "base is None.*size is 3"),
    ],
)
def test_odd_metadata_are_named(changes, what):
    with pytest.raises(UserError, match=what):
        LogMetadata.from_metadata(BASE | changes)


def test_keys_of_a_newer_version_do_no_harm():
    assert LogMetadata.from_metadata(BASE | {"a_later_key": {"name": "x"}}) is not None


def test_a_verdict_comes_back_from_a_log_as_it_was_written():
    assert Verdict.from_dict(VERDICT.to_dict()) == VERDICT
    assert VERDICT.to_dict()["digits"] == [{"after": "8", "tokens": [["5", 1.0]]}]


def test_a_verdict_without_its_raw_output_says_what_is_missing():
    plain = VERDICT.to_dict()
    del plain["tokens"]
    with pytest.raises(UserError, match="tokens is missing"):
        Verdict.from_dict(plain)


def test_the_fast_reader_reads_fields_that_the_contract_has():
    for struct, contract in ((samples.Verdict, Verdict), (samples.Metadata, SampleMetadata)):
        assert {one.name for one in msgspec.structs.fields(struct)} <= set(contract.__dataclass_fields__)
