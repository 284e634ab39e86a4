"""What an import would write: files understood, logs planned, and every file left out with its reason.

Everything is read before anything is written, so that what was understood can be printed first.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from em_tasks.plugins.analysis.importing.answers import (
    JudgedAnswer,
    Row,
    judged_answers,
    number_samples,
    place_questions,
)
from em_tasks.plugins.analysis.importing.columns import recognise
from em_tasks.plugins.analysis.importing.naming import named_apart
from em_tasks.plugins.analysis.importing.tables import format_of, read_table, why_no_table, without_format
from em_tasks.plugins.analysis.importing.who import (
    SEED_FOLDER,
    Map,
    Who,
    from_columns,
    from_path,
    near_base_folder,
)
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import NOT_RECORDED

MOST_ALIKE = 5
"""Files of one kind, left out for one reason, that are named one by one."""


@dataclass(frozen=True)
class PlannedLog:
    """One log to be: the answers of one checkpoint or base as one judge scored them.

    Attributes:
        who: Complete, see `Who.complete`; `step` is None where nothing says.
        epoch: Of the checkpoint, where a training configuration beside the file tells.
        files: Where the answers come from, relative to what was given.
        answers: In the order of the files.
    """

    who: Who
    epoch: float | None
    files: tuple[str, ...]
    answers: list[JudgedAnswer]

    @property
    def name(self) -> str:
        """What it is called: `organism_step`, or the base and `base`; then the condition, where there is one."""
        under = f"_{self.who.condition}" if self.who.condition else ""
        if self.who.is_base:
            base, size = self.who.base or NOT_RECORDED, self.who.size
            return f"{size if base == f'{size} base' else base}_base{under}"
        return f"{self.who.organism}_{'last' if self.who.step is None else self.who.step}{under}"

    @cached_property
    def sha256(self) -> str:
        """Of whose answers they are and what was answered and scored."""
        content = hashlib.sha256(repr(self.who).encode(errors="surrogatepass"))
        for answer in self.answers:
            about = (answer.question_id, answer.question, answer.answer, answer.rated)
            known = about if answer.truncated is None else (*about, answer.truncated)
            content.update(repr(known).encode(errors="surrogatepass"))
        return content.hexdigest()


@dataclass(frozen=True)
class LeftOut:
    """A file that gives no log, and why."""

    file: str
    reason: str


@dataclass
class Plan:
    """What an import would write.

    Attributes:
        source: What was given.
        logs: In the order of their names.
        left_out: Files that give nothing.
        notes: What was odd about the others, a sentence each.
    """

    source: Path
    logs: list[PlannedLog] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many answers the logs have together."""
        return sum(len(log.answers) for log in self.logs)

    def left_out_alike(self) -> Iterator[tuple[str, str]]:
        """The files left out, each with its reason; of very many of one kind with one reason, the first for all."""
        alike: dict[tuple[str, str], list[str]] = defaultdict(list)
        for left in self.left_out:
            alike[left.reason, PurePosixPath(left.file).suffix].append(left.file)
        for (reason, suffix), files in alike.items():
            if len(files) > MOST_ALIKE:
                yield f"{files[0]} and {len(files) - 1} more *{suffix}", reason
            else:
                yield from ((file, reason) for file in files)


@dataclass(frozen=True)
class _Part:
    """The answers of one file by one model and judge; `path` is the file, or what the file's own column calls it."""

    path: str
    who: Who
    guessed: bool
    answers: list[JudgedAnswer]


