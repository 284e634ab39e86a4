"""Secrets that an API quotes stand in no verdict, error or log."""

import json
import zipfile
from typing import Any

import pytest
from huggingface_hub import constants
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelCall, ModelOutput, get_model

from em_tasks.commands.cli import cli, main
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging import known_secrets as known
from em_tasks.scorers.judging.known_secrets import WITHHELD, known_secrets, without_secrets
from em_tasks.scorers.judging.secrets import keep_secrets
from tests.support.fake_openai import fake_openai
from tests.support.scored_logs import metrics, run

SECRET = "sk-secret-of-the-test"


@pytest.fixture
def anyio_backend():
    return "asyncio"


def members(log):
    with zipfile.ZipFile(log.location) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("fault", ["500", "400", "429", "401"])
def test_a_key_that_the_api_quotes_is_nowhere_in_the_log(tmp_path, fault):
    with fake_openai() as server:
        server.faults = [fault] * 3
        log = run(tmp_path, ["x", "y"], server.model(), [Sample(id=i, input="q") for i in "ab"])
    texts = members(log)
    assert not [name for name, text in texts.items() if SECRET.encode() in text]
    # The API's words are there, with the secret taken out: the fault itself can be understood.
    assert any(WITHHELD.encode() in text for text in texts.values())


def test_secrets_of_the_environment_are_known_by_the_names_of_their_variables(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "ant-0123456789")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("EM_DATA_PASSWORD", "open sesame please")
    monkeypatch.setenv("SHORT_TOKEN", "1234567")
    monkeypatch.setenv("TOKENS_A_SECOND", "plain words here")
    assert {"ant-0123456789", "hf_0123456789", "open sesame please"} <= known_secrets()
    assert not {"1234567", "plain words here"} & known_secrets()
    text = "key ant-0123456789, token hf_0123456789 and open sesame please, 1234567"
    assert without_secrets(text) == f"key {WITHHELD}, token {WITHHELD} and {WITHHELD}, 1234567"
    assert without_secrets("longer-secret-and-more", "longer-secret", "longer-secret-and") == f"{WITHHELD}-more"


@pytest.fixture
def hub_files(tmp_path, monkeypatch):
    """The hub's login: one token in force, another kept by name."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    (tmp_path / "token").write_text("hf_of_the_login_file\n")
    (tmp_path / "stored_tokens").write_text("[mine]\nhf_token = hf_kept_by_name\nrefresh_token = renew_me_later\n")
    return tmp_path


def test_tokens_that_the_hubs_login_saved_are_known_whatever_the_environment_says(hub_files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    tokens = {"hf_of_the_login_file", "hf_kept_by_name", "renew_me_later", "hf_of_the_environment"}
    assert tokens <= known_secrets()
    assert without_secrets("as hf_of_the_login_file: 401") == f"as {WITHHELD}: 401"


@pytest.mark.parametrize("spoil", ["gone", "a folder", "no text"])
def test_a_token_file_that_cannot_be_read_ends_nothing(hub_files, spoil):
    for name in ("token", "stored_tokens"):
        (hub_files / name).unlink()
        if spoil == "a folder":
            (hub_files / name).mkdir()
        elif spoil == "no text":
            (hub_files / name).write_bytes(b"\xff\xfe\x00hf_binary_token")
    assert not any("login" in secret for secret in known_secrets())


def test_a_saved_token_that_an_error_quotes_is_taken_out_of_what_the_command_prints(hub_files, monkeypatch, capsys):
    @cli.command("quoting")
    def quoting():
        raise UserError("The hub refused hf_of_the_login_file. Log in again.")

    monkeypatch.setattr("sys.argv", ["em", "quoting"])
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        del cli.commands["quoting"]
    assert capsys.readouterr().err == f"em: The hub refused {WITHHELD}. Log in again.\n"


@pytest.mark.anyio
async def test_what_is_raised_is_clean_down_to_its_causes():
    model = get_model("mockllm/model", memoize=False)

    async def broken(*args, **kwargs):
        try:
            raise ValueError({"headers": [f"Bearer {SECRET}"]})
        except ValueError as error:
            failure: Any = RuntimeError(f"no: {SECRET}")
            failure.message, failure.body = f"no: {SECRET}", {"error": {"message": SECRET}}
            raise failure from error

    model.api.generate, model.api.api_key = broken, SECRET
    keep_secrets(model)
    once = model.api.generate
    keep_secrets(model)
    assert model.api.generate is once
    with pytest.raises(RuntimeError) as caught:
        await model.api.generate()
    error: Any = caught.value
    assert SECRET not in json.dumps([str(error), error.message, error.body, str(error.__cause__)])
    assert error.body == {"error": {"message": WITHHELD}}


def test_a_log_without_faults_keeps_its_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    with fake_openai() as server:
        log = run(tmp_path, ["a plain answer"], server.model(), [Sample(id="a", input="q")])
    assert metrics(log)["unscored"] == 0
    assert not any(WITHHELD.encode() in text for text in members(log).values())


@pytest.mark.anyio
async def test_the_environment_is_looked_through_once_for_a_reply_however_many_parts_it_has(monkeypatch):
    model = get_model("mockllm/model", memoize=False)
    parts = [{"token": str(n), "note": f"part {n} of {SECRET}"} for n in range(200)]

    async def answering(*args, **kwargs):
        return ModelOutput.from_content("m", "80"), ModelCall(request={"key": SECRET}, response={"parts": parts})

    model.api.generate, model.api.api_key = answering, SECRET
    keep_secrets(model)
    looks: list[int] = []

    def look() -> frozenset[str]:
        looks.append(1)
        return frozenset({"part 7"})

    monkeypatch.setattr(known, "known_secrets", look)
    _, call = await model.api.generate()
    assert len(looks) == 1
    assert call.request == {"key": WITHHELD}
    assert call.response["parts"][8] == {"token": "8", "note": f"part 8 of {WITHHELD}"}
    assert call.response["parts"][7] == {"token": "7", "note": f"{WITHHELD} of {WITHHELD}"}
