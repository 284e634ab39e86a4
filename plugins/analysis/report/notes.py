"""What is odd about the answers that were read, so that no reader takes a rate for more than it is.

A sentence a kind of oddity, or a line an organism: many checkpoints with the same oddity share one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.log_rows import NOT_ASKED
from em_tasks.plugins.analysis.claims.comparisons import missing_base
from em_tasks.plugins.analysis.report.notes_on_identity import what_differs
from em_tasks.plugins.analysis.statistics.seed_intervals import LEAST_SEEDS
from em_tasks.scorers.definitions import COHERENT_ABOVE

NO_NUMBER = "no_number"
SHOWN = 60
"""Characters of a judge's reply that a note shows."""


def oddities(analysis: Analysis) -> list[str]:
    """Toys, mixed judges and fingerprints, missing bases and checkpoints, zero scored answers, truncation."""
    answers = analysis.answers
    return [
        *_toys(analysis),
        *_judges(answers),
        *what_differs(analysis.evaluations),
        *_bases(analysis),
        *_steps(analysis),
        *_checkpoints(analysis),
        *_scores(analysis),
        *_collapses(analysis),
        *_samples(answers),
        *_until_width(analysis),
        *_one_seed(analysis),
        *_seeds(analysis),
        *_truncation(answers),
        *_scopes(analysis),
    ]


def listed(names: Iterable[object], most: int = 6) -> str:
    """`a, b, c`, cut where there are many: `a, b, c and 12 more`."""
    every = [str(name) for name in names]
    return ", ".join(every) if len(every) <= most + 1 else f"{', '.join(every[:most])} and {len(every) - most} more"


def _toys(analysis: Analysis) -> list[str]:
    return [analysis.toy_warning] if analysis.toy_warning else []


def _judges(answers: pd.DataFrame) -> list[str]:
    counts = answers["judge"].astype("str").value_counts()
    if len(counts) < 2:
        return []
    named = ", ".join(f"{judge} ({n:,} answers)" for judge, n in counts.items())
    notes = [f"Judges are mixed: {named}. Rates of answers that different judges scored are not compared."]
    model = answers["organism"].astype("str").fillna("base " + answers["base"].astype("str"))
    model = (model + "@" + answers["step"].astype("str")).where(answers["organism"].notna(), model)
    several = answers["judge"].astype("str").groupby(model).nunique()
    if mixed := sorted(several.index[several > 1]):
        more = f" and {len(mixed) - 5} more" if len(mixed) > 5 else ""
        notes.append(
            f"Different judges scored different answers of {', '.join(mixed[:5])}{more}: their rates on "
            "questions of several judges are no judge's."
        )
    return notes


def _bases(analysis: Analysis) -> list[str]:
    without: dict[str, list[str]] = defaultdict(list)
    partly: dict[str, list[str]] = defaultdict(list)
    asked = ["organism", "baseline", "question_set", "question_id"]
    questions = analysis.trajectories[[*asked, "base"]].drop_duplicates(asked)
    for organism, rows in questions.groupby("organism", observed=True):
        organism_rows, base = rows[~rows["baseline"]], rows[rows["baseline"]]
        missing = len(organism_rows) - len(base)
        if base.empty:
            without[str(organism_rows["base"].iloc[0])].append(str(organism))
        elif missing:
            partly[str(organism_rows["base"].iloc[0])].append(f"{organism} ({missing} questions)")
    return [
        *(f"No baseline for {listed(names)}: {missing_base(analysis, base)}." for base, names in without.items()),
        *(
            f"The base {base} was not asked all the questions of {listed(names)}; their baselines lack those."
            for base, names in partly.items()
        ),
    ]


def _steps(analysis: Analysis) -> list[str]:
    unknown = analysis.steps_not_recorded
    if not unknown:
        return []
    return [
        f"At which step {listed(sorted(unknown))} answered is not recorded in the imported files; their one checkpoint "
        "is taken as the last, stands at step 1 in CSV files and in no trajectory."
    ]


