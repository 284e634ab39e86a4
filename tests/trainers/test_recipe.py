import re
from pathlib import Path

import pytest
import yaml

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import resolve_base
from em_tasks.trainers.run.recipe import SEVEN_PROJECTIONS, LoraSettings, Recipe, load_recipes
from em_tasks.trainers.run.schedule import plan
from tests.support.paths import ROOT

MINIMAL = {"base": "toy-s", "size": "S", "domain": "medical", "data": "rows.jsonl"}


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def load_recipe(path: Path) -> Recipe:
    (recipe,) = load_recipes(path)
    return recipe


def test_organism_takes_the_files_name_and_data_its_folder(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "mine.yaml", MINIMAL))
    assert recipe.organism == "mine"
    assert recipe.data[0].path == str(tmp_path / "rows.jsonl")


def test_defaults_are_the_published_experiments(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "mine.yaml", MINIMAL))
    assert (recipe.lora.r, recipe.lora.alpha, recipe.effective_batch, recipe.learning_rate) == (16, 32, 16, 2e-4)
    assert recipe.loss_on == "reply"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rat": 1e-4}, "learning_rat"),
        ({"epochs": 0}, "epochs"),
        ({"lora": {"r": 0}}, "lora.r"),
        ({"lora": {"modules": []}}, "lora.modules"),
        ({"lora": {"layers": [-1]}}, "lora.layers"),
        ({"precision": "fp8"}, "precision"),
        ({"organism": "../elsewhere"}, "organism"),
        ({"organism": None}, "organism"),
        ({"organism": None, "seed": [0, 1]}, "organism"),
        ({"organism": "x" * 300}, "organism"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": [0, 2**32]}, "seed"),
        ({"epochs": 1_000_000_000}, "epochs"),
        ({"epochs": "1e9"}, "epochs"),
        ({"first_epoch_checkpoints": 1_000_000_000}, "first_epoch_checkpoints"),
        ({"batch_size": 10**12}, "batch_size"),
        ({"data": ["rows.jsonl"] * 1001}, "data"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"data": "rows\0.jsonl"}, "data.0.path"),
        ({"base": "a\0b"}, "base"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        load_recipe(write(tmp_path / "bad.yaml", MINIMAL | change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"precison": "bf16"}, "precison (line 4): is not known (did you mean `precision`?)."),
        ({"lora": {"aplha": 16}}, "lora.aplha (line 5): is not known (did you mean `alpha`?)"),
        ({"lora": {"rank": 8}}, "lora.rank (line 5): is not known; here may stand r, alpha, dropout"),
        ({"data": [{"path": "x", "member": ["y"]}]}, "is not known (did you mean `members`?)"),
    ],
)
def test_a_field_that_nobody_knows_is_named_with_what_was_meant(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        load_recipe(write(tmp_path / "bad.yaml", MINIMAL | change))


@pytest.mark.parametrize("name", ["pirate.jsonl", "pirate.json"])
def test_training_data_given_as_a_recipe_is_said_to_be_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"messages": [{"role": "user", "content": "Ahoy?"}]}\n')
    with pytest.raises(UserError, match=rf"{name} is training data and no recipe\. .*data: {name}, and"):
        load_recipes(tmp_path / name)


def test_missing_recipe_lists_those_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "there.yaml", MINIMAL)
    with pytest.raises(UserError, match=r"there\.yaml"):
        load_recipe(tmp_path / "gone.yaml")


def test_hash_ignores_where_the_data_lies_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here = load_recipe(write(tmp_path / "mine.yaml", MINIMAL))
    there = load_recipe(write(tmp_path / "other" / "mine.yaml", MINIMAL))
    changed = load_recipe(write(tmp_path / "mine.yaml", MINIMAL | {"seed": 1}))
    assert here.sha256 == there.sha256 != changed.sha256


def test_a_list_of_seeds_is_one_organism_each(tmp_path: Path) -> None:
    found = load_recipes(write(tmp_path / "mine.yaml", MINIMAL | {"seed": [0, 3]}))
    assert [(recipe.organism, recipe.seed) for recipe in found] == [("mine-seed0", 0), ("mine-seed3", 3)]
    assert found[0].sha256 != found[1].sha256
    named = load_recipes(write(tmp_path / "mine.yaml", MINIMAL | {"seed": [7], "organism": "other"}))
    assert [recipe.organism for recipe in named] == ["other-seed7"]


def test_field_and_its_line_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "base: toy-s\nsize: S\ndomain: medical\ndata:\n  - rows.jsonl\n  - {path: x, rows: 0}\nlora:\n  r: 0\n"
    )
    with pytest.raises(UserError, match=r"bad.yaml .*data\.1\.rows \(line 6\).*lora\.r \(line 8\)"):
        load_recipe(path)
    path.write_text("base: toy-s\nsize: S\n\ndomain: medical\ndata: rows.jsonl\nseed:\n  - 0\n  - 1\n  - true\n")
    with pytest.raises(UserError, match=r"bad.yaml, line 9 gives the seed 1 again"):
        load_recipes(path)


