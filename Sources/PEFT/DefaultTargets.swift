/// PEFT's targets where a LoRA configuration names none.
enum DefaultTargets {
  /// The modules for a `model_type`; nil where PEFT wants them named.
  ///
  /// Source: peft/utils/constants.py `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`.
  static func lora(modelType: String) -> ModuleRule? {
    if modelType == "gemma4" { return .pattern(#".*language_model\..*\.(q_proj|v_proj)"#) }
    for (names, types) in table where types.split(separator: " ").contains(Substring(modelType)) {
      return .names(names.split(separator: " ").map(String.init))
    }
    return nil
  }

  private static let table: [(names: String, types: String)] = [
    ("query_key_value", "RefinedWeb RefinedWebModel bloom chatglm falcon gpt_neox"),
    (
      "q_proj v_proj",
      "bart gemma gemma2 gemma3_text gpt_neo gptj llama llama4 mistral mixtral opt qwen2 qwen3 stablelm"
    ),
    ("query value", "bert electra layoutlm roberta xlm-roberta"),
    ("q v q_proj v_proj", "blip-2"),
    ("c_proj c_attn", "btlm"),
    ("qkv_proj", "codegen"),
    ("in_proj", "deberta"),
    ("query_proj value_proj", "deberta-v2"),
    ("c_attn", "gpt2 gpt_bigcode"),
    ("Wqkv", "mpt"),
    ("q v", "mt5 t5"),
    ("q_proj k_proj v_proj o_proj", "nemotron_h"),
    ("q_proj v_proj fc1 fc2", "phi"),
    ("key value receptance output", "rwkv"),
    ("r_proj k_proj v_proj o_proj key value", "rwkv7"),
  ]
}
