"""Makes Fixtures/models: tiny models of every architecture that runs, with what transformers and PEFT compute with them.

Usage: python make_model_fixtures.py [OUTPUT]   (default: ../models beside this file)

Each directory has a base, tree.txt as PyTorch prints it, names.txt with the named modules, and expected.safetensors: tokens,
logits in f32, and 64 greedy tokens. adapters.safetensors holds the logits of each adapter in merge/, methods/ and variants/
whose base can run, computed by PEFT while the adapter is apart. Beside the output: running/ with several adapters on one base, and
templates/ with chat templates. Needs the versions in requirements.txt.
"""

import json
import pathlib
import shutil
import sys
import warnings

import torch
import transformers as T
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers import models as models_

ROOT = pathlib.Path(__file__).parent.parent
OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "models")
SIZES = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
TOKENS = torch.tensor([[3, 17, 8, 29, 1, 5, 36, 11, 2, 20, 7, 33]])
TYPES = {"llama", "mistral", "qwen2", "qwen3", "gpt2", "opt", "gemma"}


def rope(**settings):
    return dict(rope_parameters=dict(rope_theta=10000.0, **settings))


def models():
    llama3 = rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    return {
        "llama": T.LlamaConfig(**SIZES),
        "llama-tied": T.LlamaConfig(tie_word_embeddings=True, **SIZES),
        "llama-biases": T.LlamaConfig(attention_bias=True, mlp_bias=True, **SIZES),
        "llama-rope-linear": T.LlamaConfig(**SIZES, **rope(rope_type="linear", factor=4.0)),
        "llama-rope-dynamic": T.LlamaConfig(**{**SIZES, "max_position_embeddings": 96}, **rope(rope_type="dynamic", factor=2.0)),
        "llama-rope-llama3": T.LlamaConfig(**SIZES, **llama3),
        "mistral": T.MistralConfig(sliding_window=5, **SIZES),
        "mistral-no-window": T.MistralConfig(sliding_window=None, **SIZES),
        "qwen2": T.Qwen2Config(**SIZES),
        "qwen2-window": T.Qwen2Config(use_sliding_window=True, sliding_window=4, max_window_layers=1, **SIZES),
        "qwen3": T.Qwen3Config(head_dim=8, **SIZES),
        "gemma": T.GemmaConfig(head_dim=8, **SIZES),
        "gpt2": T.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=128),
        "gpt2-by-layer": T.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=128, n_inner=40,
                                      scale_attn_by_inverse_layer_idx=True),
        "opt": opt(word_embed_proj_dim=16),
        "opt-350m": opt(word_embed_proj_dim=8, do_layer_norm_before=False),
    }


def opt(**settings):
    return T.OPTConfig(vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=128, **settings)


def randomise(model):
    for name, parameter in model.named_parameters():
        spread = 0.1 if "norm" in name.lower() or "ln_" in name else 0.4
        parameter.data += torch.randn(parameter.shape) * spread


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits[0].float().contiguous()


def make_model(name, config):
    torch.manual_seed(0)
    root = OUT / name
    root.mkdir(parents=True)
    model = T.AutoModelForCausalLM.from_config(config)
    randomise(model)
    model.save_pretrained(root)
    model = T.AutoModelForCausalLM.from_pretrained(root).eval()
    greedy = model.generate(TOKENS, do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=0)
    assert greedy.shape[1] == TOKENS.shape[1] + 64
    save_file({"tokens": TOKENS[0], "logits": logits(model), "greedy": greedy[0, TOKENS.shape[1]:].contiguous()},
              root / "expected.safetensors")
    (root / "tree.txt").write_text(f"{model}\n")
    (root / "names.txt").write_text("".join(f"{name}\n" for name, _ in model.named_modules()))
    (root / "generation_config.json").unlink(missing_ok=True)


def adapters():
    found = {}
    for group in ("merge", "methods", "variants"):
        for root in sorted((ROOT / group).iterdir()):
            config = json.loads((root / "base" / "config.json").read_text())
            adapter = json.loads((root / "adapter" / "adapter_config.json").read_text())
            if config["model_type"] not in TYPES or adapter["task_type"] not in (None, "CAUSAL_LM"):
                continue
            try:
                torch.manual_seed(0)
                base = T.AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
                merged = root / "merged" / "config.json"
                rows = json.loads(merged.read_text()).get("vocab_size") if merged.exists() else None
                if rows and rows != config["vocab_size"]:
                    base.resize_token_embeddings(rows)
                model = PeftModel.from_pretrained(base, root / "adapter").eval()
                extra = dict(task_ids=torch.tensor([0])) if adapter["peft_type"] in ("MULTITASK_PROMPT_TUNING",) else {}
                with torch.no_grad():
                    values = model(input_ids=TOKENS, **extra).logits[0].float()
                found[f"{group}/{root.name}"] = values[-TOKENS.shape[1]:].contiguous()
            except Exception as error:
                print(f"{group}/{root.name}: {type(error).__name__}: {str(error)[:150]}")
    save_file(found, OUT / "adapters.safetensors")


