"""Other tasks by name: each looked up once, before anything is loaded."""

import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from pathlib import Path

from em_tasks.plugins.errors import UserError

HUB = "hf/"


def tasks_named(name: str) -> list[str]:
    """The tasks that a name stands for, none where only running it can tell.

    Args:
        name: As `inspect eval` takes it: `package/task`, `file.py`, `file.py@task`.

    Raises:
        UserError: There is no such file or package, or no such task in it.
    """
    where, _, wanted = name.rpartition("@") if "@" in name else (name, "", "")
    path = Path(where)
    if path.is_file():
        return _chosen(wanted, _tasks_in_file(path, wanted), where)
    if path.suffix in (".py", ".ipynb"):
        raise UserError(f"There is no file {where}, which --task {name} names. Mend the path.")
    if path.is_dir() or name.startswith(HUB) or any(letter in where for letter in "*?["):
        return []
    package, slash, task = name.partition("/")
    if not slash:
        raise UserError(
            f"--task {name} names neither a file nor a package's task. Write it as PACKAGE/TASK, FILE.py or "
            "FILE.py@TASK."
        )
    entries = [entry for entry in entry_points(group="inspect_ai") if entry.name == package]
    if not entries:
        distribution = package.replace("_", "-")
        raise UserError(
            f"--task {name}: no package that is installed gives Inspect tasks as {package}/... Install it (pip install "
            f"{distribution}), or mend the name."
        )
    given = _tasks_of_package(entries[0])
    return _chosen(task, given, package) if given else []


def _chosen(wanted: str, there: Sequence[str], where: str) -> list[str]:
    if not there:
        raise UserError(f"{where} holds no Inspect task: no function in it is marked with @task.")
    if not wanted:
        return list(there)
    if wanted not in there:
        near = get_close_matches(wanted, there, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        listed = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise UserError(f"{where} holds no task {wanted}. It holds {listed}.{meant}")
    return [wanted]


def _tasks_in_file(path: Path, wanted: str) -> list[str]:
    """Names of the tasks in a file, which is parsed and not run; with `wanted` if the file imports something so named.

    Raises:
        UserError: The file is no Python.
    """
    from inspect_ai import list_tasks

    names = [task.name for task in list_tasks(path.name, absolute=True, root_dir=path.resolve().parent)]
    if path.suffix != ".py":
        return names
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no readable Python: {error}. Mend it.") from None
    imported = {a.asname or a.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    return [*names, wanted] if wanted not in names and imported & {wanted, "*"} else names


def _tasks_of_package(entry: EntryPoint) -> list[str]:
    """Names of the tasks in a package's modules, as far as its entry point imports them."""
    from inspect_ai.util import registry_info

    try:
        entry.load()
    except Exception as error:  # Somebody else's code: anything may go wrong in it.
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"The package {entry.name} cannot be imported: {type(error).__name__}: {reason}. Install what it needs."
        ) from error
    root = entry.module.partition(".")[0]
    names: set[str] = set()
    for module in [m for n, m in sys.modules.items() if n.partition(".")[0] == root]:
        for value in list(vars(module).values()):
            if not isfunction(value):
                continue
            try:
                info = registry_info(value)
            except ValueError:
                continue
            if info.type == "task":
                names.add(info.name.removeprefix(f"{entry.name}/"))
    return sorted(names)
