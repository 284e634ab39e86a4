"""What tables, figures and findings are made of: the answers read, the trajectories and their rates, computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.answers.frame import trajectories
from em_tasks.plugins.analysis.answers.log_rows import FURTHER
from em_tasks.plugins.analysis.answers.logs import Evaluation, Reading, read_logs
from em_tasks.plugins.analysis.answers.scoring import Scoring, Side, scoring_of
from em_tasks.plugins.analysis.statistics.claims_file import ClaimsFile
from em_tasks.plugins.analysis.statistics.rates import MAIN, question_counts, rates, scoped_rates, with_sequences
from em_tasks.plugins.analysis.statistics.training_seeds import Seeds, SeedsApart, seed_groups
from em_tasks.plugins.analysis.study import Study
from em_tasks.scorers.definitions import DEFINITIONS, Definition

CHECKPOINT = ["organism", "domain", "control", "base", "size", "parameters", "step", "epoch", "baseline"]
"""Columns that tell one checkpoint of one organism, its base's included."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """A reading and what follows from it.

    Attributes:
        reading: Answers, evaluations and notes as read from logs.
        definitions: The EM definitions to compute.
        main: Names of the ones that tables and figures lead with.
        calibration: What is known of how far a judge can be trusted, from its name and a rubric's hash; None where
            it was never measured.
        smallest_effect: The smallest difference of rates that is of interest, a fraction named before the data were
            seen; only with one can sides be shown not to differ.
        published: Claims that somebody published, to be held against the data.
        study: What was named before the data were seen.
    """

    reading: Reading
    definitions: tuple[Definition, ...] = tuple(DEFINITIONS.values())
    main: tuple[str, ...] = MAIN
    calibration: Callable[[str, str], str | None] = lambda judge, rubric_sha256: None
    smallest_effect: float | None = None
    published: ClaimsFile | None = None
    study: Study | None = None

    @property
    def answers(self) -> pd.DataFrame:
        """One row an answer."""
        return self.reading.answers

    @property
    def scores(self) -> pd.DataFrame:
        """The same without the answers' texts, most of the memory, which are copied whenever rows are chosen."""
        return self.answers.drop(columns="answer")

    @property
    def evaluations(self) -> list[Evaluation]:
        """The logs that were read."""
        return self.reading.evaluations

    @cached_property
    def trajectories(self) -> pd.DataFrame:
        """Every organism's answers with its base's as step 0, see `frame.trajectories`.

        Without the answers' text, which base rows would repeat: column `at` is the row in `answers`.
        """
        return trajectories(self.scores.assign(at=range(len(self.answers))))

    @cached_property
    def rates(self) -> pd.DataFrame:
        """Rates of every checkpoint of every organism, by definition and scope (`all`, `outside`, `in_domain`, ...)."""
        rates = scoped_rates(self.trajectories, CHECKPOINT, self.definitions, self.main)
        return _ordered(self._with_sequences(rates, self.trajectories, ["organism", "step"]))

    @cached_property
    def base_rates(self) -> pd.DataFrame:
        """Rates of every base on everything it was asked."""
        bases = self.scores[self.answers["organism"].isna()]
        return self._with_sequences(rates(bases, ["base", "size", "parameters"], self.definitions), bases, ["base"])

    @property
    def until_width(self) -> dict[str, float]:
        """The logs in which the width of an interval decided how many answers there are, and that width in points."""
        return {each.log: each.until_width for each in self.evaluations if each.until_width is not None}

    def _with_sequences(self, table: pd.DataFrame, answers: pd.DataFrame, by: list[str]) -> pd.DataFrame:
        """Rates with confidence sequences for intervals where a width decided how many answers there are.

        Args:
            table: See `rates`.
            answers: The answers that it is of.
            by: Columns that tell of which model a row is.
        """
        if not self.until_width:
            return table
        chosen = answers.loc[answers["log"].isin(list(self.until_width)), by].drop_duplicates()
        keys = {tuple(str(part) for part in key) for key in chosen.itertuples(index=False)}
        sequential = [tuple(str(part) for part in key) in keys for key in table[by].itertuples(index=False)]
        return with_sequences(table, np.array(sequential, dtype="bool"))

    @cached_property
    def final(self) -> pd.DataFrame:
        """The rows of `rates` of each organism's last checkpoint."""
        trained = self.rates[~self.rates["baseline"]]
        last = trained.groupby("organism", observed=True)["step"].transform("max")
        return trained[trained["step"] == last]

    @cached_property
    def rate_places(self) -> dict[tuple[str, str, int, str], list[int]]:
        """Which rows of `rates` are of a definition, organism, step and scope.

        Tables ask for single rates thousands of times, and each mask would go over the rates of every organism.
        """
        places: dict[tuple[str, str, int, str], list[int]] = {}
        columns = self.rates[["definition", "organism", "step", "scope"]].astype({"organism": "str"})
        for place, (definition, organism, step, scope) in enumerate(columns.itertuples(index=False)):
            places.setdefault((definition, organism, int(step), scope), []).append(place)
        return places

    @cached_property
    def _places_of_organisms(self) -> dict[str, np.ndarray]:
        by_organism = self.answers.groupby("organism", observed=True).indices
        return {str(name): np.asarray(rows) for name, rows in by_organism.items()}

    def places_of(self, organism: str) -> np.ndarray:
        """Which rows of `answers` are an organism's own, ascending."""
        return self._places_of_organisms.get(organism, np.zeros(0, dtype="int64"))

    @cached_property
    def question_counts(self) -> dict[str, pd.DataFrame]:
        """For each main definition, counts by organism, step (0 is the base) and question, see `question_counts`."""
        return {
            definition.name: question_counts(self.trajectories, ["organism", "step"], definition)
            for definition in self.definitions
            if definition.name in self.main
        }

    @cached_property
    def compared(self) -> pd.DataFrame:
        """The same as `final`, but of several seeds put together the last step that all of them have."""
        shared = {name: group.step for group in self.seeds for name in group.organisms}
        trained = self.rates[~self.rates["baseline"]]
        last = trained.groupby("organism", observed=True)["step"].transform("max")
        step = trained["organism"].astype("str").map(shared).fillna(last)
        return trained[trained["step"] == step]

    @cached_property
    def scoring(self) -> dict[Side, Scoring]:
        """How the answers of every checkpoint, and of its base as step 0, came to be scored."""
        return scoring_of(self.trajectories, self.evaluations)

    @cached_property
    def questions_of(self) -> dict[Side, frozenset[tuple[str, str]]]:
        """The questions (set and id) that every checkpoint was asked."""
        columns = ["organism", "step", "question_set", "question_id"]
        rows = self.scores.loc[self.answers["organism"].notna(), columns].drop_duplicates()
        questions_of: dict[Side, set[tuple[str, str]]] = {}
        for organism, step, question_set, question_id in rows.itertuples(index=False):
            questions_of.setdefault((str(organism), int(step)), set()).add((str(question_set), str(question_id)))
        return {side: frozenset(questions) for side, questions in questions_of.items()}

    @cached_property
    def _seed_groups(self) -> tuple[list[Seeds], list[SeedsApart]]:
        return seed_groups(self.scores, self.scoring, self.questions_of)

    @property
    def seeds(self) -> list[Seeds]:
        """Organisms that were trained alike from several seeds, as far as they can be put together."""
        return self._seed_groups[0]

    @property
    def seeds_apart(self) -> list[SeedsApart]:
        """Organisms that were trained alike from several seeds and cannot be put together, with the reason."""
        return self._seed_groups[1]

    @cached_property
    def further_scores(self) -> dict[str, tuple[float, float] | None]:
        """The further rubrics and scores in the answers, by name, each with its scale where the logs say it.

        A rubric whose scale differs from log to log has none here, and its numbers are not put together.
        """
        scales: dict[str, set[tuple[float, float]]] = {}
        for evaluation in self.evaluations:
            for name, (low, high, _) in evaluation.rubrics.items():
                scales.setdefault(name, set()).add((low, high))
        names = [str(name).removeprefix(FURTHER) for name in self.answers if str(name).startswith(FURTHER)]
        one_scale = {name: next(iter(known)) for name, known in scales.items() if len(known) == 1}
        return {name: one_scale.get(name) for name in names if len(scales.get(name, ())) < 2}

    @cached_property
    def axes(self) -> pd.DataFrame:
        """Where the organisms of a grid stand: a row an organism, a column an axis that has several values.

        Rows go by the first axis, then the second and so on: numbers in their order, other values in that of the grid's
        file where the report is a grid's, else as they first appear in tables.
        """
        of = {each.organism: each.axes for each in self.evaluations if each.organism and each.axes}
        places = {name: of[name] for name in dict.fromkeys([*self.rates["organism"].astype("str"), *of]) if name in of}
        table = pd.DataFrame.from_dict(places, orient="index")
        table = table[[name for name in table if table[name].astype("object").map(str).nunique() > 1]]
        if table.empty:
            return table
        ranks = {}
        for name, column in table.astype("object").items():
            values = dict.fromkeys([*self.reading.axis_values.get(str(name), ()), *column.dropna()])
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            ranks[str(name)] = column.map({value: at for at, value in enumerate(sorted(values) if numbers else values)})
        return table.loc[pd.DataFrame(ranks).sort_values([*map(str, ranks)], kind="stable").index]

    @cached_property
    def by_judge(self) -> dict[str, "Analysis"]:
        """The same answers by each judge of a grid that several judged, the leading one first; elsewhere this alone."""
        if not self.reading.judges:
            return {"": self}
        # Without the texts, most of the memory: rates need none.
        every = pd.concat([self.answers, self.reading.rejudged]).drop(columns="answer").assign(answer="")
        parts = {}
        for judge in self.reading.judges:
            rows = every[(every["asked_judge"] == judge).to_numpy()].reset_index(drop=True)
            logs = [each for each in self.evaluations if each.asked_judge == judge]
            parts[judge] = replace(self, reading=Reading(rows, rows.head(0), logs, []))
        return parts

    @cached_property
    def steps_not_recorded(self) -> frozenset[str]:
        """Organisms whose one checkpoint stands at step 1 because imported files do not say its step."""
        return frozenset(
            evaluation.organism
            for evaluation in self.evaluations
            if evaluation.organism is not None and not evaluation.step_recorded
        )

    def step_text(self, organism: str, step: int) -> str:
        """A step of an organism, or of seeds by label, for readers: its number, `last` where it is not recorded."""
        members = next((group.organisms for group in self.seeds if group.label == organism), (organism,))
        return "last" if step and self.steps_not_recorded.intersection(members) else str(step)

    @property
    def toy_models(self) -> bool:
        """Whether any answer is a toy model's."""
        return bool(self.answers["toy"].any())

    @property
    def toy_judge(self) -> bool:
        """Whether any score is the toy judge's."""
        return bool(self.answers["judge_toy"].any() or self.reading.rejudged["judge_toy"].any())

    @property
    def toy_warning(self) -> str | None:
        """What every table and figure must say if toys fed it; None otherwise."""
        who = [name for name, is_toy in (("toy models", self.toy_models), ("the toy judge", self.toy_judge)) if is_toy]
        if not who:
            return None
        return (
            f"TOY: made with {' and '.join(who)}. It shows that the pipeline works and says nothing about real models."
        )


def analyse(paths: Sequence[Path | str]) -> Analysis:
    """Reads logs and prepares everything that tables and figures need.

    Args:
        paths: Logs and folders of logs.

    Raises:
        UserError: A path does not exist.
        UserError: There is no judged answer.
    """
    return Analysis(read_logs([Path(path) for path in paths]))


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By size, domain, organism and step, so that every table and figure has one order."""
    scope = {"all": 0, "outside": 1, "in_domain": 2, "out_of_domain": 3, "general": 4}
    keys = pd.DataFrame(
        {
            "parameters": table["parameters"].astype("Float64").fillna(0),
            "size": table["size"].astype("str"),
            "domain": table["domain"].astype("str"),
            "organism": table["organism"].astype("str"),
            "step": table["step"],
            "scope": table["scope"].map(scope),
        }
    )
    return table.loc[keys.sort_values([str(name) for name in keys], kind="stable").index].reset_index(drop=True)