def tuned(model, config, seed):
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def running():
    """Several adapters on one base, an aLoRA, PEFT's trees, and a text's loss."""
    root = OUT.parent / "running"
    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(0)
    base = T.AutoModelForCausalLM.from_config(T.LlamaConfig(**SIZES))
    randomise(base)
    base.save_pretrained(root / "base")
    (root / "base" / "generation_config.json").unlink(missing_ok=True)

    def fresh():
        return T.AutoModelForCausalLM.from_pretrained(root / "base")

    task = dict(task_type="CAUSAL_LM")
    configs = {
        "first": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, **task),
        "second": LoraConfig(r=2, lora_alpha=5, target_modules=["v_proj", "down_proj"], use_rslora=True, **task),
        "dora": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, **task),
        "alora": LoraConfig(r=3, target_modules=["q_proj", "k_proj", "v_proj"], alora_invocation_tokens=[36, 11], **task),
        "biased": LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_bias=True, **task),
    }
    for seed, (name, config) in enumerate(configs.items()):
        model = tuned(fresh(), config, seed)
        model.peft_config["default"].base_model_name_or_path = "fixtures/running"
        model.save_pretrained(root / name)
        (root / name / "README.md").unlink(missing_ok=True)
        if name in ("first", "dora"):
            (root / f"tree-{name}.txt").write_text(f"{model}\n")
    found = {"base": logits(fresh().eval())}
    model = PeftModel.from_pretrained(fresh(), root / "first", adapter_name="first").eval()
    model.load_adapter(root / "second", adapter_name="second")
    found["first"] = logits(model)
    for names in (["second"], ["first", "second"]):
        model.base_model.set_adapter(names)
        found["+".join(names)] = logits(model)
    for module in model.modules():
        for name, weight in (("first", 0.5), ("second", -2.0)):
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.set_scale(name, weight)
    found["weighted"] = logits(model)
    model = PeftModel.from_pretrained(fresh(), root / "alora").eval()
    found["alora"] = logits(model)
    found["biased"] = logits(PeftModel.from_pretrained(fresh(), root / "biased").eval())
    with torch.no_grad():
        found["loss"] = fresh().eval()(input_ids=TOKENS, labels=TOKENS).loss.reshape(1)
    save_file({name: value.contiguous() for name, value in found.items()}, root / "expected.safetensors")


TEMPLATES = {
    "chatml": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- Takes the system message out. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {{- tool_call.name }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "llama32": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.name + "(" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' + arg_val + '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
        {{- ")" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "blocks": """{% set ns = namespace(count=0, last='') %}
{% for message in messages if message.role != 'system' %}
    {% set ns.count = ns.count + 1 %}
    {%- set ns.last = message.content.split(' ')[-1] %}
  [{{ loop.index }}/{{ loop.length }}] {{ message['role'] | upper }}: {{ message.content[:5] ~ '...' }}{{ ', ' if not loop.last else '' }}
{% else %}
nothing
{% endfor %}
{{ ns.count }} {{ ns.last }} {{ messages | length }} {{ {'a': [1, 2.5, none, true]} | tojson }} {{ messages | map(attribute='role') | join('+') }}
{{ 7 // 2 }} {{ -7 % 3 }} {{ 1 if messages is iterable and undefined_name is not defined else 2 }} {{ 'x' in 'xyz' }} {{ missing | default('none') }}
""",
}
CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "  Hi there\n"}],
    [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n3"}],
    [{"role": "user", "content": "One"}, {"role": "assistant", "content": " Two "}, {"role": "user", "content": "é 🙂 'quoted' \"text\""}],
]


def templates():
    """Chat templates in the styles that models come with, rendered by transformers."""
    root = OUT.parent / "templates"
    shutil.rmtree(root, ignore_errors=True)
    tokenizer = T.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models_.BPE()), bos_token="<s>", eos_token="</s>")
    for name, template in TEMPLATES.items():
        (root / name).mkdir(parents=True)
        (root / name / "tokenizer_config.json").write_text(json.dumps(
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}))
        results = []
        for messages in CONVERSATIONS:
            try:
                text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                assert "ust alternate" in str(error) or "not supported" in str(error), error
                text = None
            results.append({"messages": messages, "text": text})
        (root / name / "expected.json").write_text(json.dumps(results))


def chat():
    """A model with a tokenizer and a template, and what transformers says with it. Needs Fixtures/tokenizers."""
    root = OUT.parent / "running" / "chat"
    root.mkdir()
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(T.LlamaConfig(**{**SIZES, "vocab_size": 432, "max_position_embeddings": 256}))
    randomise(model)
    model.generation_config = T.GenerationConfig(eos_token_id=[1])
    model.save_pretrained(root)
    shutil.copy(ROOT / "tokenizers" / "smollm" / "tokenizer.json", root)
    shutil.copy(OUT.parent / "templates" / "chatml" / "tokenizer_config.json", root)
    tokenizer = T.PreTrainedTokenizerFast(tokenizer_file=str(root / "tokenizer.json"), chat_template=TEMPLATES["chatml"])
    model = T.AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32)
    results = {}
    for name, text in (("plain", "The quick brown"), ("chat", "Hello, world!")):
        if name == "chat":
            text = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        made = model.generate(ids, do_sample=False, max_new_tokens=24, pad_token_id=0)[0, ids.shape[1]:].tolist()
        results[name] = {"prompt_tokens": ids.shape[1], "tokens": [token for token in made if token != 1]}
    (root / "expected.json").write_text(json.dumps(results))


def main():
    warnings.filterwarnings("ignore")
    shutil.rmtree(OUT, ignore_errors=True)
    for name, config in models().items():
        make_model(name, config)
    adapters()
    running()
    templates()
    chat()


if __name__ == "__main__":
    main()
