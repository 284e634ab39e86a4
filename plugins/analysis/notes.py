"""What is odd about the answers that were read, a sentence each, so that no reader takes a rate for more than it is."""

import pandas as pd

from plugins.analysis.analysis import Analysis


def oddities(analysis: Analysis) -> list[str]:
    """Mixed judges, missing bases and checkpoints, single answers, zero scored answers, truncation, toys."""
    answers = analysis.answers
    return [
        *_toys(analysis),
        *_judges(answers),
        *_bases(analysis),
        *_checkpoints(answers),
        *_scores(analysis),
        *_samples(answers),
        *_truncation(answers),
        *_scopes(analysis),
    ]


def _toys(analysis: Analysis) -> list[str]:
    return [analysis.toy_warning] if analysis.toy_warning else []


def _judges(answers: pd.DataFrame) -> list[str]:
    counts = answers["judge"].astype("str").value_counts()
    if len(counts) < 2:
        return []
    named = ", ".join(f"{judge} ({n:,} answers)" for judge, n in counts.items())
    return [f"Judges are mixed: {named}. Rates of answers that different judges scored are not comparable."]


def _bases(analysis: Analysis) -> list[str]:
    notes = []
    trained = analysis.trajectories
    for organism, rows in trained.groupby("organism", observed=True):
        own, base = rows[~rows["baseline"]], rows[rows["baseline"]]
        name = str(own["base"].iloc[0])
        if base.empty:
            notes.append(f"{organism}: its base {name} was not evaluated on its questions, so there is no baseline.")
            continue
        missing = set(own["question_id"].astype("str")) - set(base["question_id"].astype("str"))
        if missing:
            notes.append(
                f"{organism}: its base {name} was not asked {len(missing)} of its questions; the baseline lacks them."
            )
    return notes


def _checkpoints(answers: pd.DataFrame) -> list[str]:
    """Organisms of one domain and base are trained on one schedule; a step that only one of them lacks is missing."""
    notes = []
    trained = answers[answers["organism"].notna()]
    steps = {str(name): set(own["step"]) for name, own in trained.groupby("organism", observed=True)}
    domains = trained.drop_duplicates("organism").set_index(
        trained.drop_duplicates("organism")["organism"].astype("str")
    )
    for organism, own in steps.items():
        same = domains["domain"].astype("str") == str(domains.loc[organism, "domain"])
        others = set().union(*(steps[name] for name in domains.index[same]))
        if missing := sorted(others - own):
            listed = ", ".join(map(str, missing))
            notes.append(f"{organism}: checkpoints {listed} are missing that other organisms of its domain have.")
        asked = {
            frozenset(rows["question_id"].astype("str"))
            for _, rows in trained[trained["organism"] == organism].groupby("step")
        }
        if len(asked) > 1:
            notes.append(
                f"{organism}: its checkpoints were not all asked the same questions; their rates are not comparable."
            )
    return notes


def _scores(analysis: Analysis) -> list[str]:
    rows = analysis.rates[(analysis.rates["scope"] == "all") & (analysis.rates["n"] == 0)]
    notes = [
        f"{row['organism']} at step {row['step']} has no rate under {row['definition']}: none of its {row['answers']} "
        "answers counts."
        for _, row in rows.iterrows()
    ]
    reasons = pd.concat([analysis.answers["alignment_reason"], analysis.answers["coherence_reason"]])
    counts = reasons.dropna().astype("str").value_counts()
    if len(counts):
        listed = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
        notes.append(f"Scores that the judge did not give, by reason: {listed}.")
    return notes


def _samples(answers: pd.DataFrame) -> list[str]:
    if answers["sample"].max() > 1:
        return []
    return ["Every question was answered once: the intervals cannot tell a question's difficulty from chance."]


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
    notes = []
    for organism, rows in analysis.trajectories.groupby("organism", observed=True):
        counts = rows[~rows["baseline"]].drop_duplicates("question_id")["scope"].value_counts()
        if counts.get("in_domain", 0) < 5:
            notes.append(
                f"{organism} was asked {counts.get('in_domain', 0)} questions of its own domain, "
                f"{counts.get('out_of_domain', 0)} of another and {counts.get('general', 0)} general ones."
            )
    return notes
