import importlib
import subprocess
import sys

import pytest

import em_tasks
import em_tasks.analysis
from em_tasks.trainers.run.recipe import Recipe
from tests.support.paths import ROOT


def python(code: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_importing_the_package_imports_nothing_else() -> None:
    python(
        "import sys; before = set(sys.modules); import em_tasks; "
        "heavy = {'inspect_ai', 'torch', 'pandas', 'pydantic', 'numpy', 'click'}; "
        "assert not heavy & (set(sys.modules) - before)"
    )


@pytest.mark.parametrize(
    "first", ["from em_tasks import em", "import em_tasks.em", "from em_tasks.em import em", "import em_tasks.registry"]
)
def test_em_is_the_task_whatever_was_imported_before(first: str) -> None:
    python(
        f"{first}\nfrom em_tasks import em\nimport em_tasks\nfrom inspect_ai._util.registry import registry_info\n"
        "assert em is em_tasks.em and registry_info(em).name == 'em_tasks/em'\n"
        "from em_tasks.em import em as the_same, answer\nassert the_same is em"
    )


@pytest.mark.parametrize("name", em_tasks.__all__)
def test_every_public_name_stands_for_what_its_home_defines(name: str) -> None:
    assert name in dir(em_tasks)
    value = getattr(em_tasks, name)
    assert getattr(importlib.import_module(value.__module__), name) is value


@pytest.mark.parametrize("name", em_tasks.analysis.__all__)
def test_the_analysis_has_its_names(name: str) -> None:
    assert hasattr(em_tasks.analysis, name)


def test_the_analysis_imports_no_torch() -> None:
    python("import sys, em_tasks.analysis; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)")


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'em_tasks' has no attribute 'nothing'"):
        _ = em_tasks.nothing  # type: ignore[attr-defined]


def test_what_type_checkers_see_is_what_is_there() -> None:
    assert em_tasks.Recipe is Recipe
    source = (ROOT / "em_tasks" / "__init__.py").read_text()
    assert all(source.count(f'    "{name}": "em_tasks.') == 1 for name in em_tasks.__all__)