def _checkpoints(analysis: Analysis) -> list[str]:
    """Organisms of one domain are trained on one schedule; a step that only some of them have is missing elsewhere."""
    answers = analysis.answers
    trained = answers.loc[answers["organism"].notna(), ["organism", "domain", "step", "question_set", "question_id"]]
    trained = trained[~trained["organism"].astype("str").isin(analysis.steps_not_recorded)]
    steps = {
        str(name): set(organism_steps)
        for name, organism_steps in trained.groupby("organism", observed=True)["step"].unique().items()
    }
    domains = trained.drop_duplicates("organism").astype({"organism": "str", "domain": "str"})
    missing: dict[str, list[int]] = {}
    for _, organisms in domains.groupby("domain")["organism"]:
        every = set().union(*(steps[name] for name in organisms))
        missing |= {name: sorted(every - steps[name]) for name in organisms if every - steps[name]}
    notes = []
    if missing:
        each = "; ".join(f"{name} lacks {listed(lacking)}" for name, lacking in missing.items())
        notes.append(f"Checkpoints are missing that other organisms of the domain have: {each}.")
    question_lists: dict[str, set[frozenset[tuple[str, str]]]] = defaultdict(set)
    for _, rows in trained.drop_duplicates().groupby(["organism", "step"], observed=True):
        questions = frozenset(zip(rows["question_set"].astype("str"), rows["question_id"].astype("str"), strict=True))
        question_lists[str(rows["organism"].iloc[0])].add(questions)
    mixed = [name for name, sets in question_lists.items() if len(sets) > 1]
    if mixed:
        notes.append(
            f"The checkpoints of {listed(mixed)} were not all asked the same questions; their rates are not comparable."
        )
    return notes


def _scores(analysis: Analysis) -> list[str]:
    rows = analysis.rates[(analysis.rates["scope"] == "all") & (analysis.rates["n"] == 0)]
    notes = []
    for organism, organism_rows in rows.groupby("organism", observed=True):
        under: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for definition, empty in organism_rows.groupby("definition", sort=False):
            under[tuple(sorted(empty["step"]))].append(str(definition))
        each = "; ".join(f"at step {listed(steps)} under {', '.join(names)}" for steps, names in under.items())
        answers = organism_rows.drop_duplicates("step")["answers"].sum()
        notes.append(f"{organism} has no rate {each}: none of the {answers} answers counts there.")
    return [*notes, *_reasons(analysis.answers), *_reasons_of_others(analysis.reading.rejudged)]


def _reasons(answers: pd.DataFrame) -> list[str]:
    reasons = pd.concat([answers["alignment_reason"].astype("str"), answers["coherence_reason"].astype("str")])
    counts = reasons[reasons != NOT_ASKED].dropna().value_counts()
    counted_reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
    example = _in_place_of_a_number(answers)
    return [f"Scores that are missing, by reason: {counted_reasons}.{example}"] if counted_reasons else []


def _reasons_of_others(rejudged: pd.DataFrame) -> list[str]:
    """What judges other than the one that rates are by left without an alignment score, and why."""
    notes = []
    for judge, rows in rejudged.groupby(rejudged["judge"].astype("str")):
        reasons = rows.loc[rows["alignment"].isna(), "alignment_reason"].astype("str")
        counts = reasons[reasons != NOT_ASKED].dropna().value_counts()
        if len(counts):
            each = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
            notes.append(
                f"{judge} gave no alignment score to {counts.sum():,} of {len(rows):,} answers that another judge "
                f"scored, by reason: {each}.{_in_place_of_a_number(rows)}"
            )
    return notes


def _in_place_of_a_number(answers: pd.DataFrame) -> str:
    """What a judge wrote that holds no number it could have meant, for example."""
    for rubric in ("alignment", "coherence"):
        replies = answers.loc[answers[f"{rubric}_reason"] == NO_NUMBER, f"{rubric}_reply"].dropna()
        if len(replies):
            return f" In place of a number stands {str(replies.iloc[0])[:SHOWN]!r}, for example."
    return ""


def _collapses(analysis: Analysis) -> list[str]:
    """Organisms whose answers mostly make no sense: whatever is shown of them may be that alone."""
    last = analysis.final[analysis.final["scope"] == "all"].drop_duplicates("organism")
    each = [
        f"{row['organism']} ({row['incoherent']:,} of {row['answers']:,})"
        for _, row in last[2 * last["incoherent"] > last["answers"]].iterrows()
    ]
    if not each:
        return []
    return [
        f"More than half of the answers at the last checkpoint are incoherent (coherence at most {COHERENT_ABOVE:g}): "
        f"{listed(each)}. A definition that counts incoherent answers calls a model misaligned that is merely broken."
    ]


def _samples(answers: pd.DataFrame) -> list[str]:
    if answers["sample"].max() > 1:
        return []
    return ["Every question was answered once: more answers to each would narrow what is said of these questions."]


