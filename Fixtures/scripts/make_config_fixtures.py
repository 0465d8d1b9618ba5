"""Makes Fixtures/configs: adapter_config.json files written by PEFT 0.21.2 and by earlier releases.

Usage: python make_config_fixtures.py OLD_SOURCES [OUTPUT]

current/NAME.json are files of PEFT 0.21.2. former/VERSION.json are files that `LoraConfig.save_pretrained` of an earlier
release wrote, and former/VERSION.resaved.json the same after PEFT 0.21.2 has loaded and saved them. OLD_SOURCES holds
one directory for each release: `pip download --no-deps peft==VERSION`, unpacked.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import peft
from peft import LoraConfig

assert peft.__version__ == "0.21.2", peft.__version__
SOURCES = pathlib.Path(sys.argv[1])
OUT = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent.parent / "configs")
warnings.simplefilter("ignore")

CURRENT = {
    "default": {},
    "numbers": dict(r=64, lora_alpha=16.0, lora_dropout=0.05),
    "small-and-large-numbers": dict(lora_alpha=1e-05, lora_dropout=1.5e-07),
    "large-alpha": dict(lora_alpha=1e16),
    "non-ascii": dict(target_modules=["qé", "v\t\"😀"], revision="main\\x"),
    "pattern-target": dict(target_modules=r".*\.(q|v)_proj"),
    "one-target": dict(target_modules=["q_proj"], task_type="CAUSAL_LM", inference_mode=True),
    "patterns": dict(target_modules=["q_proj"], rank_pattern={"z": 4, "a.b": 8}, alpha_pattern={"^x.*": 2.5, "b": 3}),
    "layers": dict(target_modules=["q_proj"], layers_to_transform=[3, 1], layers_pattern=["layers", "h"]),
    "one-layer": dict(target_modules=["q_proj"], layers_to_transform=3, layers_pattern="layers"),
    "saved-modules": dict(target_modules=["q_proj"], modules_to_save=["lm_head", "score"], task_type="SEQ_CLS"),
    "rslora-dora": dict(target_modules=["q_proj"], use_rslora=True, use_dora=True, bias="lora_only"),
    "eva": dict(target_modules=["q_proj"], init_lora_weights="eva"),
    "eva-settings": dict(target_modules=["q_proj"], init_lora_weights="eva", eva_config={"rho": 3.0}),
    "corda": dict(target_modules=["q_proj"], init_lora_weights="corda"),
    "gaussian": dict(target_modules=["q_proj"], init_lora_weights="gaussian"),
    "kasa": dict(target_modules=["q_proj"], kasa_config={"beta": 0.5}),
    "velora": dict(target_modules=["q_proj"], velora_config={}),
    "monteclora": dict(target_modules=["q_proj"], monteclora_config={"num_samples": 3}),
    "block-diagonal": dict(target_modules=["q_proj"], use_bdlora={"nblocks": 2, "target_modules_bd_a": ["q_proj"]}),
    "arrow": dict(target_modules=["q_proj"], arrow_config={"top_k": 2}),
    "lora-ga": dict(target_modules=["q_proj"], init_lora_weights="lora_ga", lora_ga_config={"stable_gamma": 8}),
    "replication": dict(target_modules=["q_proj"], layer_replication=[[0, 2], [1, 3]]),
    "parameters": dict(target_parameters=["mlp.experts.down_proj"]),
    "tokens": dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [1, 2]}),
    "excluded": dict(target_modules=["q_proj"], exclude_modules=r".*\.3\..*"),
    "invocation-tokens": dict(target_modules=["q_proj"], alora_invocation_tokens=[1, 2, 3], task_type="CAUSAL_LM"),
}

FORMER = ["0.2.0", "0.3.0", "0.5.0", "0.7.0", "0.9.0", "0.11.0", "0.13.0", "0.15.0"]

RUN_FORMER = """
import sys
from peft import LoraConfig
LoraConfig(r=4, lora_alpha=12, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM",
           base_model_name_or_path="org/model", modules_to_save=["lm_head"]).save_pretrained(sys.argv[1])
"""


def former(version):
    """Runs one release of PEFT from its sources; returns the directory that it wrote."""
    scratch = tempfile.mkdtemp()
    subprocess.run([sys.executable, "-c", RUN_FORMER, scratch], check=True, capture_output=True,
                   env={**os.environ, "PYTHONPATH": str(SOURCES / version)}, timeout=120)
    return pathlib.Path(scratch)


def loosely_written():
    """Null for false, a version as a number, an empty pattern: what PEFT takes, and writes again as it was."""
    former = json.loads((OUT / "former" / "0.15.0.json").read_text())
    loose = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "inference_mode", "ensure_weight_tying", "use_qalora",
             "qalora_group_size")
    former.update({**dict.fromkeys(loose), "peft_version": 0.15, "layers_pattern": ""})
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "adapter_config.json"
        path.write_text(json.dumps(former, indent=2, sort_keys=True))
        shutil.copy(path, OUT / "former" / "loose.json")
        LoraConfig.from_pretrained(scratch).save_pretrained(scratch)
        shutil.copy(path, OUT / "former" / "loose.resaved.json")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "current").mkdir(parents=True)
    for name, settings in CURRENT.items():
        with tempfile.TemporaryDirectory() as scratch:
            LoraConfig(**settings).save_pretrained(scratch)
            shutil.copy(f"{scratch}/adapter_config.json", OUT / "current" / f"{name}.json")
    (OUT / "former").mkdir()
    for version in FORMER:
        written = former(version)
        shutil.copy(written / "adapter_config.json", OUT / "former" / f"{version}.json")
        LoraConfig.from_pretrained(written).save_pretrained(written)
        shutil.copy(written / "adapter_config.json", OUT / "former" / f"{version}.resaved.json")
    loosely_written()


if __name__ == "__main__":
    main()
