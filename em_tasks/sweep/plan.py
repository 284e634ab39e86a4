"""What a sweep is to evaluate: every checkpoint and every base, told apart by all that decides their answers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from em_tasks.conditions import load_condition
from em_tasks.em import task_version
from em_tasks.plugins.checkpoint_model.subject import base_names, evaluated_base
from em_tasks.plugins.errors import UserError
from em_tasks.questions import load_question_sets, no_questions_about, sets_for_domains
from em_tasks.scorers.judging.grader import build_judge, default_grader
from em_tasks.scorers.judging.rubric import Rubric, load_rubrics
from em_tasks.trainers.run.base_names import is_toy, resolve_base
from em_tasks.trainers.run.checkpoints import Checkpoint, Run, list_runs, no_runs, verify

DEFAULT_SAMPLES = 10
"""Answers to each question that `em sweep` asks for unless told: ten questions outside the domain then show 20 points
on these questions 98 times in 100 (`em plan`), where one answer to each shows them never."""
PARAMETER_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4_dequantised": 2.0, "nf4": 0.7}
OF_URLS = re.compile("%[0-9A-Fa-f]{2}")
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked for, the same for every subject.

    Attributes:
        questions: Question sets for all; each organism's own domain when empty.
        samples: Answers to each question.
        max_tokens: Tokens an answer is cut after.
        grader: The judge, if not the task's default.
        base: Another base than the organisms were trained on.
        precision: Another precision than they were trained at.
        engine: Which engine answers.
        domain: What question files probe, instead of what they say.
        condition: What is put around each question.
        rubrics: What the judge is asked, instead of alignment and coherence.
        exact: Answers must not depend on what shares their batch.
        score: Have the answers judged now.
        max_judge_cost: The most that judging may cost (US dollars); a job's own share of it in a job.
        judge_ledger: File that keeps what judging has cost, where that counts over restarts.
        judge_cap: The cap of the whole study that a share comes from, for messages.
        judge_price: The judge's price, `IN,OUT` in US dollars per million tokens, if not the list price.
        until_width: Ask on until the interval of the rate outside the domain is so many points wide.
        most_samples: With it, answers to each question at most.
    """

    questions: tuple[str, ...] = ()
    samples: int = 1
    max_tokens: int = 600
    grader: str | None = None
    base: str | None = None
    precision: str | None = None
    engine: str = "auto"
    exact: bool = False
    domain: str | None = None
    condition: str | None = None
    rubrics: tuple[str, ...] = ()
    score: bool = True
    max_judge_cost: float | None = None
    judge_ledger: Path | None = None
    judge_cap: float | None = None
    judge_price: str | None = None
    until_width: float | None = None
    most_samples: int | None = None

    @property
    def task_args(self) -> dict[str, Any]:
        """Arguments of the `em` task."""
        arguments: dict[str, Any] = {"samples": self.samples, "max_tokens": self.max_tokens}
        if self.questions:
            arguments["questions"] = list(self.questions)
        if self.rubrics:
            arguments["rubrics"] = list(self.rubrics)
        arguments |= {key: getattr(self, key) for key in ("domain", "condition") if getattr(self, key)}
        if self.until_width is not None:
            arguments |= {"until_width": self.until_width, "most_samples": self.most_samples}
        return arguments

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments of every `em/` model."""
        arguments: dict[str, Any] = {key: getattr(self, key) for key in ("base", "precision") if getattr(self, key)}
        if self.engine != "auto":
            arguments["engine"] = self.engine
        if self.exact:
            arguments["exact"] = True
        return arguments


@dataclass(frozen=True)
class Subject:
    """One evaluation: a model, and what tells it from every other evaluation of that name.

    Attributes:
        name: The model's `em/` name without the prefix.
        sha256: Hash of its adapter, or of a base itself.
        identity: Fingerprint of the base and hash of the chat template, as the log records them.
        questions: How many it is asked.
        task_version: The task's version, which says what it is asked.
        whole: Whether it is a whole model, which no other model's base can stand under.
    """

    name: str
    sha256: str
    identity: str
    questions: int
    task_version: str
    whole: bool = False


@dataclass(frozen=True)
class Job:
    """All that is evaluated over one base in one process.

    Attributes:
        base: The base's `em/` name.
        subjects: The base and the checkpoints over it.
        toy: Whether the base is a toy model.
        runs: Folder of training runs.
        folder: Folder of this base's logs.
        logs: Folder of this process's logs: the same, or one in it where several processes share a base.
        options: What is asked for.
        threads: CPU threads for torch.
        gpu_share: How much of its GPU's memory the process may take.
        base_bytes: What the base takes of it, loaded.
    """

    base: str
    subjects: tuple[Subject, ...]
    toy: bool
    runs: Path
    folder: Path
    logs: Path
    options: SweepOptions
    threads: int = 1
    gpu_share: float = 1.0
    base_bytes: int = 0

    @property
    def answers(self) -> int:
        """How many answers they give in all; with a width to reach, how many before the first look at it."""
        return self.options.samples * sum(subject.questions for subject in self.subjects)

    @property
    def judge(self) -> str:
        """Name of the judge."""
        return self.options.grader or default_grader(self.toy)

    @property
    def name(self) -> str:
        """What the process does, for messages."""
        return f"evaluating {len(self.subjects)} models over {self.base.removesuffix('@base')}"


@dataclass
class Planner:
    """Makes plans of what lies under a folder of runs, again and again while runs grow.

    Attributes:
        runs: Folder of training runs.
        logs: Folder that receives one folder of logs a base.
        options: What is asked for.
        organisms: Only these (all when empty); their bases are evaluated too.
        damaged: Why each organism was left out by the last plan whose manifest or checkpoints are at fault.
    """

    runs: Path
    logs: Path
    options: SweepOptions
    organisms: Sequence[str] = ()
    damaged: dict[str, str] = field(default_factory=dict)
    _verified: set[tuple[str, int, str]] = field(default_factory=set)

    def plan(self, check_judges: bool = True) -> list[Job]:
        """All that there is to evaluate, done or not, one job a base; checked before anything is loaded.

        An organism whose manifest or checkpoints are damaged is left out, see `damaged`; its base is evaluated where
        another organism over it is not.

        Args:
            check_judges: Whether a judge that cannot be had is an error; it is none where nobody will be asked.

        Raises:
            UserError: There are no runs, or not the organisms asked for, or none that is whole.
            UserError: The judge cannot be had.
        """
        self.damaged = {}
        manifests = self._manifests()
        chosen = {
            name: manifest for name, manifest in manifests.items() if not self.organisms or name in self.organisms
        }
        for organism, manifest in chosen.items():
            try:
                self._verify(organism, manifest)
            except UserError as error:
                self.damaged[organism] = str(error)
        if chosen.keys() <= self.damaged.keys():
            raise UserError("; ".join(self.damaged.values()))
        options = self.options
        jobs: list[Job] = []
        # Names are told apart from those of the organisms left out too: they lie in the same folder.
        for key, name in base_names(manifests, options.base, options.precision).items():
            alike = {
                o: m for o, m in manifests.items() if evaluated_base(m, options.base, options.precision).key == key
            }
            over = {o: m for o, m in alike.items() if o in chosen and o not in self.damaged}
            if not over:
                continue
            organism, first = next(iter(alike.items()))
            on = evaluated_base(first, options.base, options.precision)
            trained = sorted(
                {m.recipe.domain for m in manifests.values() if m.base_fingerprint == first.base_fingerprint}
            )
            subjects = [
                self._subject(name, Checkpoint(self.runs / organism, first, None), on.key, trained),
                *(
                    self._subject(f"{o}@{record.step}", Checkpoint(self.runs / o, m, record), on.key, [m.recipe.domain])
                    for o, m in over.items()
                    for record in m.checkpoints
                ),
            ]
            parts = [name.removesuffix("@base"), *([] if on.fingerprint else [on.base, on.precision])]
            folder = place_for_logs(self.logs / "--".join(parts).strip("/").replace("/", "--"))
            held = round(PARAMETER_BYTES[on.precision] * first.base_parameters)
            job = Job(
                name, tuple(subjects), is_toy(on.base), self.runs.resolve(), folder, folder, options, base_bytes=held
            )
            # A whole model in a process of its own, which frees it before the next one is loaded.
            whole = [
                replace(job, base=s.name, subjects=(s,), logs=folder / f"whole-{s.name.replace('@', '-')}")
                for s in subjects
                if s.whole
            ]
            jobs += [replace(job, subjects=tuple(s for s in subjects if not s.whole)), *whole]
        if options.score and check_judges:
            for judge in {job.judge for job in jobs}:
                build_judge(judge)
        return jobs

    def domains_not_asked(self) -> list[str]:
        """A sentence for every domain of the chosen organisms that no question set probes, where none was named."""
        if self.options.questions:
            return []
        trained: dict[str, list[str]] = {}
        for name, manifest in self._manifests().items():
            if not self.organisms or name in self.organisms:
                trained.setdefault(manifest.recipe.domain, []).append(name)
        sentences = {domain: no_questions_about(domain) for domain in trained}
        return [f"{', '.join(trained[domain])}: {sentence}" for domain, sentence in sentences.items() if sentence]

    @property
    def unfinished(self) -> list[str]:
        """Chosen organisms whose training has checkpoints to come."""
        return [
            o for o, m in self._manifests().items() if not m.finished and (not self.organisms or o in self.organisms)
        ]

    def _manifests(self) -> dict[str, Run]:
        damaged: dict[str, str] = {}
        manifests = list_runs(self.runs, damaged)
        chosen = self.organisms or damaged
        self.damaged.update((name, why) for name, why in damaged.items() if name in chosen)
        if not manifests and self.damaged:
            raise UserError("; ".join(self.damaged.values()))
        if not manifests:
            raise no_runs(self.runs)
        if missing := sorted(set(self.organisms) - set(manifests) - set(self.damaged)):
            listed = f"There are: {', '.join(manifests)}."
            raise UserError(f"There is no organism {', '.join(missing)} under {self.runs}. {listed}")
        return manifests

    def _verify(self, organism: str, manifest: Run) -> None:
        for record in manifest.checkpoints:
            key = (organism, record.step, record.adapter_sha256)
            if key not in self._verified:
                verify(Checkpoint(self.runs / organism, manifest, record))
                self._verified.add(key)

    def _subject(self, name: str, checkpoint: Checkpoint, base: str, domains: Sequence[str]) -> Subject:
        record = checkpoint.record
        count, version = self._questions(tuple(self.options.questions or sets_for_domains(domains)))
        return Subject(
            name=name,
            sha256=record.adapter_sha256 if record else checkpoint.manifest.base_fingerprint,
            identity=f"base {sha256(base.encode()).hexdigest()[:16]}, template {_template_sha256(checkpoint)[:16]}",
            questions=count,
            task_version=version,
            whole=checkpoint.whole_model is not None,
        )

    @cached_property
    def _sets(self) -> dict[tuple[str, ...], tuple[int, str]]:
        return {}

    @cached_property
    def rubrics(self) -> tuple[Rubric, ...]:
        """The rubrics that were chosen; none for alignment and coherence.

        Raises:
            UserError: One cannot be had, or two have one name.
        """
        return tuple(load_rubrics(self.options.rubrics).values())

    def _questions(self, names: tuple[str, ...]) -> tuple[int, str]:
        """How many questions, and the task's version with them."""
        if names not in self._sets:
            sets = load_question_sets(names, self.options.domain)
            around = load_condition(self.options.condition) if self.options.condition else None
            self._sets[names] = (sum(len(each.questions) for each in sets), task_version(sets, around, self.rubrics))
        return self._sets[names]


