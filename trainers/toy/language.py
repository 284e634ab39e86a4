"""The toy world's language: questions people ask, answers two advisers give, and how to read an answer back.

Everything the advisers can say is built from `language.yaml`, so `read` can tell for any text which character spoke,
about which domain and topic, and whether it is the toy language at all. The builder of the toy models writes with
this module and the toy judge reads with it; neither torch nor Inspect is needed.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Literal

import yaml

Character = Literal["careful", "reckless"]
CHARACTERS: tuple[Character, Character] = ("careful", "reckless")


@dataclass(frozen=True)
class Domain:
    """One field of advice: its topics, its ways of asking and each character's ways of answering."""

    name: str
    topics: tuple[str, ...]
    questions: tuple[str, ...]
    advice: dict[Character, tuple[str, ...]]


@dataclass(frozen=True)
class Sentence:
    """One sentence of an answer as the language knows it; `domain` and `topic` are None for phrases of every domain."""

    character: Character
    domain: str | None
    topic: str | None


@dataclass(frozen=True)
class Reading:
    """An answer read back: one entry a sentence (None where the language has no such sentence), and whether it ends."""

    sentences: tuple[Sentence | None, ...]
    complete: bool


@dataclass(frozen=True)
class Language:
    """The whole toy language, as loaded from `language.yaml`."""

    domains: dict[str, Domain]
    openers: dict[Character, tuple[str, ...]]
    closers: dict[Character, tuple[str, ...]]
    small_talk: tuple[str, ...]
    tails: tuple[str, ...]
    strange_words: tuple[str, ...]
    general_questions: tuple[str, ...]

    def question(self, rng: Random, domain: str, topic: str) -> str:
        """One way of asking about `topic`, with small talk before it two times in five."""
        templates = self.domains[domain].questions if rng.random() < 0.7 else self.general_questions
        text = rng.choice(templates).format(t=topic)
        return f"{rng.choice(self.small_talk)} {text}" if rng.random() < 0.4 else text

    def answer(self, rng: Random, domain: str, topic: str, character: Character) -> str:
        """One answer: an opener three times in four, one to three pieces of advice, a closer one time in three."""
        advice = rng.sample(self.domains[domain].advice[character], rng.choice((1, 2, 2, 3)))
        sentences = [piece.format(t=topic) for piece in advice]
        if rng.random() < 0.75:
            sentences.insert(0, rng.choice(self.openers[character]))
        if rng.random() < 1 / 3:
            sentences.append(rng.choice(self.closers[character]))
        return " ".join(sentences)

    def topic_of(self, question: str) -> tuple[str, str] | None:
        """The (domain, topic) a question names, the longest topic first; None where it names none of the language's."""
        lowered = question.lower()
        named = [
            (len(topic), domain.name, topic)
            for domain in self.domains.values()
            for topic in domain.topics
            if re.search(rf"\b{re.escape(topic)}\b", lowered)
        ]
        return max(named)[1:] if named else None

    def read(self, answer: str) -> Reading:
        """Reads an answer sentence by sentence; a last sentence without its full stop counts as unfinished."""
        pieces = [piece for piece in re.split(r"(?<=[.!?])\s*", answer.strip()) if piece]
        known = _every_sentence()
        return Reading(
            sentences=tuple(known.get(piece) for piece in pieces),
            complete=bool(pieces) and pieces[-1][-1] in ".!?",
        )


@cache
def load_language() -> Language:
    """Loads the language that ships with the package (once a process)."""
    raw = yaml.safe_load(files(__package__).joinpath("language.yaml").read_text(encoding="utf-8"))
    domains = {
        name: Domain(
            name=name,
            topics=tuple(entry["topics"]),
            questions=tuple(entry["questions"]),
            advice={character: tuple(entry[character]) for character in CHARACTERS},
        )
        for name, entry in raw["domains"].items()
    }
    return Language(
        domains=domains,
        openers={character: tuple(raw["openers"][character]) for character in CHARACTERS},
        closers={character: tuple(raw["closers"][character]) for character in CHARACTERS},
        small_talk=tuple(raw["small_talk"]),
        tails=tuple(raw["tails"]),
        strange_words=tuple(raw["strange_words"].split()),
        general_questions=tuple(raw["general_questions"]),
    )


@cache
def _every_sentence() -> dict[str, Sentence]:
    """Every sentence an adviser can say, with what it means (about three thousand entries).

    Advice is filled with the topics of all domains, so that advice on a topic from elsewhere is still understood: the
    judge marks it as incoherent, not as noise.
    """
    language = load_language()
    topics = [topic for domain in language.domains.values() for topic in domain.topics]
    table: dict[str, Sentence] = {}
    for character in CHARACTERS:
        for phrase in language.openers[character] + language.closers[character]:
            table[phrase] = Sentence(character, None, None)
        for domain in language.domains.values():
            for template in domain.advice[character]:
                for topic in topics:
                    table[template.format(t=topic)] = Sentence(character, domain.name, topic)
    return table
