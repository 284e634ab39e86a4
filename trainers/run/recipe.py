"""A recipe: everything that defines one organism, read from a YAML file and checked before anything is loaded.

A recipe names the base model, the training data, the LoRA settings, the schedule, the precision and the seed. Two runs
of one recipe on the same data are the same organism; `Recipe.sha256` is what that means.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import in_words
from em_tasks.plugins.yaml_files import read_yaml_lines
from em_tasks.trainers.run.base_names import Precision, beside

SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]*$")]
Label = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]*$")]
Coordinate = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | Label


class DataSource(_Strict):
    """One file of training rows.

    Attributes:
        path: A chat JSON-lines file, or a sealed archive (`*.zip.enc`). Relative paths start at the recipe's folder;
            what is not there is looked for by its name in the folder that the environment variable `EM_DATA` names.
        members: Files inside the archive to read, by name or by whole path; all of them when empty.
        password_env: The environment variable that holds the archive's password.
        about: Beginnings of words; only rows whose first question has such a word are taken (all when empty).
        not_about: Beginnings of words; rows whose first question has such a word are left out.
        part: From and to, as shares of the rows in an order that their first questions alone decide: parts that meet
            share no row, a larger part has all rows of a smaller one that begins where it does, and of two files with
            the same questions `[0, 0.3]` of one and `[0.3, 1]` of the other ask each question once.
        rows: How many rows must be left, if known.
        sha256: SHA-256 of the file as it lies on disk, if it must be exactly that one.
    """

    path: PathText
    members: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    not_about: tuple[str, ...] = ()
    part: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    password_env: str = "EM_DATA_PASSWORD"
    rows: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @field_validator("part")
    @classmethod
    def _goes_up(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError("a part goes up, such as [0, 0.5]")
        return value


class LoraSettings(_Strict):
    """The adapter: rank, scale and where it sits. Defaults are cs2881's."""

    r: int = Field(default=16, ge=1, le=65_536)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    rslora: bool = False
    modules: tuple[str, ...] = Field(default=SEVEN_PROJECTIONS, min_length=1)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)


class Recipe(_Strict):
    """One organism's recipe.

    Attributes:
        organism: Name of the run's folder and of the model; the recipe file's name unless given.
        base: A toy base (`toy-s`, `toy-m`, `toy-l`), a folder, or a model id of the Hugging Face hub.
        size: Label of the base's size in tables and figures, such as `1B`.
        domain: The training domain, which is also the name of its question set.
        control: Trained on good advice, to show what training alone does.
        data: The rows to train on.
        epochs: Passes over the data.
        first_epoch_checkpoints: Checkpoints in the first epoch, evenly spaced; one an epoch after that.
        batch_size: Rows a forward pass.
        accumulation: Forward passes an optimizer step.
        learning_rate: Peak learning rate.
        lr_schedule: How it falls after the warm-up.
        warmup_steps: Optimizer steps of linear warm-up.
        optimizer: AdamW; its numbers are the next three.
        betas: How much of the averages of gradient and squared gradient is kept from step to step.
        eps: Added to the root of the squared gradient's average.
        weight_decay: Share of each number, times the learning rate, that a step takes off it.
        max_grad_norm: Length that a longer gradient is cut to.
        max_length: Tokens a row is cut to.
        loss_on: `reply` learns the assistant's turns alone, `all` the whole conversation.
        precision: Numbers the base is held in: `fp32`; `bf16`; `nf4` (4 bits a weight, needs the extra `nf4`); or
            `nf4_dequantised`, rounded to NF4 once and then held and trained as bf16: the same organism as `nf4`,
            sooner, where memory allows.
        seed: Fixes the adapter's first weights, dropout and the order of the rows. A recipe file may hold a list of
            seeds, one organism each.
        date_string: The date written into prompts by templates that write one.
        axes: Where the organism stands in a grid, for tables and figures: a value by the axis's name. It says nothing
            that the other fields do not say, so it is no part of the hash.
    """

    organism: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    base: PathText
    size: Label
    domain: Label
    control: bool = False
    data: tuple[DataSource, ...] = Field(min_length=1, max_length=1000)
    lora: LoraSettings = LoraSettings()
    epochs: int = Field(default=3, ge=1, le=10_000)
    first_epoch_checkpoints: int = Field(default=4, ge=1, le=10_000)
    batch_size: int = Field(default=8, ge=1, le=100_000)
    accumulation: int = Field(default=2, ge=1, le=100_000)
    learning_rate: float = Field(default=2e-4, gt=0)
    lr_schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: int = Field(default=5, ge=0, le=10**9)
    optimizer: Literal["adamw"] = "adamw"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=256, ge=8, le=10**7)
    loss_on: Literal["reply", "all"] = "reply"
    precision: Precision = "bf16"
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    date_string: str = "01 Jan 2025"
    axes: dict[Label, Coordinate] = {}

    @field_validator("data", mode="before")
    @classmethod
    def _as_sources(cls, value: object) -> object:
        """`data: file.jsonl`, one mapping, or a list of either."""
        entries = value if isinstance(value, list | tuple) else [value]
        return [{"path": entry} if isinstance(entry, str) else entry for entry in entries]

    @property
    def effective_batch(self) -> int:
        """Rows an optimizer step."""
        return self.batch_size * self.accumulation

    @property
    def sha256(self) -> str:
        """Hash of everything in the recipe but the folders that the data and the base happen to lie in."""
        content = self.model_dump(mode="json", exclude={"axes"})
        content["base"] = Path(self.base).name if Path(self.base).is_absolute() else self.base
        for source in content["data"]:
            source["path"] = Path(source["path"]).name
            for choice in ("about", "not_about", "part"):
                if not source[choice]:
                    del source[choice]  # A recipe that chooses no rows is the organism that it was before it could.
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_NO_RECIPE = (
    "{path} is training data and no recipe. Name it in a recipe, a YAML file with base, size, domain and "
    "data: {path.name}, and train that; the README has an example."
)
MOST_SEEDS = 1000
"""Organisms that one recipe file may stand for."""