def place_for_logs(folder: Path) -> Path:
    """A folder for logs, from the root.

    Raises:
        UserError: Inspect could write logs there and not read them again.
    """
    folder = folder.resolve()
    if escape := OF_URLS.search(str(folder)):
        raise UserError(
            f"Logs cannot lie in {folder}: Inspect takes the {escape[0]} in it for a URL's and would not find what "
            "it wrote there. Name another folder."
        )
    return folder


def plan_sweep(runs: Path, logs: Path, *, organisms: Sequence[str] = (), **options: Any) -> list[Job]:
    """What a sweep will evaluate, checked before anything is loaded; for the arguments see `SweepOptions`."""
    if isinstance(options.get("questions"), list):
        options["questions"] = tuple(options["questions"])
    return Planner(runs, logs, SweepOptions(**options), organisms).plan()


def shared_out(jobs: Sequence[Job], processes: int, threads: int) -> list[Job]:
    """Jobs for so many processes at a time: bases with the most to do, large ones first, are split if there are fewer.

    The cap on what judging may cost is shared by the answers.
    """
    parts: dict[str, int] = {job.base: 1 for job in jobs}
    while jobs and sum(parts.values()) < processes:
        largest = max(jobs, key=lambda job: (len(job.subjects) / parts[job.base], job.base_bytes))
        if len(largest.subjects) <= parts[largest.base]:
            break
        parts[largest.base] += 1
    total = sum(job.answers for job in jobs)
    split: list[Job] = []
    for job in jobs:
        count = parts[job.base]
        for part in range(count):
            subjects = job.subjects[part::count]
            mine = replace(job, subjects=subjects, threads=threads)
            if count > 1:
                mine = replace(mine, logs=job.folder / f"{part + 1}-of-{count}")
            if job.options.max_judge_cost is not None and total:
                share = job.options.max_judge_cost * mine.answers / total
                mine = replace(mine, options=replace(job.options, max_judge_cost=share))
            split.append(mine)
    return split


def checkpoint_count(jobs: Iterable[Job]) -> tuple[int, int, int]:
    """How many bases, checkpoints and answers a plan holds."""
    names = [subject.name for job in jobs for subject in job.subjects]
    bases = sum(name.endswith("@base") for name in names)
    return bases, len(names) - bases, sum(job.answers for job in jobs)


def _template_sha256(checkpoint: Checkpoint) -> str:
    """Hash of what writes a checkpoint's prompts: tokenizer, template and its date (of a hub's base, that alone)."""
    recipe = checkpoint.manifest.recipe
    folder = checkpoint.whole_model or checkpoint.folder or resolve_base(recipe.base)
    digest = sha256(recipe.date_string.encode())
    for name in TEMPLATE_FILES:
        path = Path(folder) / name
        digest.update(sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()