def plan_import(
    source: Path,
    given: Who | None = None,
    mapping: Map | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Reads every file under a path that may hold judged answers.

    Args:
        source: A file, or a folder whose files are looked at, at any depth.
        given: What the user says of all of them; it stands over everything else.
        mapping: A map file's content.
        progress: Told how many files of how many are read.

    Raises:
        UserError: There is no such file or folder.
        UserError: No file in it holds judged answers; says why of each.
    """
    if not source.exists():
        raise UserError(f"There is no file or folder {source}. Give a folder of judged answers, or one file.")
    given, mapping = given or Who(), mapping or Map()
    plan, parts, paths = Plan(source), [], set[str]()
    files = list(_files(source, plan))
    for index, (file, path) in enumerate(files):
        if progress is not None:
            progress(index, len(files))
        try:
            parts += _parts(file, path, given, mapping, plan, paths)
        except UserError as error:
            plan.left_out.append(LeftOut(path, str(error)))
        except RecursionError:
            plan.left_out.append(LeftOut(path, "nested too deep"))
        except (OSError, MemoryError) as error:
            plan.left_out.append(LeftOut(path, f"cannot be read ({error})"))
    # What should have been read comes before what is of another kind.
    plan.left_out.sort(key=lambda left: format_of(PurePosixPath(left.file)) is None)
    if not parts:
        alike = [f"{file}: {reason}" for file, reason in plan.left_out_alike()]
        reasons = "; ".join(alike[:5])
        more = f" and {len(alike) - 5} more files" if len(alike) > 5 else ""
        raise UserError(
            f"There are no judged answers in {source}. {reasons or 'It holds no CSV, JSON or Parquet file'}{more}. "
            "A file needs a column of alignment scores, one of questions and one of answers; a map (--map) names them "
            "where their names are others."
        )
    plan.notes += mapping.idle(paths)
    plan.notes += _not_bases(parts)
    plan.notes += place_questions([answer for part in parts for answer in part.answers], mapping.question_domains)
    epochs = _epochs(source)
    bases = _bases(source)
    parts = [replace(part, who=_with_base(part, bases).complete()) for part in _with_own_names(parts)]
    whos = named_apart([part.who for part in parts], plan.notes)
    parts = [replace(part, who=who) for part, who in zip(parts, whos, strict=True)]
    plan.logs = sorted(_logs(parts, epochs, plan.notes), key=lambda log: log.name)
    return plan


def _files(source: Path, plan: Plan) -> Iterator[tuple[Path, str]]:
    """Files that may hold answers, with their paths as readers know them; whatever else lies there is named."""
    if source.is_file():
        # The folders above tell who answered as much as the name does.
        parents = [part for part in source.resolve().parent.parts[-2:] if part != "/"]
        yield source, str(PurePosixPath(*parents, source.name))
        return
    root = source.resolve().name
    for file in sorted(source.rglob("*")):
        path = str(PurePosixPath(root, file.relative_to(source).as_posix()))
        if file.is_dir():
            continue
        if format_of(file) is None:
            if not any(part.startswith(".") for part in file.relative_to(source).parts):
                plan.left_out.append(LeftOut(path, why_no_table(file)))
        elif not file.is_file():
            plan.left_out.append(LeftOut(path, "a dangling link" if file.is_symlink() else "a pipe or device, no file"))
        else:
            yield file, path


def _parts(file: Path, path: str, given: Who, mapping: Map, plan: Plan, paths: set[str]) -> list[_Part]:
    paths.add(path)
    mapped = mapping.who(path)
    if mapped is None:
        plan.left_out.append(LeftOut(path, "the map skips it"))
        return []
    table = read_table(file)
    if not table.rows:
        raise UserError("no rows")
    rows = judged_answers(table, recognise(table.columns, mapping.columns), mapping.scores)
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.about].append(row)
    parts = []
    for about, group_rows in groups.items():
        values = dict(about)
        inner = values.pop("file", None)
        inner_path = str(inner) if inner not in (None, "") else path
        paths.add(inner_path)
        told = mapping.who(inner_path) if inner else mapped
        if told is None:
            continue
        stated_who = given.over(told).over(from_columns(values))
        if stated_who.is_base and stated_who.organism is None:
            who = replace(
                stated_who,
                base=stated_who.base or from_path(inner_path).base,
                size=stated_who.size or from_path(inner_path).size,
            )
        else:
            who = stated_who.over(from_path(inner_path))
        guessed = stated_who.organism is None and not who.is_base
        parts.append(_Part(inner_path, who, guessed, [row.answer for row in group_rows]))
    return parts


def _not_bases(parts: list[_Part]) -> Iterator[str]:
    """A note for every folder of bases with answers in it that are taken for an organism's."""
    paths: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        if part.guessed and (folder := near_base_folder(part.path)):
            paths[folder].append(part.path)
    for folder, inside in paths.items():
        more = f" and {len(inside) - 1} more" if len(inside) > 1 else ""
        yield (
            f"{inside[0]}{more} under {folder}/ are taken for an organism's answers, since a name or a step stands "
            "between. If the base gave them, say so in a map (is_base: true)."
        )


def _with_own_names(parts: list[_Part]) -> Iterator[_Part]:
    """Gives models that are only called after their files names that no other file's model has."""
    files: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for part in parts:
        if part.guessed:
            files[_identity(part.who), part.who.judge].add(part.path)
    for part in parts:
        same = sorted(files[_identity(part.who), part.who.judge]) if part.guessed else []
        if len(same) < 2:
            yield part
        else:
            yield replace(part, who=replace(part.who, organism=_told_apart(part.path, same)))


def _told_apart(path: str, others: Sequence[str]) -> str:
    """The end of a path, as long as it takes to tell it from the others."""
    parts = PurePosixPath(path).parts
    for length in range(1, len(parts) + 1):
        end = parts[-length:]
        if sum(PurePosixPath(other).parts[-length:] == end for other in others) == 1:
            break
    return str(without_format(PurePosixPath(*end)))


def _identity(who: Who) -> tuple[object, ...]:
    trained = (who.organism, who.is_base, who.base, who.domain, who.data, who.size, who.step, who.training_seed)
    return (*trained, who.condition)


def _with_base(part: _Part, bases: Mapping[str, str]) -> Who:
    """The base of the cs2881 experiment's organisms and baselines: as a training configuration says, else by size."""
    who = part.who
    folders = PurePosixPath(part.path).parts[:-1]
    is_seed = bool(folders) and (SEED_FOLDER.match(folders[-1]) is not None or "baseline" in folders[-2:])
    if who.base is None and who.size is not None and is_seed:
        return replace(who, base=bases.get(who.size, f"{who.size} base"))
    return who


def _configurations(source: Path) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Training configurations in folders <size>_<domain>: folder, size and content."""
    folder = source if source.is_dir() else source.parent
    for file in sorted({*folder.glob("training_config.json"), *folder.glob("*/training_config.json")}):
        named = SEED_FOLDER.match(file.resolve().parent.name)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if named and isinstance(content, dict):
            yield file.resolve().parent.name, named["size"].upper(), content


def _bases(source: Path) -> dict[str, str]:
    return {
        size: base
        for _, size, configuration in _configurations(source)
        if isinstance(base := configuration.get("base_model"), str)
    }


def _epochs(source: Path) -> dict[str, float]:
    """Steps an epoch by folder."""
    return {
        folder: float(steps)
        for folder, _, configuration in _configurations(source)
        if isinstance(steps := configuration.get("steps_per_epoch"), int) and steps > 0
    }


def _logs(parts: list[_Part], epochs: Mapping[str, float], notes: list[str]) -> Iterator[PlannedLog]:
    by_model: dict[tuple[object, ...], dict[tuple[str | None, str | None], list[_Part]]] = {}
    for part in parts:
        judge = (part.who.judge, part.who.rubric)
        by_model.setdefault(_identity(part.who), {}).setdefault(judge, []).append(part)
    for by_judge in by_model.values():
        kept = [_without_copies(judge_parts, notes) for judge_parts in by_judge.values()]
        answers = [[answer for part in judge_parts for answer in part.answers] for judge_parts in kept]
        order = sorted(range(len(kept)), key=lambda index: -len(answers[index]))
        number_samples([answers[index] for index in order])
        for judge_parts, judged in zip(kept, answers, strict=True):
            who = judge_parts[0].who
            files = tuple(dict.fromkeys(part.path for part in judge_parts))
            if len(files) > 1:
                model = f"base {who.base}" if who.is_base else who.organism
                notes.append(f"The answers of {model} come from {len(files)} files: {', '.join(files[:3])}.")
            folder = PurePosixPath(judge_parts[0].path).parts[-2:-1]
            steps = epochs.get(folder[0]) if folder else None
            epoch = 0.0 if who.is_base else who.step / steps if steps and who.step is not None else None
            yield PlannedLog(who, epoch, files, judged)


def _without_copies(parts: list[_Part], notes: list[str]) -> list[_Part]:
    """Leaves out files whose every row stands in another file of the same model and judge."""
    kept: list[_Part] = []
    seen: Counter[object] = Counter()
    for part in sorted(parts, key=lambda part: -len(part.answers)):
        rows = Counter(
            (answer.question_id, answer.answer, *(str(rated.score) for rated in answer.rated.values()))
            for answer in part.answers
        )
        if kept and all(seen[row] >= count for row, count in rows.items()):
            notes.append(f"{part.path} holds the same rows as {kept[0].path} and counts once.")
            continue
        seen.update(rows)
        kept.append(part)
    return [part for part in parts if part in kept] if len(kept) < len(parts) else parts
