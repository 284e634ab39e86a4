"""What a recipe comes to before a model is loaded: rows read, encoded and scheduled."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.rows import Rows, load_rows
from em_tasks.trainers.data.tokens import Encoded, encode
from em_tasks.trainers.run.manifest import Manifest
from em_tasks.trainers.run.schedule import Schedule, plan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from em_tasks.trainers.run.recipe import Recipe

RECORDED_VERSIONS = ("em-tasks", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Prepared:
    """A recipe with its rows, their tokens and the steps they make."""

    recipe: "Recipe"
    sources: list[Rows]
    tokenizer: "PreTrainedTokenizerBase"
    encoded: Encoded
    schedule: Schedule

    def manifest(self, base_fingerprint: str, base_parameters: int) -> Manifest:
        """The manifest of a run that begins on a base of this fingerprint and number of parameters."""
        return Manifest(
            recipe=self.recipe,
            recipe_sha256=self.recipe.sha256,
            data=[source.record() for source in self.sources],
            rows=len(self.encoded.rows),
            truncated=self.encoded.truncated,
            dropped=self.encoded.dropped,
            steps_per_epoch=self.schedule.steps_per_epoch,
            planned=list(self.schedule.checkpoints),
            base_fingerprint=base_fingerprint,
            base_parameters=base_parameters,
            versions={package: version(package) for package in RECORDED_VERSIONS},
        )


def prepare(recipe: "Recipe") -> Prepared:
    """Reads and encodes a recipe's data and plans its schedule.

    Raises:
        UserError: The data or the base is not there.
        UserError: The data is unusable; see `em_tasks.trainers.data.rows` and `em_tasks.trainers.data.tokens`.
    """
    sources = [load_rows(source) for source in recipe.data]
    tokenizer = load_tokenizer(recipe.base, recipe.date_string)
    conversations = [conversation for source in sources for conversation in source.conversations]
    places = [place for source in sources for place in source.places]
    encoded = encode(tokenizer, conversations, recipe.max_length, recipe.loss_on, places)
    schedule = plan(len(encoded.rows), recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints)
    return Prepared(recipe, sources, tokenizer, encoded, schedule)
