"""Writes Fixtures/training/generation.json: what transformers takes of a conversation as the assistant's tokens.

`make_generation_fixtures.py`, with requirements.txt. Templates mark the assistant's text with `{% generation %}`.
"""
import json
import pathlib

from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parent.parent
TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
TEMPLATES = {
    "content alone": TURNS + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
                             "{% endif %}{{ '\n' }}{% endfor %}",
    "with the end": TURNS + "{% if m.role == 'assistant' %}{%- generation -%} {{ m.content + '\n' }} {%- endgeneration -%}"
                            "{% else %}{{ m.content }}{{ '\n' }}{% endif %}{% endfor %}",
    "after a space": TURNS + "{% if m.role == 'assistant' %}{{ ' ' }}{% generation %}{{ m.content }}{% endgeneration %}!"
                             "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "within a macro": "{% macro say(m) %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}"
                      "{{ m.content }}{% endif %}{% endmacro %}" + TURNS + "{{ say(m) }}{{ '\n' }}{% endfor %}",
}
CONVERSATIONS = [
    [("user", "Hello"), ("assistant", "world")],
    [("system", "The quick"), ("user", "brown fox"), ("assistant", "Hello world"), ("user", "again"), ("assistant", "the lazy dog, é")],
    [("user", "one"), ("assistant", "two"), ("user", "three")],
]

tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "running" / "chat" / "tokenizer.json"))
cases = []
for name, template in TEMPLATES.items():
    for turns in CONVERSATIONS:
        messages = [{"role": r, "content": c} for r, c in turns]
        found = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
        cases.append({"name": name, "template": template, "messages": messages, "input_ids": list(found["input_ids"]),
                      "mask": list(found["assistant_masks"])})
        print(name, cases[-1]["mask"])
(ROOT / "training" / "generation.json").write_text(json.dumps(cases, indent=1) + "\n")
