"""Makes further cases of Fixtures/init, as make_fresh_fixtures.py does: methods that no merge can express, and starts from the base's weight.

Usage: python make_fresh_other_fixtures.py   (writes to ../init beside this file)
"""

from make_fresh_fixtures import GPT2, LLAMA, QV, QWEN, both, case

SINGULAR = ["osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"]


def main():
    case("mica", LLAMA, None, "LoraConfig", 90, r=3, lora_alpha=6, init_lora_weights="mica", target_modules=QV, near=["lora_B.weight"])
    case("mica-bf16", QWEN, None, "LoraConfig", 90, r=2, init_lora_weights="MiCA", target_modules=["down_proj"], near=["lora_B.weight"])
    case("mica-conv1d", GPT2, None, "LoraConfig", 90, r=3, init_lora_weights="mica", target_modules=["c_attn"], near=["lora_B.weight"])
    both("lily", "LilyConfig", 91, r=3, num_B=3, target_modules=["q_proj", "v_proj", "down_proj"])
    both("lily-strides", "LilyConfig", 91, bases=(LLAMA,), r=3, stride_A=2, target_modules=r".*\.(q_proj|v_proj|o_proj)")
    case("lily-default-targets", LLAMA, None, "LilyConfig", 92, r=2)
    both("poly", "PolyConfig", 93, r=3, n_tasks=2, n_skills=3, target_modules=QV)
    both("poly-splits", "PolyConfig", 93, bases=(LLAMA,), r=2, n_tasks=3, n_skills=2, n_splits=4, target_modules=["q_proj", "down_proj"])
    case("osf", LLAMA, None, "OSFConfig", 94, target_modules=QV, near=SINGULAR)
    case("osf-bf16", QWEN, None, "OSFConfig", 94, target_modules=["down_proj"], effective_rank=3, near=SINGULAR)
    case("osf-share", LLAMA, None, "OSFConfig", 94, target_modules=["q_proj", "down_proj"], effective_rank=0.25,
         rank_pattern={r"layers\.0.*q_proj": 2, "q_proj": 0.5}, near=SINGULAR)
    case("osf-not-zero", LLAMA, None, "OSFConfig", 94, init_weights=False, target_modules=QV)
    case("osf-bf16-not-zero", QWEN, None, "OSFConfig", 94, init_weights=False, effective_rank=3, target_modules=QV)
    case("osf-default-targets", LLAMA, None, "OSFConfig", 94, near=SINGULAR)
    both("psoft", "PsoftConfig", 95, r=7, target_modules=QV)
    both("psoft-plain", "PsoftConfig", 96, r=5, psoft_orth=False, psoft_mag_a=False, target_modules=QV)
    case("psoft-random-svd", LLAMA, None, "PsoftConfig", 97, r=4, psoft_svd="lowrank", init_weights=False, psoft_mag_b=False,
         target_modules=QV)
    case("adaption-prompt", LLAMA, None, "AdaptionPromptConfig", 98, adapter_len=3, adapter_layers=1)
    case("adaption-prompt-all", LLAMA, None, "AdaptionPromptConfig", 98, adapter_len=5, adapter_layers=2, target_modules="self_attn")
    case("adaption-prompt-gpt2", GPT2, None, "AdaptionPromptConfig", 98, adapter_len=3, adapter_layers=1)
    case("cpt", LLAMA, None, "CPTConfig", 99, cpt_token_ids=[3, 0, 7, 3], cpt_mask=[1, 1, 1, 1], cpt_tokens_type_mask=[1, 2, 3, 4])
    case("cpt-bf16", QWEN, None, "CPTConfig", 99, cpt_token_ids=[5, 2])
    case("cpt-default", LLAMA, None, "CPTConfig", 99)
    near = ["prompt_embeddings"]
    case("p-tuning-lstm", LLAMA, None, "PromptEncoderConfig", 100, num_virtual_tokens=5, encoder_hidden_size=7,
         encoder_reparameterization_type="LSTM", near=near)
    case("p-tuning-lstm-deep", QWEN, None, "PromptEncoderConfig", 100, num_virtual_tokens=3, encoder_num_layers=3,
         encoder_reparameterization_type="LSTM", near=near)


if __name__ == "__main__":
    main()
