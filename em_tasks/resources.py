"""Where the data that ships with the project lies: in the package, by links in a checkout and as files in a wheel."""

from pathlib import Path

from em_tasks.plugins.errors import UserError

_PACKAGE = Path(__file__).parent


def shipped(path: str) -> Path:
    """A file or folder that ships with the project, such as `datasets/questions` or `recipes`."""
    return _PACKAGE / path


def recipe_file(path: Path) -> Path:
    """The recipe file that an argument means: a path, or the bare name of a recipe that ships with the project.

    Raises:
        UserError: It is neither.
    """
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path
    by_name = {file.stem: file for file in sorted(shipped("recipes").glob("*.yaml"))}
    if str(path) not in by_name:
        raise UserError(
            f"There is no recipe {path}. Give a YAML file, or one of those that ship with the project: "
            f"{', '.join(by_name)}."
        )
    return by_name[str(path)]