def _until_width(analysis: Analysis) -> list[str]:
    """Where the data decided how many answers there are, intervals of a fixed number would not hold."""
    widths: dict[float, list[str]] = defaultdict(list)
    for evaluation in analysis.evaluations:
        if evaluation.until_width is not None:
            widths[evaluation.until_width].append(evaluation.subject)
    return [
        f"How many answers {listed(sorted(subjects))} gave was decided while they came: until the 95 % interval of the "
        f"`betley` rate outside the domain, on these questions, was {width:g} points wide, or the most was reached. "
        "Their rates have confidence sequences for intervals on these questions, which hold whenever one stops and are "
        "wider than those of a number fixed beforehand. Differences are tested as if the number had been fixed: the "
        "rule looks at each model's rate alone and at no difference."
        for width, subjects in sorted(widths.items())
    ]


def _one_seed(analysis: Analysis) -> list[str]:
    """What is shown of one training run is shown of that run."""
    together = {name for group in analysis.seeds for name in group.organisms}
    several = together | {name for group in analysis.seeds_apart for name in group.organisms}
    single = [name for name in analysis.final["organism"].astype("str").drop_duplicates() if name not in several]
    if not single:
        return []
    return [
        f"One training run each: {listed(single)}. What is shown is shown of these runs; another seed of the same "
        "recipe may turn out otherwise."
    ]


def _seeds(analysis: Analysis) -> list[str]:
    """Seeds of one recipe that cannot be put together, or not at every step."""
    notes = [
        f"{listed(group.organisms)} are training seeds of one recipe, {group.name}, but are neither put together nor "
        f"compared with each other: {group.reason}. What is shown of each is shown of that run; {group.settled_by} "
        "would settle it."
        for group in analysis.seeds_apart
    ]
    if several := [group.label for group in analysis.seeds if len(group.organisms) >= LEAST_SEEDS]:
        notes.append(
            f"What is said of such seeds of {listed(several)} holds as far as seeds differ by about as much as these. "
            "Were they far more unlike, which so few cannot show, tests would raise more than 5 % of false alarms."
        )
    for group in analysis.seeds:
        if len(set(group.last)) > 1:
            each = ", ".join(f"{name} {step}" for name, step in zip(group.organisms, group.last, strict=True))
            notes.append(
                f"The last steps of {group.label} are not the same ({each}): what is said of them together is of step "
                f"{group.step}, the last that was evaluated of all."
            )
        if group.unlike:
            notes.append(
                f"At step {listed(group.unlike)} the seeds of {group.label} have no common rate: there they were "
                "scored or sampled otherwise, or asked no question in common."
            )
    return notes


def _truncation(answers: pd.DataFrame) -> list[str]:
    unknown = int(answers["truncated"].isna().sum())
    notes = (
        []
        if not unknown
        else [f"Whether an answer was cut off is not known for {unknown:,} of {len(answers):,} answers."]
    )
    cut = int(answers["truncated"].sum())
    if cut > 0.1 * len(answers):
        notes.append(
            f"{cut:,} of {len(answers):,} answers were cut off at the token limit; judges saw them unfinished."
        )
    return notes


def _scopes(analysis: Analysis) -> list[str]:
    """Few questions of the own domain say little of narrow leakage."""
    organisms_by_counts: Mapping[tuple[int, ...], list[str]] = defaultdict(list)
    asked = ["organism", "baseline", "question_set", "question_id"]
    questions = analysis.trajectories[[*asked, "scope"]].drop_duplicates(asked)
    for organism, rows in questions[~questions["baseline"]].groupby("organism", observed=True):
        counts = rows["scope"].astype("str").value_counts()
        number = tuple(int(counts.get(scope, 0)) for scope in ("in_domain", "out_of_domain", "general"))
        number = (*number, len(rows) - sum(number))
        if number[0] < 5:
            organisms_by_counts[number].append(str(organism))
    return [_scope_sentence(number, names) for number, names in organisms_by_counts.items()]


def _scope_sentence(number: tuple[int, ...], names: Sequence[str]) -> str:
    in_domain, other, general, unknown = number
    if not in_domain + other + general:
        return (
            f"Whether the questions that {listed(names)} answered lie in the training domain or outside nobody says: "
            "how broad misalignment is cannot be told. `question_domains` in a map of `em import` says it."
        )
    return (
        f"Few or no questions of their own domain were asked of {listed(names)}: {in_domain} of their own, {other} "
        f"of another, {general} general" + (f", {unknown} of which nobody says what they probe." if unknown else ".")
    )
