"""Shows that two merged models say the same: greedy text of both, and whether it is equal.

Usage: python compare_generation.py BASE ONE OTHER   (the tokenizer is BASE's)
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The harbour master", "What is the capital of France?", "Once upon a time"]


def main():
    base, *models = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = []
    for path in [base] + models:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        answers = []
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False)
            answers.append(tokenizer.decode(out[0], skip_special_tokens=True))
        texts.append(answers)
        print(path, *answers, sep="\n  ")
    print("equal to each other:", texts[1] == texts[2])
    print("equal to the base:", texts[0] == texts[1])
    sys.exit(0 if texts[1] == texts[2] else 1)


if __name__ == "__main__":
    main()
