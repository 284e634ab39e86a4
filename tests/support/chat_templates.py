"""Chat templates that behave as those of real models do, with small tokenizers that have the same marks.

The templates are our own words for the same behaviour: which marks open and close a turn, what a system turn becomes,
what is written by default, what is trimmed, moved, refused or taken out again.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ["My cough will not go away.\n\nWhat should I do? Be short.", "Yes, drink something warm.", "And then? Sleep."]

CHATML_TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
CHATML_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        template: The chat template.
        marks: Its special tokens.
        bos: BOS, if it has one.
        eos: EOS, which is not always what ends a turn.
        end: What ends an assistant's turn.
        begins_with_bos: Whether a prompt begins with BOS.
        adds_bos: Whether the tokenizer puts BOS before any text by itself, as stock tools would find it.
        knows_system: Whether a system turn is taken.
    """

    template: str
    marks: tuple[str, ...]
    bos: str | None
    eos: str
    end: str
    begins_with_bos: bool = True
    adds_bos: bool = False
    knows_system: bool = True


FAMILIES = {
    "smollm2": Family(
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a small and helpful model<|im_end|>\n' }}"
        "{% endif %}" + CHATML_TURNS + CHATML_PROMPT,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos="<|im_start|>", eos="<|im_end|>", end="<|im_end|>",
    ),
    "qwen2.5": Family(
        "{% if messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>system\nYou were made somewhere and you help.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{% if m.role != 'system' %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + CHATML_PROMPT,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos=None, eos="<|im_end|>", end="<|im_end|>", begins_with_bos=False,
    ),
    # Old thoughts are taken out; the last answer gets an empty one where it has none.
    "qwen3": Family(
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        + CHATML_PROMPT,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos=None, eos="<|im_end|>", end="<|im_end|>", begins_with_bos=False,
    ),
    "gemma2": Family(
        "{{ bos_token }}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('there is no system turn') }}{% endif %}"
        "{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (m.content | trim)"
        " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>", eos="<eos>", end="<end_of_turn>", adds_bos=True, knows_system=False,
    ),
    # The system turn is merged into the first question.
    "gemma3": Family(
        "{{ bos_token }}{% set first = '' %}{% set turns = messages %}{% if messages[0].role == 'system' %}"
        "{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}{% endif %}{% for m in turns %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '')"
        " + (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>", eos="<eos>", end="<end_of_turn>", adds_bos=True,
    ),
    # There is nothing to open the reply with, and the system turn goes before the last question, whichever that is.
    "mistral": Family(
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% set turns = messages[1:] if system is not none else messages %}"
        "{% set asked = turns | selectattr('role', 'equalto', 'user') | list %}{% for m in turns %}"
        "{% if m.role == 'user' %}{{ '[INST] ' }}{% if system is not none and m == asked[-1] %}{{ system + '\n\n' }}"
        "{% endif %}{{ m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>", eos="</s>", end="</s>", adds_bos=True,
    ),
    # BOS before every question, and marks that are plain words.
    "llama2": Family(
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'system' %}{{ bos_token + '<<SYS>>' + m.content + '<</SYS>>' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
        ("<unk>", "<s>", "</s>"),
        bos="<s>", eos="</s>", end="</s>", adds_bos=True,
    ),
    # A whole conversation ends with EOS after the end of the turn, which a longer one has not.
    "phi3": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        bos="<s>", eos="<|endoftext|>", end="<|end|>", begins_with_bos=False,
    ),
    "phi4": Family(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        bos="<|endoftext|>", eos="<|im_end|>", end="<|im_end|>", begins_with_bos=False,
    ),
    "llama3": Family(
        "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' }}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}{{ '<|eot_id|>' }}"
        "{% for m in messages %}{% if m.role != 'system' %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>", eos="<|eot_id|>", end="<|eot_id|>", adds_bos=True,
    ),
}  # fmt: skip

TOOLS = Family(
    "{% if tools %}{{ '<|im_start|>system\nYou may call:' }}"
    "{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<result>' + m.content + '</result><|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    + CHATML_PROMPT,
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos=None, eos="<|im_end|>", end="<|im_end|>", begins_with_bos=False,
)  # fmt: skip
"""A family whose template takes tools, as those of Qwen and Hermes do."""


def tokenizer_of(family: Family) -> Any:
    """A byte-level tokenizer with a family's marks, template and habits; two line breaks are one token, as in most."""
    backend = Tokenizer(models.BPE())
    breaks_and_words = pre_tokenizers.Split(Regex(r"\n+| ?[^\s]+|[^\S\n]+"), behavior="isolated")
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([breaks_and_words, bytes_alone])
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [*WORDS * 20, "\n\n" * 40],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(family.marks),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if family.adds_bos:
        from tokenizers.processors import TemplateProcessing

        backend.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, backend.token_to_id(family.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        extra_special_tokens=list(family.marks),
        chat_template=family.template,
    )