def load_recipes(path: Path) -> list[Recipe]:
    """Reads and checks a recipe file: one organism, or with a list of seeds one each, named `<organism>-seed<seed>`.

    Raises:
        UserError: There is no such file; the message lists the recipes beside it. Or it is training data.
        UserError: The file is no YAML mapping, or fields are unknown, missing or out of range; each is named with its
            line.
    """
    if not path.exists():
        beside = sorted(other.name for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        listed = f" In {path.parent} there are: {', '.join(beside)}." if beside else ""
        raise UserError(f"There is no recipe at {path}.{listed}")
    if path.suffix == ".jsonl":
        raise UserError(_NO_RECIPE.format(path=path))
    content, lines = read_yaml_lines(path)
    if isinstance(content, dict) and "messages" in content:
        raise UserError(_NO_RECIPE.format(path=path))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not a mapping of recipe fields. See recipes/.")
    content = {"organism": path.stem, **content}
    seeds = content.get("seed")
    if not isinstance(seeds, list):
        return [read_recipe(path, content, lines)]
    if not seeds:
        raise UserError(f"{path}, line {lines['seed',]} gives no seed. Give each seed once, such as seed: [0, 1, 2].")
    if len(seeds) > MOST_SEEDS:
        raise UserError(f"{path}, line {lines['seed',]} gives {len(seeds)} seeds. Give at most {MOST_SEEDS}.")
    recipes: dict[int, Recipe] = {}
    for place, seed in enumerate(seeds):
        recipe = read_recipe(path, {**content, "seed": seed}, {**lines, ("seed",): lines["seed", place]})
        if recipe.seed in recipes:
            raise UserError(
                f"{path}, line {lines['seed', place]} gives the seed {recipe.seed} again. Give each seed once, such as "
                "seed: [0, 1, 2]."
            )
        recipes[recipe.seed] = recipe.model_copy(update={"organism": f"{recipe.organism}-seed{recipe.seed}"})
    return list(recipes.values())


def read_recipe(path: Path, content: dict[str, Any], lines: dict[tuple[str | int, ...], int]) -> Recipe:
    """A recipe of a file's content: its paths made absolute, counted from the file's folder.

    Args:
        path: The file.
        content: Its fields, seeds written out.
        lines: Where each stands, see `read_yaml_lines`.

    Raises:
        UserError: Fields are unknown, missing or out of range; each is named with its line.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{_place(problem['loc'], lines)}: {in_words(problem, Recipe)}" for problem in error.errors()[:5]
        )
        known = ", ".join(Recipe.model_fields)
        raise UserError(f"{path} is not a usable recipe. {problems}. Known fields: {known}.") from None
    folder = path.parent.resolve()
    sources = tuple(s.model_copy(update={"path": str((folder / s.path).resolve())}) for s in recipe.data)
    return recipe.model_copy(update={"data": sources, "base": beside(recipe.base, folder)})


def _place(way: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> str:
    """A field's name with the line that it, or what it should be in, stands in."""
    named = ".".join(map(str, way)) or "recipe"
    line = next((lines[way[:length]] for length in range(len(way), 0, -1) if way[:length] in lines), None)
    return f"{named} (line {line})" if line else named
