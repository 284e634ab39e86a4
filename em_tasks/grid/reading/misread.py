"""What YAML 1.1 reads otherwise than people mean it: `1:00` as 60, `010` as 8, a date as a date, `yes` as true."""

import re
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.yaml_files import read_text

OCTAL = re.compile(r"[-+]?0[0-7_]+")
TRUTH_VALUE = (
    "YAML reads yes, on and true (and no, off and false) as a truth value, and this is a number: write the number"
)


def refuse_misread(path: Path) -> None:
    """Refuses numbers written as times or with a leading 0, dates, infinities and what is no number, with their line.

    Args:
        path: A YAML file that was read already, so that it is one of reasonable size.

    Raises:
        UserError: One stands in it.
    """
    waiting = [yaml.compose(read_text(path), Loader=yaml.SafeLoader)]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and (said := _misread(node)):
            raise UserError(f"{path}, line {node.start_mark.line + 1}: YAML reads {node.value} {said}.")


def _misread(node: yaml.ScalarNode) -> str | None:
    kind, text = node.tag.rpartition(":")[2], node.value
    quoted = f"with quotes, '{text}', if the text is meant"
    if kind == "timestamp":
        return f"as a date. Write it {quoted}"
    if kind not in ("int", "float"):
        return None
    number = yaml.safe_load(text)
    if ":" in text:
        return f"as the number {number}, by sixties like a time. Write {number}, or {quoted}"
    if kind == "int" and OCTAL.fullmatch(text):
        meant = "-" * text.startswith("-") + (text.lstrip("+-0_") or "0")
        return f"as {number}, by the digits 0 to 7. Write {meant} or {number}, or {quoted}"
    if not isfinite(number):
        return "as no finite number. Write a finite one"
    return None


def no_truth_value(value: Any) -> Any:
    """The value of something that is a number.

    Raises:
        ValueError: It is a truth value, which would pass as 1 or 0.
    """
    if isinstance(value, bool):
        raise ValueError(TRUTH_VALUE)
    return value
