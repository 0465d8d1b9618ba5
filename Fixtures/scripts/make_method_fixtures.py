"""Makes Fixtures/methods: an adapter of every method of PEFT on tiny models, with PEFT's merged results.

Usage: python make_method_fixtures.py [OUTPUT]   (default: ../methods beside this file)

Methods that cannot be merged have no merged/. Needs the versions in requirements.txt.
"""

import pathlib
import sys

import make_merge_fixtures
import peft
import torch
import transformers
from make_merge_fixtures import bert, case, gpt2, llama, resnet

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "methods")
make_merge_fixtures.OUT = OUT
TASK = dict(task_type="CAUSAL_LM")
LM = transformers.AutoModelForCausalLM
IMAGE = transformers.AutoModelForImageClassification
SEQ = transformers.AutoModelForSequenceClassification
EVERY = ["q_proj", "v_proj", "up_proj", "down_proj"]

def on_llama(name, config_class, *, dtype=torch.float32, targets=EVERY, model=None, task=True, **settings):
    extra = dict(target_modules=targets) if targets else {}
    if task:
        extra |= TASK
    case(name, model or llama(), LM, config_class(**extra, **settings), dtype=dtype)

def main():
    bf16 = torch.bfloat16
    p = peft
    on_llama("adalora", p.AdaLoraConfig, init_r=6, target_r=4, lora_alpha=12, total_step=10)
    on_llama("adalora-bf16", p.AdaLoraConfig, init_r=6, target_r=4, lora_alpha=12, total_step=10, dtype=bf16)
    case("adalora-gpt2", gpt2(), LM, p.AdaLoraConfig(init_r=4, total_step=5, target_modules=["c_attn"], **TASK))
    for dtype, suffix in ((torch.float32, ""), (bf16, "-bf16")):
        on_llama("loha" + suffix, p.LoHaConfig, r=3, alpha=6, dtype=dtype)
        on_llama("lokr" + suffix, p.LoKrConfig, r=3, alpha=6, dtype=dtype)
        on_llama("oft" + suffix, p.OFTConfig, oft_block_size=8, dtype=dtype)
        on_llama("ia3" + suffix, p.IA3Config, feedforward_modules=["down_proj"], dtype=dtype)
        on_llama("vera" + suffix, p.VeraConfig, r=4, dtype=dtype)
        on_llama("hra" + suffix, p.HRAConfig, r=4, dtype=dtype)
        on_llama("boft" + suffix, p.BOFTConfig, boft_block_size=4, dtype=dtype)
        on_llama("fourierft" + suffix, p.FourierFTConfig, n_frequency=50, dtype=dtype)
    on_llama("loha-patterns", p.LoHaConfig, r=3, rank_pattern={"v_proj": 5}, alpha_pattern={"layers.1.mlp.up_proj": 3})
    case("loha-convolution", resnet(), IMAGE, p.LoHaConfig(r=2, target_modules=["convolution"]))
    case("loha-convolution-effective", resnet(), IMAGE, p.LoHaConfig(r=2, target_modules=["convolution"],
                                                                   use_effective_conv2d=True))
    on_llama("lokr-both", p.LoKrConfig, r=2, decompose_both=True, decompose_factor=4)
    on_llama("lokr-full", p.LoKrConfig, r=100, alpha=50)
    case("lokr-convolution", resnet(), IMAGE, p.LoKrConfig(r=2, target_modules=["convolution"]))
    case("lokr-convolution-effective", resnet(), IMAGE, p.LoKrConfig(r=1, target_modules=["convolution"],
                                                                   decompose_both=True, use_effective_conv2d=True))
    on_llama("oft-cayley", p.OFTConfig, oft_block_size=8, use_cayley_neumann=False)
    on_llama("oft-coft-shared", p.OFTConfig, oft_block_size=8, coft=True, eps=0.05, block_share=True)
    on_llama("oft-embedding", p.OFTConfig, oft_block_size=8, targets=["embed_tokens", "q_proj"])
    case("oft-convolution", resnet(), IMAGE, p.OFTConfig(oft_block_size=4, target_modules=["convolution"]))

    case("ia3-gpt2", gpt2(), LM, p.IA3Config(target_modules=["c_attn", "mlp.c_proj"],
                                             feedforward_modules=["mlp.c_proj"], **TASK))
    case("ia3-convolution", resnet(), IMAGE, p.IA3Config(target_modules=["convolution"], feedforward_modules=[]))
    case("ia3-classifier", bert(), SEQ, p.IA3Config(target_modules=["query", "value", "output.dense"],
                                                    feedforward_modules=["output.dense"], task_type="SEQ_CLS"))
    on_llama("vera-seed", p.VeraConfig, r=4, save_projection=False, projection_prng_key=11)
    case("vera-gpt2", gpt2(), LM, p.VeraConfig(r=4, target_modules=["c_attn"], **TASK))
    on_llama("pvera", p.PveraConfig, r=4)
    on_llama("pvera-seed", p.PveraConfig, r=4, save_projection=False, projection_prng_key=5)
    on_llama("randlora", p.RandLoraConfig, r=4, randlora_alpha=8)
    on_llama("randlora-seed", p.RandLoraConfig, r=4, randlora_alpha=8, save_projection=False, projection_prng_key=3)
    on_llama("randlora-sparse", p.RandLoraConfig, r=4, randlora_alpha=8, sparse=True, save_projection=False)
    on_llama("randlora-very-sparse", p.RandLoraConfig, r=4, randlora_alpha=8, very_sparse=True, save_projection=False)
    case("fourierft-gpt2", gpt2(), LM, p.FourierFTConfig(n_frequency=40, target_modules=["c_attn"], **TASK))
    on_llama("fourierft-pattern", p.FourierFTConfig, n_frequency=30, n_frequency_pattern={"v_proj": 60},
             random_loc_seed=5, scaling=100.0)
    on_llama("waveft", p.WaveFTConfig, n_frequency=40)
    on_llama("waveft-db2", p.WaveFTConfig, n_frequency=40, wavelet_family="db2")
    on_llama("waveft-sym4", p.WaveFTConfig, n_frequency=40, wavelet_family="sym4", random_loc_seed=1)
    on_llama("waveft-coif1", p.WaveFTConfig, n_frequency=40, wavelet_family="coif1")
    on_llama("waveft-scatter", p.WaveFTConfig, n_frequency=40, use_idwt=False)
    on_llama("waveft-proportional", p.WaveFTConfig, n_frequency=40, proportional_parameters=True)
    case("waveft-gpt2", gpt2(), LM, p.WaveFTConfig(n_frequency=40, target_modules=["c_attn"], **TASK))
    on_llama("vblora", p.VBLoRAConfig, r=2, vector_length=8, num_vectors=12)
    on_llama("vblora-topk", p.VBLoRAConfig, r=2, vector_length=8, num_vectors=12, save_only_topk_weights=True, topk=3)
    on_llama("unilora", p.UniLoraConfig, r=2, theta_d_length=64)
    on_llama("unilora-indices", p.UniLoraConfig, r=2, theta_d_length=64, save_indices=True, proj_seed=9)
    on_llama("tinylora", p.TinyLoraConfig, r=2, u=6)
    on_llama("tinylora-tied", p.TinyLoraConfig, r=2, u=6, weight_tying=0.5)
    on_llama("tinylora-seed", p.TinyLoraConfig, r=2, u=6, save_projection=False)
    on_llama("hra-gram-schmidt", p.HRAConfig, r=4, apply_GS=True)
    case("hra-convolution", resnet(), IMAGE, p.HRAConfig(r=2, target_modules=["convolution"]))
    on_llama("miss", p.MissConfig, r=4)
    on_llama("miss-uneven", p.MissConfig, r=5)
    on_llama("miss-bat", p.MissConfig, r=4, init_weights="bat", targets=["q_proj", "v_proj"])
    on_llama("miss-mini", p.MissConfig, r=4, mini_r=2, init_weights="mini")
    on_llama("shira", p.ShiraConfig, r=1)
    on_llama("c3a", p.C3AConfig, block_size=8)
    on_llama("c3a-bf16", p.C3AConfig, block_size=8, dtype=bf16)
    for variant in ("road_1", "road_2", "road_4"):
        on_llama(variant.replace("_", "-"), p.RoadConfig, variant=variant, group_size=4)
    on_llama("road-biased", p.RoadConfig, group_size=8, model=llama(attention_bias=True), targets=["q_proj", "v_proj"])
    on_llama("ln-tuning", p.LNTuningConfig, targets=["input_layernorm", "norm"])
    case("ln-tuning-bert", bert(), SEQ, p.LNTuningConfig(target_modules=["LayerNorm"]))
    on_llama("trainable-tokens", p.TrainableTokensConfig, targets=["embed_tokens"], token_indices=[3, 0, 39])
    on_llama("delora", p.DeloraConfig, r=3)
    on_llama("delora-patterns", p.DeloraConfig, r=3, rank_pattern={"v_proj": 5}, lambda_pattern={"up_proj": 4})
    on_llama("gralora", p.GraloraConfig, r=4, alpha=6, gralora_k=2)
    on_llama("gralora-hybrid", p.GraloraConfig, r=4, alpha=6, gralora_k=2, hybrid_r=2)
    biased = llama(attention_bias=True, mlp_bias=True)
    on_llama("glora", p.GloraConfig, r=3, model=biased)
    on_llama("glora-vector", p.GloraConfig, r=3, config_A_B="vector", config_C="vector", config_D_E="vector", model=biased)
    on_llama("glora-constant", p.GloraConfig, r=3, config_A_B="constant", config_C="none", config_D_E="none")
    on_llama("hira", p.HiraConfig, r=3)
    on_llama("hira-embedding", p.HiraConfig, r=3, targets=["embed_tokens", "q_proj"], rank_pattern={"q_proj": 2})
    case("hira-convolution", resnet(), IMAGE, p.HiraConfig(r=2, target_modules=["convolution"]))
    on_llama("frod", p.FrodConfig, sparse_rate=0.1)
    for method in ("relu", "qr"):
        for para in (False, True):
            on_llama(f"deft-{method}" + ("-para" if para else ""), p.DeftConfig, r=3, decomposition_method=method,
                     para=para)
    on_llama("osf", p.OSFConfig, effective_rank=4)
    on_llama("peanut", p.PeanutConfig, r=3)
    on_llama("peanut-deep", p.PeanutConfig, r=3, depth=2, act_fn="gelu", scaling=0.5)
    on_llama("supertuning", p.SupertuningConfig, sparsity=0.9)
    on_llama("supertuning-lora", p.SupertuningConfig, sparsity=0.9, r=2, lora_alpha=4)
    on_llama("beft", p.BeftConfig, model=llama(attention_bias=True), targets=["q_proj", "v_proj"])
    on_llama("psoft", p.PsoftConfig, r=4)
    on_llama("adamss", p.AdamssConfig, r=4, num_subspaces=2, targets=["q_proj"])
    whisper = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=8, vocab_size=40, max_source_positions=8,
        max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    case("lokr-convolution-1d", whisper, transformers.AutoModelForSpeechSeq2Seq,
         p.LoKrConfig(r=8, target_modules=["conv1", "conv2"]))
    on_llama("osf-nothing-low", p.OSFConfig, effective_rank=8, targets=["q_proj", "v_proj"])
    on_llama("trainable-tokens-tied", p.TrainableTokensConfig, targets=["embed_tokens"], token_indices=[3, 0],
             model=llama(tie_word_embeddings=True))
    case("tinylora-gpt2", gpt2(), LM, p.TinyLoraConfig(r=2, u=4, weight_tying=0.4, target_modules=[
        "c_attn", "c_proj", "c_fc"], **TASK))
    loose = [
        ("prompt-tuning", p.PromptTuningConfig(num_virtual_tokens=3, **TASK)),
        ("multitask-prompt-tuning", p.MultitaskPromptTuningConfig(num_virtual_tokens=3, num_tasks=2, num_ranks=2, **TASK)),
        ("p-tuning", p.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **TASK)),
        ("p-tuning-lstm", p.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8,
                                                encoder_reparameterization_type="LSTM", **TASK)),
        ("prefix-tuning", p.PrefixTuningConfig(num_virtual_tokens=3, **TASK)),
        ("prefix-tuning-projection", p.PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True,
                                                          encoder_hidden_size=8, **TASK)),
        ("adaption-prompt", p.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, **TASK)),
        ("cpt", p.CPTConfig(cpt_token_ids=[1, 2, 3], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3], **TASK)),
        ("cartridge", p.CartridgeConfig(num_virtual_tokens=3, **TASK)),
        ("poly", p.PolyConfig(r=2, n_tasks=2, n_skills=2, target_modules=["q_proj"], **TASK)),
        ("lily", p.LilyConfig(r=2, target_modules=["q_proj"], **TASK)),
    ]
    for name, config in loose:
        case(name, llama(), LM, config, merges=False)

if __name__ == "__main__":
    main()
