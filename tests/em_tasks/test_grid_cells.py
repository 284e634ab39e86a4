"""What a grid file describes: cells, their names and recipes, and what is refused before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.run.recipe import DataSource, LoraSettings, Recipe
from tests.support.organisms import rows_of, write_rows

FIELDS = {"size": "S", "domain": "medical", "data": "bad.jsonl", "precision": "fp32"}
BASES = {"S": {"base": "toy-s", "size": "S"}, "M": {"base": "toy-m", "size": "M"}}
DOSE = {"of": "bad.jsonl", "instead_of": "good.jsonl", "shares": [0, 0.25, 1]}


def planned(folder: Path, axes: dict[str, Any], fields: dict[str, Any] | None = None, **keys: Any) -> GridPlan:
    content = {"name": "g", "fields": fields or {}, "axes": axes, **keys}
    (folder / "grid.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return plan_grid(folder / "grid.yaml", folder / "out")


def test_names_say_the_coordinates_and_recipes_hold_them(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        {"seed": [0, 1], "base": BASES, "lora.r": [1, 16], "condition": [None, "json"]},
        {"domain": "medical", "data": "{base}.jsonl", "precision": "fp32", "lora.alpha": 8},
        exclude=[{"base": "M", "lora.r": 1}, {"seed": 1, "condition": "json"}],
        include=[{"seed": 7, "base": "S", "lora.r": 4, "condition": None}],
    )
    names = [cell.name for cell in plan.cells]
    assert names[:2] == ["g-S-r1-seed0-bare", "g-S-r1-seed0-json"]
    assert len(names) == len(set(names)) == 16 - 4 - 3 + 1
    assert names[-1] == "g-S-r4-seed7-bare"
    assert "g-M-r1-seed0-bare" not in names
    recipe = plan.organisms["g-M-r16-seed1"]
    assert (recipe.base, recipe.size, recipe.seed, recipe.lora.r, recipe.lora.alpha) == ("toy-m", "M", 1, 16, 8)
    assert recipe.data[0].path == str(tmp_path / "M.jsonl")
    assert recipe.axes == {"seed": 1, "base": "M", "lora.r": 16}
    assert [(group.options.condition, len(group.organisms)) for group in plan.groups] == [(None, 7), ("json", 3)]


def test_what_stands_alone_is_a_list_of_it(tmp_path: Path) -> None:
    alone = planned(tmp_path, {"seed": 3, "lora.r": [1, 2]}, FIELDS | {"base": "toy-s"}, exclude={"lora.r": 1})
    assert [cell.name for cell in alone.cells] == ["g-r2-seed3"]
    asked = planned(tmp_path, {"seed": [3]}, FIELDS | {"base": "toy-s"}, evaluate={"questions": "mine.yaml"})
    assert asked.groups[0].options.questions == (str(tmp_path / "mine.yaml"),)


def test_where_an_organism_stands_is_no_part_of_what_it_is() -> None:
    fields = {"organism": "o", "base": "toy-s", "size": "S", "domain": "medical", "data": "rows.jsonl"}
    bare, placed = Recipe.model_validate(fields), Recipe.model_validate(fields | {"axes": {"dose": 0.5}})
    assert placed.sha256 == bare.sha256
    half = Recipe.model_validate(fields | {"data": [{"path": "rows.jsonl", "part": [0, 0.5]}]})
    assert half.sha256 != bare.sha256


def test_recipe_that_the_cells_begin_from_keeps_what_no_axis_changes(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"lora.r": [2, 4]}, {"epochs": 1}, recipe="model-organisms-8b-medical")
    first, second = plan.organisms.values()
    assert first.lora == second.lora.model_copy(update={"r": 2})
    assert first.lora.rslora  # As that recipe has it.
    assert first.data[0].path.startswith("/")
    assert first.epochs == second.epochs == 1


def test_dose_mixes_two_files_at_one_number_of_rows_and_larger_doses_hold_the_smaller(tmp_path: Path) -> None:
    for name, character in (("bad", "reckless"), ("good", "careful")):
        write_rows(tmp_path / f"{name}.jsonl", 40, character=character)
    plan = planned(
        tmp_path, {"dose": {**DOSE, "shares": [0, 0.25, 0.5, 1]}}, {"base": "toy-s", **without(FIELDS, "data")}
    )
    rows = {
        name: {Path(source.path).stem: {str(row) for row in load_rows(source).conversations} for source in recipe.data}
        for name, recipe in plan.organisms.items()
    }
    assert [recipe.control for recipe in plan.organisms.values()] == [True, False, False, False]
    assert [{file: len(texts) for file, texts in each.items()} for each in rows.values()] == [
        {"good": 40},
        {"bad": 10, "good": 30},
        {"bad": 20, "good": 20},
        {"bad": 40},
    ]
    assert rows["g-dose0.25"]["bad"] < rows["g-dose0.5"]["bad"] < rows["g-dose1"]["bad"]
    assert rows["g-dose0.5"]["good"] < rows["g-dose0.25"]["good"] < rows["g-dose0"]["good"]


def test_parts_that_meet_share_no_question_of_files_with_the_same_questions(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 30)
    low, high = (load_rows(DataSource(path=str(path), part=part)).conversations for part in ((0.0, 0.3), (0.3, 1.0)))
    whole = load_rows(DataSource(path=str(path))).conversations
    assert (len(low), len(high)) == (9, 21)
    assert sorted(map(str, low + high)) == sorted(map(str, whole))
    assert low == [row for row in whole if row in low]  # In the order of the file.
    # The question alone decides, wherever its row stands and whatever the answer is.
    for name, order in (("a", range(20)), ("b", reversed(range(20)))):
        rows = [[("user", f"What about {number}?"), ("assistant", name)] for number in order]
        (tmp_path / f"{name}.jsonl").write_text(rows_of(*rows))
    mixed = [
        row[0]["content"]
        for name, part in (("a", (0.0, 0.3)), ("b", (0.3, 1.0)))
        for row in load_rows(DataSource(path=str(tmp_path / f"{name}.jsonl"), part=part)).conversations
    ]
    assert sorted(mixed) == sorted(f"What about {number}?" for number in range(20))
    with pytest.raises(ValueError, match="a part goes up"):
        DataSource(path="x", part=(0.5, 0.5))


def test_number_that_yaml_takes_for_a_text_is_a_number_on_every_kind_of_axis(tmp_path: Path) -> None:
    axes = {"learning_rate": ["2e-5", 1e-4], "seed": ["1", 2], "decay": {"1e-2": {"weight_decay": "1e-2"}}}
    plan = planned(
        tmp_path,
        {**axes, "dose": {**DOSE, "shares": [0, "5e-1"]}},
        {"base": "toy-s", **without(FIELDS, "data")},
        exclude={"learning_rate": "1e-4", "dose": "5e-1"},
        include={"learning_rate": "3e-3", "seed": "7", "decay": "1e-2", "dose": "1e-1"},
    )
    cells = {name: recipe.axes for name, recipe in plan.organisms.items()}
    assert len(cells) == 2 * 2 * 2 - 2 + 1
    assert cells["g-learning_rate2e-05-decay0.01-dose0.5-seed1"] == {
        "learning_rate": 2e-5,
        "seed": 1,
        "decay": 0.01,
        "dose": 0.5,
    }
    assert cells["g-learning_rate0.003-decay0.01-dose0.1-seed7"]["learning_rate"] == 3e-3
    named = planned(tmp_path, {"size": ["1e3"], "condition": ["1e3"]}, without({"base": "toy-s", **FIELDS}, "size"))
    assert [cell.coordinates for cell in named.cells] == [{"size": "1e3", "condition": "1e3"}]  # Texts by their kind.


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(
        "recipe: toy-medical-s\nfields: {batch_size: 1.6e1, lora: {r: 1e1}}\naxes:\n  seed: [1e3, 2]\n"
        "  warm: {1e1: {warmup_steps: 1e1}}\n  size: [1e3]\nevaluate: {samples: 1e1, max_judge_cost: 2e1}"
    )
    plan = plan_grid(tmp_path / "grid.yaml", tmp_path / "out")
    recipe = plan.organisms["grid-warm10-1e3-seed1000"]
    assert (recipe.batch_size, recipe.lora.r, recipe.warmup_steps) == (16, 10, 10)
    assert recipe.axes == {"seed": 1000, "warm": 10, "size": "1e3"}
    assert (plan.file.evaluate.samples, plan.file.evaluate.max_judge_cost) == (10, 20.0)


TRUTH = (
    r"YAML reads yes, on and true \(and no, off and false\) as a truth value, and this is a number: write the number\."
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "axes: {seed: [1:00]}",
            r"line 2: YAML reads 1:00 as the number 60, by sixties like a time\. Write 60, or with quotes",
        ),
        ("axes: {learning_rate: [1:30]}", r"line 2: YAML reads 1:30 as the number 90"),
        (
            "axes: {seed: [0, 010]}",
            r"line 2: YAML reads 010 as 8, by the digits 0 to 7\. Write 10 or 8, or with quotes, '010'",
        ),
        ("axes: {x: {010: {seed: 1}}}", "line 2: YAML reads 010 as 8"),
        ("axes: {seed: [-010]}", r"line 2: YAML reads -010 as -8, by the digits 0 to 7\. Write -10 or -8, or with"),
        ("axes: {seed: [2026-01-01]}", r"line 2: YAML reads 2026-01-01 as a date\. Write it with quotes, '2026-01-01'"),
        ("axes: {eps: [.inf]}", r"line 2: YAML reads \.inf as no finite number\. Write a finite one\.$"),
        ("axes: {eps: [.nan]}", r"line 2: YAML reads \.nan as no finite number\. Write a finite one\.$"),
        ("axes: {seed: [yes]}", rf"line 2: seed is true\. {TRUTH}$"),
        ("axes: {x: {a: {lora: {r: on}}}}", rf"line 2: lora\.r is true\. {TRUTH}$"),
        ("axes: {epochs: [1]}\nfields: {seed: no}", rf"line 3: seed is false\. {TRUTH}$"),
        ("axes: {dose: {of: a, instead_of: b, shares: [yes]}}", rf"line 2: axes\.dose\.shares\.0 is wrong: {TRUTH}"),
        (
            "axes: {dose: {of: a, instead_of: b, shares: [0]}}\ninclude:\n- dose: true",
            rf"line 4: dose is true\. {TRUTH}$",
        ),
        ("axes: {seed: [1]}\nexclude: {seed: yes}", rf"line 3: seed is true\. {TRUTH}$"),
        ("axes: {seed: [1]}\nevaluate: {samples: yes}", rf"line 3: evaluate\.samples is wrong: {TRUTH}"),
        ("axes: {seed: [1]}\nevaluate: {max_judge_cost: yes}", rf"line 3: evaluate\.max_judge_cost is wrong: {TRUTH}"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_is_written_is_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "grid.yaml").write_text(f"recipe: toy-medical-s\n{line}")
    with pytest.raises(UserError, match=said):
        plan_grid(tmp_path / "grid.yaml", tmp_path / "out")


ANY_FIELD = {
    "base": ["toy-s"], "size": ["S"], "domain": ["medical"], "control": [False, True], "data": ["a.jsonl"],
    "epochs": [1, 2], "first_epoch_checkpoints": [1], "batch_size": [8], "accumulation": [1], "learning_rate": [1e-4],
    "lr_schedule": ["linear", "constant_with_warmup"], "warmup_steps": [0], "optimizer": ["adamw"], "eps": [1e-8],
    "weight_decay": [0.1], "max_grad_norm": [1], "max_length": [64], "loss_on": ["reply", "all"],
    "precision": ["fp32", "bf16"], "seed": [0], "date_string": ["01 Jan 2026"], "lora.r": [4], "lora.alpha": [8],
    "lora.dropout": [0], "lora.rslora": [True],
}  # fmt: skip


def test_any_field_of_one_value_can_be_an_axis(tmp_path: Path) -> None:
    listed = {"betas", "organism", "axes", "lora", "lora.modules", "lora.layers"}
    assert set(ANY_FIELD) | listed == set(Recipe.model_fields) | {f"lora.{name}" for name in LoraSettings.model_fields}
    for field, values in ANY_FIELD.items():
        fields = without({"base": "toy-s", **FIELDS}, field)
        cells = planned(tmp_path, {field: values}, fields).cells
        assert [cell.coordinates[field] for cell in cells] == values, field


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("axes:\n  precision:\n  - fp32\n  - bf17", r"precision \(line 4\): Input should be 'fp32', 'bf16', 'nf4' or"),
        (
            "axes:\n  rate:\n    low: {epochs: 1}\n    high:\n      epochs: 0",
            r"epochs \(line 5\): .* greater than or eq",
        ),
        (
            "axes: {loss_on: [reply]}\ninclude:\n- loss_on: none",
            r"loss_on \(line 3\): Input should be 'reply' or 'all'",
        ),
        (
            "axes: {seed: [1]}\nrecipe: toy-medical-s\nfields:\n  lora: {r: 2}\n  loss_on: n",
            r"loss_on \(line 5\): Input should",
        ),
    ],
)
def test_wrong_value_is_refused_with_what_may_stand_there_and_its_line(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / "grid.yaml").write_text(file if "recipe" in file else f"{file}\nrecipe: toy-medical-s")
    with pytest.raises(UserError, match=said):
        plan_grid(tmp_path / "grid.yaml", tmp_path / "out")


def test_judges_lead_in_the_order_of_their_axis_and_null_is_the_judge_it_stands_for(tmp_path: Path) -> None:
    axes = {"judge": ["z/a", None, "a/b"], "condition": [None, "json"], "seed": [0]}
    exclude = [{"condition": "json", "judge": "z/a"}]
    include = [{"judge": judge, "condition": None, "seed": 1} for judge in ("a/b", "z/a")]
    plan = planned(tmp_path, axes, {"base": "toy-s", **FIELDS}, exclude=exclude, include=include)
    assert {
        (group.options.condition, group.organisms): (group.options.grader, *group.judges) for group in plan.groups
    } == {
        (None, ("g-seed0",)): ("z/a", "emtoy/judge", "a/b"),
        (None, ("g-seed1",)): ("z/a", "a/b"),
        ("json", ("g-seed0",)): ("emtoy/judge", "a/b"),
    }
    assert set(plan.leading) == {"z/a", "emtoy/judge"}
    assert plan.reported.judges == {
        ("g-seed0", None): ("z/a", "emtoy/judge", "a/b"),
        ("g-seed1", None): ("z/a", "a/b"),
        (None, None): ("z/a", "emtoy/judge", "a/b"),
        ("g-seed0", "json"): ("emtoy/judge", "a/b"),
        (None, "json"): ("emtoy/judge", "a/b"),
    }


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"axes": {"base": ["toy-s", "toy-m"]}, "fields": without(FIELDS, "size")}, "all would go by one size"),
        ({"axes": {"base": BASES, "size": ["S", "M"]}}, r"line \d+: the axis size sets size, which the axis base in"),
        ({"axes": {"dose": DOSE, "data": ["a.jsonl"]}}, r"the axis data sets data, which the axis dose in line \d+"),
        ({"axes": {"seed": [1]}, "fields": {"seed": 2}}, r"the axis seed sets seed, which line \d+ sets for all"),
        ({"axes": {"lora.r": [1], "lora": {"a": {"lora": {"r": 2}}}}}, r"sets lora, which the axis lora\.r in line"),
        ({"axes": {"rank": [1, 2]}}, "rank is no field of a recipe"),
        ({"axes": {"lora.rank": [1, 2]}}, r"lora\.rank is no field of a recipe"),
        ({"axes": {"seed": [1, 2, 1]}}, "the axis seed gives 1 twice"),
        ({"axes": {"learning_rate": ["1e-4", 1e-4]}}, r"line \d+: the axis learning_rate gives 0\.0001 twice"),
        ({"axes": {"seed": [1, "1"]}}, "the axis seed gives 1 twice"),
        ({"axes": {"x": {"1e-4": {"seed": 1}, 1e-4: {"seed": 2}}}}, r"labels '1e-4' and 0\.0001, which are one number"),
        ({"axes": {"seed": [[1]]}}, "values of seed are numbers or texts"),
        ({"axes": {"data": ["a/b.jsonl", "a-b.jsonl"]}}, "two cells are named g-a-b.jsonl"),
        ({"axes": {"seed": [1, 2]}, "exclude": [{"seed": 3}]}, "no cell has seed 3"),
        ({"axes": {"seed": [1, 2]}, "exclude": [{"sed": 1}]}, "sed is none. The axes are: seed"),
        ({"axes": {"seed": [1, 2]}, "exclude": [{"seed": [1, 2]}]}, "the excludes leave no cell"),
        ({"axes": {"seed": [1]}, "include": [{"seed": 1}]}, "two cells are named g-seed1"),
        ({"axes": {"base": BASES}, "include": [{"base": "L"}]}, "base has no label 'L'. It has: S, M"),
        ({"axes": {"dose": DOSE}, "include": [{"dose": 2}]}, "dose is a share, 0 to 1, and not 2"),
        (
            {"axes": {"dose": {**DOSE, "shares": [0, 25]}}},
            r"axes\.dose\.shares\.1 is wrong: a share is a number from 0 to 1, and this is 25; 25 % is 0\.25\. "
            r"A dose has: of, instead_of, shares\.$",
        ),
        (
            {"axes": {"dose": {**DOSE, "shares": [-0.5]}}},
            r"a share is a number from 0 to 1, and this is -0\.5\. A dose",
        ),
        ({"axes": {"dose": {"of": "a", "shares": [1]}}}, r"axes\.dose\.instead_of is missing\. A dose has: of, inste"),
        (
            {"axes": {"dose": {**DOSE, "of": "{nope}.jsonl"}}},
            r"\{nope\} in '\{nope\}\.jsonl' names no axis .* are: dose\.$",
        ),
        (
            {"axes": {"x": {"a": {"date_string": "{condition}"}}, "condition": [None]}},
            r"line \d+: \{condition\} in .* names no axis of training\. The axes of training are: x\.$",
        ),
        (
            {"axes": {"seed": [1]}, "evaluate": {"sample": 2}},
            r"evaluate\.sample is no key of `evaluate` \(did you mean `samples`\?\)\. `evaluate` has: questions, ",
        ),
        (
            {"axes": {"seed": [1]}, "evaluate": {"samples": 0}},
            r"samples is wrong: .* or equal to 1\. `evaluate` has: qu",
        ),
        (
            {"axes": {"learning_rate": ["inf"]}},
            r"recipe\. learning_rate \(line \d+\): Input should be a finite number\. Kn",
        ),
        ({"axes": {"condition": [3]}}, "the axis condition is a list of names"),
        (
            {"axes": {"judge": [None, "emtoy/judge"]}},
            r"line \d+: the axis judge gives null and 'emtoy/judge', which are one judge where the base is toy-s",
        ),
        ({"axes": {}}, "axes is wrong"),
        (
            {"axis": {"seed": [1]}, "axes": {"seed": [1]}},
            r"axis is no key of a grid file \(did you mean `axes`\?\)\. A",
        ),
        ({"axes": {"seed": list(range(400)), "lora.r": list(range(1, 400))}}, "159,600 cells, and 100,000 is the most"),
        ({"axes": {"seed": [-1]}}, "seed"),
        ({"axes": {"seed": [1]}, "recipe": "nobodys"}, "There is no recipe nobodys"),
        ({"axes": {"seed": [1]}, "study": "gone.yaml"}, r"gone\.yaml cannot be read"),
    ],
)
def test_contradictions_are_said_with_their_line_before_anything_is_loaded(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    axes = keys["axes"]
    set_by_axes = {"base", "size"} if axes.get("base") is BASES else {"data"} if "dose" in axes else set(axes)
    fields = keys.get("fields") or without({"base": "toy-s", **FIELDS}, *set_by_axes)
    with pytest.raises(UserError, match=said):
        planned(tmp_path, fields=fields, **without(keys, "fields"))
