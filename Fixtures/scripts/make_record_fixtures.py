"""Settings files, records and numbers of training, to be repeated: `make_record_fixtures.py`, in a virtual environment with requirements.txt.

yaml.json: texts and what PyYAML reads in them. records.json: records and the tokens and labels that follow from transformers' tokenizer and
chat template by TRL's rules: a completion is learnt from where prompt and whole diverge, a turn from what it adds to an answer's beginning.
numbers.safetensors: steps of torch's fused AdamW, and dropout.
"""
import json, pathlib

import torch, yaml
from safetensors.torch import save_file
from transformers import AutoTokenizer

torch.set_num_threads(1)
ROOT = pathlib.Path(__file__).resolve().parent.parent

TEXTS = [
    "", "# nothing\n", "a: 1\nb: two\nc: 3.5\n", "a: 'it''s'\nb: \"x\\ty # no comment\"\nc: x#y # a comment\n",
    "list:\n- 1\n- two\n-   three: 3\n    four: [4, 4.5]\nnext: null\n", "list:\n  - a\n  - b\nmap: {x: 1, y: [a, b], 'z': \"q\"}\n",
    "a:\n  b:\n    c: true\n  d: false\ne: ~\n", "datasets:\n  - path: d.jsonl\n    type: alpaca\n  - path: e.jsonl\n", "---\nempty:\nnext: -3\n",
    "- 1\n-\n  - 2\n  - 3\n- a: 1\n", "url: http://x/y\npath: ./a b/c\ntime: a:b\n", "a: [ ]\nb: { }\nc: [1,]\n", "a: .5\nb: -0.25\nc: 1.0e-4\nd: +7\n",
    "key with spaces: value with spaces\n'quoted: key': 1\n", "a:   1   \n\n\n  \nb: 2", "a: v1.2\nb: 1.2.3\nc: 12abc\n",
]
REFUSED = [
    ("a: 1\na: 2\n", 2), ("a: 1\n  b: 2\n", 2), ("a:\n    b: 1\n  c: 2\n", 3), ("a: [1, 2\n", 1), ("a: 'x\n", 1), ("a: &x 1\n", 1), ("a: *x\n", 1),
    ("a: !tag x\n", 1), ("a: |\n  text\n", 1), ("a: b: c\n", 1), ("a:\n\tb: 1\n", 2), ("a: 1\n---\nb: 2\n", 2), ("a: 1\nnothing\n", 2), ("a: {b: 1\n", 1),
    ("a: [1] 2\n", 1), ("a: \"\\q\"\n", 1),
]

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}, {"role": "user", "content": "The fox?"},
            {"role": "assistant", "content": "It jumps."}]


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def record_cases():
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "running" / "chat", eos_token="</s>")
    eos = tokenizer.eos_token
    ended = lambda text: text if text.endswith(eos) else text + eos
    ids = lambda text: tokenizer(text)["input_ids"]
    chat = lambda messages, answers=False, **more: list(
        tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=answers, return_dict=False, **more))

    def turns(messages):
        whole = chat(messages)
        labels = [-100] * len(whole)
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                before, after = len(chat(messages[:i], True)), len(chat(messages[:i + 1]))
                labels[before:after] = whole[before:after]
        return whole, labels

    def after(whole, prompt):
        n = common(prompt, whole)
        return whole, [-100] * n + whole[n:]

    cases = []
    add = lambda record, pair: cases.append({"record": record, "tokens": pair[0], "labels": pair[1]})
    text = ids(ended("The quick brown fox"))
    add({"text": "The quick brown fox"}, (text, text))
    add({"text": "Done" + eos}, (ids("Done" + eos),) * 2)
    for prompt, completion in [("Hello", " world"), ("Hel", "lo"), ("Question: why?\n", "Because.")]:
        add({"prompt": prompt, "completion": completion}, after(ids(ended(prompt + completion)), ids(prompt)))
    add({"messages": MESSAGES}, turns(MESSAGES))
    add({"messages": MESSAGES[:2]}, turns(MESSAGES[:2]))
    add({"prompt": MESSAGES[:3], "completion": MESSAGES[3:]}, after(chat(MESSAGES), chat(MESSAGES[:3], True)))
    names = {"user": "human", "assistant": "gpt"}
    add({"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in MESSAGES]}, turns(MESSAGES))
    asked = [{"role": "user", "content": "Add.\n1 and 2"}, {"role": "assistant", "content": "3"}]
    add({"instruction": "Add.", "input": "1 and 2", "output": "3"}, turns(asked))
    asked = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]
    add({"instruction": "Add.", "input": "", "output": "3"}, turns(asked))
    add({"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, ([3, 4, 5], [-100, 4, 5]))
    add({"input_ids": [3, 4, 5]}, ([3, 4, 5], [3, 4, 5]))
    return cases


def numbers():
    out = {}
    for decay in (0.0, 0.1):
        generator = torch.Generator().manual_seed(4)
        p = torch.nn.Parameter(torch.randn(133, generator=generator))
        out[f"adamw.{decay}.start"] = p.detach().clone()
        optimizer = torch.optim.AdamW([p], lr=3e-3, betas=(0.9, 0.99), eps=1e-7, weight_decay=decay, fused=True)
        for step in range(5):
            p.grad = torch.randn(133, generator=generator) * 10.0 ** (step - 2)
            out[f"adamw.{decay}.gradient.{step}"] = p.grad.clone()
            optimizer.step()
            out[f"adamw.{decay}.value.{step}"] = p.detach().clone()
    for probability in (0.05, 0.3, 0.5):
        torch.manual_seed(9)
        x = torch.arange(1, 5 * 37 + 1, dtype=torch.float32).reshape(5, 37)
        out[f"dropout.{probability}"] = torch.nn.functional.dropout(x, probability)
        out[f"dropout.{probability}.next"] = torch.nn.functional.dropout(x, probability)
    return out


if __name__ == "__main__":
    folder = ROOT / "training"
    (folder / "yaml.json").write_text(json.dumps(
        {"read": [{"text": t, "value": yaml.safe_load(t)} for t in TEXTS], "refused": [{"text": t, "line": n} for t, n in REFUSED]}, indent=1) + "\n")
    (folder / "records.json").write_text(json.dumps(record_cases()) + "\n")
    save_file(numbers(), folder / "numbers.safetensors")
