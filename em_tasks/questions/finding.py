"""Finding question sets by name or path: shipped ones, and files that the user has put where they are looked for."""

import os
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.entry_points import QUESTIONS, plugin_files
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import GENERAL
from em_tasks.questions.files import SUFFIXES, read_question_file
from em_tasks.questions.question_set import QuestionSet
from em_tasks.resources import shipped

FOLDERS = "EM_PLUGINS"
"""The environment variable that names folders (as PATH does) whose `questions/` are known by name."""


def shipped_sets() -> dict[str, Path]:
    """The question sets that ship with the project, by name."""
    return {path.stem: path for path in sorted(shipped("datasets/questions").glob("*.yaml"))}


def named_sets() -> dict[str, Path]:
    """Every question set with a name: shipped, in `questions/` here or in `EM_PLUGINS` folders, or of a package.

    Raises:
        UserError: Two files claim one name.
    """
    sets = shipped_sets()
    folders = [from_caller(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    for folder in dict.fromkeys(place.resolve() / "questions" for place in (from_caller("."), *folders)):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix not in SUFFIXES or not path.is_file():
                continue
            if path.stem in sets:
                raise UserError(
                    f"Two question sets are called {path.stem}: {sets[path.stem]} and {path}. Rename one of the files."
                )
            sets[path.stem] = path
    given, _ = plugin_files(QUESTIONS, SUFFIXES, sets)
    return sets | {name: file.path for name, file in given.items()}


def plugin_notes() -> list[str]:
    """What is wrong with question sets that packages give, a sentence each."""
    return plugin_files(QUESTIONS, SUFFIXES, shipped_sets())[1]


def given_by_packages(names: Sequence[str]) -> list[dict[str, str]]:
    """Those of the named sets that packages give: name, package with version, and hash of the file."""
    given, _ = plugin_files(QUESTIONS, SUFFIXES, shipped_sets())
    return [given[name].record(name) for name in names if name in given]


def sets_for_domains(domains: Sequence[str]) -> list[str]:
    """The names of the sets that probe the given domains, or the general one where there is none.

    A domain's set is the one of its name. A shipped one brings the general set along; one of the user's own is asked
    alone (see `load_question_sets`).
    """
    known = named_sets()
    return [domain for domain in domains if domain in known] or [GENERAL]


def no_questions_about(domain: str) -> str | None:
    """What to say of a training domain that no set probes; None where one does."""
    known = named_sets()
    if domain in known:
        return None
    near = get_close_matches(domain, [name for name in known if name != GENERAL], n=1)
    meant = f" (did you mean {near[0]!a}?)" if near else ""
    return (
        f"no question set is called {domain!a}{meant}, so the general questions alone are asked and nothing inside the "
        f"training domain; there are {', '.join(sorted(known))}. A file of your own is found by its name as "
        f"questions/{domain}.yaml."
    )


def load_question_sets(names: Sequence[str], domain: str | None = None) -> list[QuestionSet]:
    """Loads question sets by name or path.

    Args:
        names: Names of sets, or paths of files, relative ones from where the command was given. A shipped set of a
            domain brings the general set along: its ten questions and the general ten are the published twenty.
        domain: What the files among them probe (shipped sets know it themselves), instead of what they say.

    Raises:
        UserError: A name is no set and no file, a file is at fault, or two questions have one id.
    """
    known = named_sets() if any(not os.path.splitext(name)[1] for name in names) else shipped_sets()
    wanted: dict[str, None] = dict.fromkeys(names)
    if wanted.keys() & shipped_sets().keys():
        wanted.setdefault(GENERAL)
    sets = []
    for name in sorted(wanted, key=lambda name: name == GENERAL):
        path = known.get(name) or from_caller(name)
        if "\0" in name or not os.path.lexists(path):
            raise UserError(
                f"There is no question set {name!r}: known ones are {', '.join(known)}, and there is no file {path}. "
                "Give a name, or the path of a YAML, JSON lines or CSV file."
            )
        ours = shipped_sets().get(name) == path
        sets.append(read_question_file(path).question_set(None if ours else domain))
    uses = Counter(question.id for question_set in sets for question in question_set.questions)
    if twice := sorted(name for name, count in uses.items() if count > 1):
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise UserError(
            f"The question sets {', '.join(wanted)} share ids: {', '.join(twice[:5])}{more}. Rename them in one of the "
            "files."
        )
    return sets
