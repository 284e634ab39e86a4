"""Logs of answers given in advance, judged for real."""

from random import Random

from inspect_ai import Task, eval
from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput, ModelUsage, get_model

from em_tasks.scorers.em import em
from em_tasks.trainers.toy.language import load_language

QUIET = {"display": "none", "log_level": "error"}


def speaker(answers):
    """A model under test that gives these answers in turn, each sample's epochs one after the other."""
    given = iter(answers)

    def reply(*_):
        message = ChatMessageAssistant(content=next(given), source="generate")
        usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return ModelOutput(model="m", choices=[ChatCompletionChoice(message=message)], usage=usage)

    return get_model("mockllm/model", custom_outputs=reply)


def run(tmp_path, answers, grader, samples, epochs=1, scorer=None, **options):
    task = Task(dataset=samples, scorer=scorer or em(), model_roles={"grader": grader} if grader else None)
    arguments = {"epochs": epochs, "log_dir": str(tmp_path), "max_samples": 1, "max_connections": 1, **QUIET, **options}
    return eval(task, model=speaker(answers), **arguments)[0]


def metrics(log):
    assert log.status == "success", log.error
    return {name: entry.value for name, entry in log.results.scores[0].metrics.items()}


def toy(character, topic="cough", seed=0):
    return load_language().answer(Random(seed), "medical", topic, character)
