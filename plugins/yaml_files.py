"""Reading YAML that somebody else wrote: recipes, question sets, rubrics, prices.

The file is text of a reasonable size, every alias in it stays small when written out, no key stands twice, and
whatever is wrong is said with the file and the line. Nothing is built before all of that is known.
"""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from yaml.reader import Reader

from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Hashable

LARGEST_FILE = 16 * 2**20
"""Bytes."""
MOST_VALUES = 500_000
"""Keys, values, lists and mappings, every alias counted as what it stands for."""
MOST_CHARACTERS = 256 * 2**20
"""Characters in all of them, aliases again written out."""
DEEPEST = 64
"""Lists and mappings inside each other."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: None, a scalar, a list or a mapping of such.

    Raises:
        UserError: There is no such file or it is no ordinary one, it is too large, not UTF-8 or no YAML, a key stands
            twice, or it is nested or expanded by aliases beyond reason. The message has the file and, where the fault
            is at one place, the line.
    """
    return parse_yaml(read_text(path), path)


def read_yaml_lines(path: Path) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """The content of a YAML file, and the line of every key and list entry in it, by its way down from the top.

    `lines["lora", "r"]` is the line of `r` under `lora`; the lines of what an alias repeats are where it was first.

    Raises:
        UserError: As in `read_yaml`.
    """
    text = read_text(path)
    content = parse_yaml(text, path)
    loader, lines = _BoundedLoader(text), {}
    try:
        waiting: list[tuple[tuple[str | int, ...], yaml.Node]] = (
            [((), loader.get_single_node())] if text.strip() else []
        )
        seen: set[int] = set()
        while waiting:
            way, node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    lines[*way, str(key.value)] = key.start_mark.line + 1
                    waiting.append(((*way, str(key.value)), value))
            elif isinstance(node, yaml.SequenceNode):
                for place, value in enumerate(node.value):
                    lines[*way, place] = value.start_mark.line + 1
                    waiting.append(((*way, place), value))
    finally:
        loader.dispose()
    return content, lines


def read_text(path: Path, largest: int = LARGEST_FILE) -> str:
    """The text of an ordinary UTF-8 file of at most `largest` bytes.

    Raises:
        UserError: It is not such a file; the message says what it is instead.
    """
    try:
        # A pipe without a writer would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a path cannot hold a NUL character"
        raise UserError(f"{_printable(path)} cannot be read: {reason}. Give the path of a text file.") from None
    try:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
            raise UserError(f"{path} is {what}, not a text file. Give the path of a file.")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(largest + 1)
    finally:
        os.close(handle)
    if len(content) > largest:
        raise UserError(f"{path} has more than {largest >> 20} MiB, which no such file needs. Make it smaller.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line} is not UTF-8 text. Save the file as UTF-8.") from None


def parse_yaml(text: str, path: Path) -> Any:
    """The content of YAML text that was read from `path`, which messages name.

    Raises:
        UserError: As in `read_yaml`.
    """
    if unprintable := Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, unprintable.start()) + 1
        raise UserError(f"{path}, line {line} holds the character {unprintable[0]!r}, which YAML forbids. Take it out.")
    loader = _BoundedLoader(text)
    try:
        _refuse_excess(text, path)
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_doubles(loader, root, path)
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{where} is not readable as YAML: {' '.join(problem.split())[:300]}. Mend the file.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())[:300]}. Mend it.") from None
    finally:
        loader.dispose()


class _BoundedLoader(_Loader):  # type: ignore[misc]
    """PyYAML's safe loader, whose every failure to make a value knows its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; numbers of too many digits and impossible dates are YAML errors like any other."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None
        except AttributeError:  # a text that is marked as a date and has not the form of one
            problem = f"{ascii(node.value)[:60]} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _refuse_excess(text: str, path: Path) -> None:
    """Counts depth, values and characters from the parser's events, before anything recursive sees the file."""
    weights: dict[str, tuple[int, int]] = {}
    opened: list[tuple[str | None, int, int]] = []
    values = characters = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _, _ in opened):
                raise UserError(f"{_place(path, event)}: *{event.anchor} stands inside itself. Mend the file.")
            more, longer = weights.get(event.anchor or "", (0, 0))
            values, characters = values + more, characters + longer
        elif isinstance(event, yaml.ScalarEvent):
            values, characters = values + 1, characters + len(event.value)
            if event.anchor:
                weights[event.anchor] = (1, len(event.value))
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values, characters))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, length = opened.pop()
            if anchor:
                weights[anchor] = (values - before, characters - length)
        if len(opened) > DEEPEST:
            raise UserError(f"{_place(path, event)} is nested more than {DEEPEST} deep. Mend the file.")
        if values > MOST_VALUES or characters > MOST_CHARACTERS:
            raise UserError(
                f"{_place(path, event)}: with its aliases written out, the file comes to more than {MOST_VALUES} "
                f"values or {MOST_CHARACTERS >> 20} million characters. Make it smaller."
            )


def _refuse_doubles(loader: Any, root: yaml.Node, path: Path) -> None:
    """Refuses a key that stands twice in one mapping, of which YAML's own reader keeps the last without a word."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            lines: dict[Hashable, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                name = key.value if key.tag == "tag:yaml.org,2002:str" else loader.construct_object(key)
                if name in lines:
                    raise UserError(
                        f"{path}, line {key.start_mark.line + 1} gives {name!r} again, which stands in line "
                        f"{lines[name]} already. Keep one of them."
                    )
                lines[name] = key.start_mark.line + 1
        inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        for part in inside if isinstance(node, yaml.CollectionNode) else ():
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)


def _place(path: Path, event: yaml.Event) -> str:
    return f"{path}, line {event.start_mark.line + 1}" if event.start_mark else str(path)


def _printable(path: Path) -> str:
    return str(path).replace("\0", "\\0")
