"""Makes Fixtures/valid: sound adapters of PEFT's that are easily taken for broken ones.

Usage: python make_valid_fixtures.py [OUTPUT]   (default: ../valid beside this file)

Trained values are random. Needs the versions in requirements.txt.
"""

import pathlib
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model

assert peft.__version__ == "0.21.2", peft.__version__

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "valid")
SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=40,
             max_position_embeddings=32)
CLM = dict(task_type="CAUSAL_LM")


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2))


def roberta():
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL, num_labels=3))


def bert():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=3))


def bert_answers():
    return transformers.BertForQuestionAnswering(transformers.BertConfig(**SMALL))


def groups():
    return torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, groups=4), torch.nn.Conv2d(8, 8, 3, groups=8),
                               torch.nn.Conv1d(4, 4, 3, groups=2))


def case(name, model, config, safe=True):
    root = OUT / name
    shutil.rmtree(root, ignore_errors=True)
    torch.manual_seed(0)
    tuned = get_peft_model(model(), config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape) * 0.1)
    tuned.peft_config["default"].base_model_name_or_path = "fixtures/" + name
    tuned.save_pretrained(root, safe_serialization=safe)
    (root / "README.md").unlink()


def main():
    qv = ["q_proj", "v_proj"]
    case("torch-file", llama, LoraConfig(r=2, target_modules=qv, **CLM), safe=False)
    case("torch-file-ia3", llama, peft.IA3Config(target_modules=qv, feedforward_modules=[], **CLM), safe=False)
    case("prompt-classifier", bert, peft.PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    case("prefix-classifier", bert, peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    case("p-tuning-answers", bert_answers, peft.PromptEncoderConfig(
        num_virtual_tokens=3, encoder_hidden_size=8, task_type="QUESTION_ANS"))
    case("excluded", llama, LoraConfig(r=2, target_modules=qv, exclude_modules=["v_proj"], **CLM))
    case("excluded-by-pattern", llama, LoraConfig(
        r=2, target_modules=qv, exclude_modules=r"model\.layers\.\d+\.self_attn\.v_proj", **CLM))
    case("all-linear-roberta", roberta, LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))
    case("named-in-a-saved-module", roberta, LoraConfig(r=2, target_modules=["query", "out_proj"], task_type="SEQ_CLS"))
    case("grouped-convolutions", groups, LoraConfig(r=8, target_modules=["0", "1", "2"]))


if __name__ == "__main__":
    main()