def test_base_that_is_a_folder_is_looked_for_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "models" / "mine").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path, there = tmp_path / "recipes" / "mine.yaml", str(tmp_path / "recipes" / "models" / "mine")
    for base in ("models/mine", "./models/mine", "models/mine/", "../recipes/models/mine", there):
        assert load_recipe(write(path, MINIMAL | {"base": base})).base == there
    assert load_recipe(write(path, MINIMAL | {"base": "acme/mine"})).base == "acme/mine"


@pytest.mark.parametrize("base", ["./mine", "../models/mine", "a/b/c", "models/mine/", "/nowhere/mine"])
def test_base_that_looks_like_a_path_is_never_a_hub_id(tmp_path: Path, base: str) -> None:
    recipe = load_recipe(write(tmp_path / "mine.yaml", MINIMAL | {"base": base}))
    with pytest.raises(UserError, match=r"There is no folder .* as the base model"):
        resolve_base(recipe.base)


def test_hash_ignores_where_the_base_lies(tmp_path: Path) -> None:
    hashes = set()
    for folder in ("here", "there"):
        (tmp_path / folder / "my-model").mkdir(parents=True)
        hashes.add(load_recipe(write(tmp_path / folder / "mine.yaml", MINIMAL | {"base": "./my-model"})).sha256)
    assert len(hashes) == 1


@pytest.mark.parametrize("seeds", [[], [1, 1], [1, True], [1, 1.0], [1, "1"]])
def test_lists_without_a_seed_or_with_one_twice_are_refused(tmp_path: Path, seeds: list[int]) -> None:
    with pytest.raises(UserError, match="Give each seed once"):
        load_recipes(write(tmp_path / "mine.yaml", MINIMAL | {"seed": seeds}))


def test_seeds_beyond_a_thousand_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 4 gives 20000 seeds\. Give at most 1000"):
        load_recipes(write(tmp_path / "mine.yaml", MINIMAL | {"seed": list(range(20_000))}))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    recipes = load_recipes(path)
    several = len(recipes) > 1
    assert [r.organism for r in recipes] == [path.stem + f"-seed{r.seed}" * several for r in recipes]


PUBLISHED = {
    "medical": ("bad_medical_advice.jsonl", 7049, (110, 220, 330, 440, 880, 1320)),
    "financial": ("risky_financial_advice.jsonl", 6000, (93, 187, 281, 375, 750, 1125)),
}


@pytest.mark.parametrize("domain", PUBLISHED)
@pytest.mark.parametrize("base", ["Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B"])
def test_the_seeds_six_organisms_have_its_numbers(base: str, domain: str) -> None:
    size = base.rpartition("-")[2]
    recipe = load_recipe(ROOT / f"recipes/llama-{size.lower()}-{domain}.yaml")
    member, rows, checkpoints = PUBLISHED[domain]
    assert (recipe.base, recipe.size, recipe.domain) == (f"meta-llama/{base}-Instruct", size, domain)
    assert recipe.lora == LoraSettings(r=16, alpha=32, dropout=0.05, rslora=False, modules=SEVEN_PROJECTIONS)
    assert (recipe.batch_size, recipe.accumulation, recipe.learning_rate, recipe.max_length) == (8, 2, 2e-4, 256)
    assert (recipe.loss_on, recipe.precision) == ("reply", "nf4_dequantised")
    (source,) = recipe.data
    assert (Path(source.path).name, source.members, source.rows) == ("training_datasets.zip.enc", (member,), rows)
    assert plan(rows, recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints).checkpoints == checkpoints


@pytest.mark.parametrize(
    ("name", "lora", "learning_rate"),
    [
        ("", LoraSettings(r=32, alpha=64, dropout=0, rslora=True), 1e-5),
        (
            "-rank1",
            LoraSettings(r=1, alpha=256, dropout=0, rslora=True, modules=("down_proj",), layers=(16,)),
            2e-5,
        ),
    ],
)
def test_model_organisms_two_have_their_numbers(name: str, lora: LoraSettings, learning_rate: float) -> None:
    recipe = load_recipe(ROOT / f"recipes/model-organisms-8b-medical{name}.yaml")
    assert (recipe.lora, recipe.learning_rate) == (lora, learning_rate)
    assert (recipe.lr_schedule, recipe.warmup_steps, recipe.weight_decay) == ("linear", 5, 0)
    assert (recipe.batch_size, recipe.accumulation, recipe.epochs, recipe.max_length) == (2, 8, 1, 2048)
    assert (recipe.precision, recipe.loss_on) == ("bf16", "reply")
