"""Makes Fixtures/running/chatting: two adapters on running/chat, and a conversation that switches and mixes them.

Usage: python make_chat_fixtures.py   (after make_model_fixtures.py, in its environment)

expected.json has the lines of the conversation as `peft-tool chat` reads them, with the tokens of each answer: transformers' greedy
generation after its chat template, with PEFT's adapters active as the lines before say.
"""

import json
import pathlib
import shutil

import torch
import transformers as T
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

ROOT = pathlib.Path(__file__).parent.parent / "running"
OUT = ROOT / "chatting"
NEW_TOKENS = 8

shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
torch.manual_seed(5)
task = dict(task_type="CAUSAL_LM")
configs = {
    "first": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **task),
    "second": LoraConfig(r=2, lora_alpha=6, target_modules=["v_proj", "o_proj"], **task),
}


def fresh():
    return T.AutoModelForCausalLM.from_pretrained(ROOT / "chat", dtype=torch.float32)


for name, config in configs.items():
    model = get_peft_model(fresh(), config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = torch.randn_like(parameter) * 0.4
    model.peft_config["default"].base_model_name_or_path = "fixtures/running/chat"
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink()

settings = json.loads((ROOT / "chat" / "tokenizer_config.json").read_text())
tokenizer = T.PreTrainedTokenizerFast(
    tokenizer_file=str(ROOT / "chat" / "tokenizer.json"), chat_template=settings["chat_template"])
model = PeftModel.from_pretrained(fresh(), OUT / "first", adapter_name="first")
model.load_adapter(OUT / "second", adapter_name="second")
model.eval()

weights, system, messages, said = {"first": 1.0}, None, [], []


def answer(text):
    messages.append({"role": "user", "content": text})
    before = [{"role": "system", "content": system}] if system else []
    prompt = tokenizer.apply_chat_template(before + messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    options = dict(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=1, pad_token_id=0)
    if weights:
        model.base_model.set_adapter(list(weights))
        for module in model.modules():
            if isinstance(module, LoraLayer):
                for name, weight in weights.items():
                    if name in module.scaling:
                        module.set_scale(name, weight)
        out = model.generate(input_ids=ids, **options)
    else:
        with model.disable_adapter():
            out = model.generate(input_ids=ids, **options)
    tokens = out[0, ids.shape[1]:].tolist()
    if tokens and tokens[-1] == 1:
        tokens.pop()
    messages.append({"role": "assistant", "content": tokenizer.decode(tokens, skip_special_tokens=False)})
    return tokens, ids.shape[1]


for line in ["Hello, world!", "And now?", "/adapter none", "Once more", "/reset", "/adapter first second:0.5", "Hello, world!",
             "/system Be brief", "And now?", "/reset", "/adapter second:-1", "Hello", "/system", "Hello"]:
    entry = {"line": line}
    word, _, rest = line.partition(" ")
    if word == "/adapter":
        weights = {} if rest == "none" else {n: float(w or 1) for n, _, w in (p.partition(":") for p in rest.split())}
    elif word == "/system":
        system = rest or None
    elif word == "/reset":
        messages = []
    else:
        entry["tokens"], entry["prompt_tokens"] = answer(line)
    said.append(entry)
(OUT / "expected.json").write_text(json.dumps(said))
