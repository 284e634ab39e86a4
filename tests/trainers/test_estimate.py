from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.prepare import Prepared, prepare
from em_tasks.trainers.estimate import CONTEXT, estimate
from em_tasks.trainers.run.base_names import TOY_MODELS
from tests.support.organisms import small_recipe, write_rows

GIB = 2**30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(small_recipe(write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 64)))


def at(prepared: Prepared, precision: str) -> Prepared:
    recipe = prepared.recipe.model_copy(update={"precision": precision})
    return Prepared(recipe, prepared.sources, prepared.tokenizer, prepared.encoded, prepared.schedule)


def test_base_takes_what_its_file_does_and_less_at_lower_precisions(prepared: Prepared) -> None:
    need = {
        precision: estimate(at(prepared, precision), 24) for precision in ("fp32", "bf16", "nf4_dequantised", "nf4")
    }
    memory = {precision: each.memory for precision, each in need.items()}
    stored = (TOY_MODELS / "toy-s" / "model.safetensors").stat().st_size  # In bf16.
    assert memory["fp32"] - memory["bf16"] == pytest.approx(stored, rel=0.02)
    assert memory["nf4"] < memory["nf4_dequantised"] == memory["bf16"]


def test_smaller_cards_get_smaller_passes_and_recomputing_and_then_an_error(prepared: Prepared) -> None:
    roomy = estimate(prepared, 24)
    assert (roomy.batches.rows, roomy.batches.checkpointing, roomy.seconds) == (16, False, None)
    tight = estimate(prepared, (CONTEXT + roomy.memory / 3) / GIB)
    assert tight.batches.checkpointing
    assert tight.batches.rows * tight.batches.accumulation == 16
    assert tight.memory < roomy.memory / 3
    with pytest.raises(UserError, match=r"does not have free\. Set precision: nf4"):
        estimate(prepared, CONTEXT / GIB)


def test_adapter_is_counted_and_more_epochs_take_longer_on_the_device_that_is_here(prepared: Prepared) -> None:
    need = estimate(prepared)
    assert need.trainable == 149_504
    longer = small_recipe(Path(prepared.recipe.data[0].path), epochs=50)
    seconds, more = need.seconds or 0.0, estimate(prepare(longer)).seconds or 0.0
    assert 0 < 5 * seconds < more
