/// PEFT's targets where a configuration names none.
///
/// Source of all: peft/utils/constants.py.
enum DefaultTargets {
  /// The modules for a `model_type`; nil where PEFT wants them named.
  ///
  /// Source: peft/utils/constants.py `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`.
  static func lora(modelType: String) -> ModuleRule? {
    modelType == "gemma4" ? gemma4 : rule(in: table, modelType)
  }

  private static let gemma4 = ModuleRule.pattern(#".*language_model\..*\.(q_proj|v_proj)"#)

  private static func rule(in table: [(names: String, types: String)], _ modelType: String) -> ModuleRule? {
    for (names, types) in table where types.split(separator: " ").contains(Substring(modelType)) {
      return .names(names.split(separator: " ").map(String.init))
    }
    return nil
  }

  /// VeRA, PVeRA and SHiRA leave out Phi's feed-forward layers.
  static func queriesAndValuesOfPhi(modelType: String) -> ModuleRule? {
    modelType == "phi" ? .names(["q_proj", "v_proj"]) : lora(modelType: modelType)
  }

  /// FourierFT and C3A take the square projection of GPT-2.
  static func projectionsOfGPT2(modelType: String) -> ModuleRule? {
    ["gpt2", "gpt_bigcode"].contains(modelType) ? .names(["mlp.c_proj"]) : lora(modelType: modelType)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_WAVEFT_TARGET_MODULES_MAPPING`.
  static func waveFT(modelType: String) -> ModuleRule? {
    ["rwkv", "rwkv7", "btlm"].contains(modelType) ? nil : projectionsOfGPT2(modelType: modelType)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING`.
  static func adaLoRA(modelType: String) -> ModuleRule? {
    modelType == "gemma4" ? gemma4 : rule(in: adaLoRATable, modelType) ?? rule(in: wideTable, modelType)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_VBLORA_TARGET_MODULES_MAPPING`.
  static func vbLoRA(modelType: String) -> ModuleRule? {
    modelType == "gemma4" ? gemma4 : rule(in: vbLoRATable, modelType) ?? rule(in: wideTable, modelType)
  }

  private static let wideTable: [(names: String, types: String)] = [
    ("q k v o wi wo", "t5"),
    ("q k v o wi_0 wi_1 wo", "mt5"),
    ("q_proj k_proj v_proj out_proj fc1 fc2", "bart opt"),
    ("c_attn", "gpt2 gpt_bigcode"),
    ("query_key_value", "bloom gpt_neox"),
    ("q_proj v_proj", "gemma gemma2 gemma3_text gpt_neo gptj llama llama4 qwen2 qwen3"),
    ("query_proj key_proj value_proj dense", "deberta-v2"),
    ("in_proj", "deberta"),
    ("q_proj k_proj v_proj o_proj", "nemotron_h"),
  ]
  private static let adaLoRATable = [(names: "query value", types: "bert"), ("query key value dense", "roberta")]
  private static let vbLoRATable = [(names: "query value", types: "bert roberta")]

  /// Source: `TRANSFORMERS_MODELS_TO_BEFT_TARGET_MODULES_MAPPING`.
  static func beft(modelType: String) -> ModuleRule? {
    rule(
      in: [
        ("v", "mt5 t5"), ("value", "bert roberta"), ("value_proj", "deberta-v2"),
        (
          "v_proj", "bart gemma gemma2 gemma3_text gpt_neo gptj llama llama4 mistral mixtral opt phi qwen2 qwen3"
        ),
      ], modelType)
  }

  /// OSF takes all linear layers of models that PEFT does not know.
  ///
  /// Source: `TRANSFORMERS_MODELS_TO_OSF_TARGET_MODULES_MAPPING`; peft/tuners/osf/model.py `_prepare_adapter_config`.
  static func osf(modelType: String) -> ModuleRule? {
    rule(
      in: [
        (
          "q_proj k_proj v_proj o_proj gate_proj down_proj up_proj",
          "llama llama4 mistral mixtral gemma gemma2 gemma3_text qwen2 qwen3 phi"
        ),
        ("c_attn c_proj", "gpt2 gpt_bigcode"), ("query_key_value dense_4h_to_h", "bloom gpt_neox falcon"),
        ("q_proj k_proj v_proj out_proj fc1 fc2", "opt"), ("q_proj k_proj v_proj out_proj fc_in fc_out", "gptj"),
      ], modelType) ?? .pattern(ModuleRule.allLinear)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING`.
  static func ia3(modelType: String) -> ModuleRule? {
    rule(
      in: [
        ("k v wo", "t5"), ("k v wi_1", "mt5"), ("c_attn mlp.c_proj", "gpt2 gpt_bigcode"),
        ("query_key_value mlp.dense_4h_to_h", "bloom"), ("key value output.dense", "bert roberta"),
        ("q_proj k_proj fc2", "opt"), ("q_proj v_proj fc_out", "gptj"),
        ("query_key_value dense_4h_to_h", "RefinedWeb RefinedWebModel falcon gpt_neox"),
        ("q_proj v_proj c_proj", "gpt_neo"), ("q_proj v_proj fc2", "bart phi"),
        ("k_proj v_proj down_proj", "llama mistral"),
        ("q_proj v_proj down_proj", "gemma gemma2 gemma3_text llama4 qwen2 qwen3"), ("k_proj v_proj w2", "mixtral"),
        ("key_proj value_proj output.dense", "deberta-v2"), ("in_proj output.dense", "deberta"),
      ], modelType)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING`.
  static func ia3FeedForward(modelType: String) -> ModuleRule? {
    rule(
      in: [
        ("wo", "t5"), ("", "mt5"), ("mlp.c_proj", "gpt2 gpt_bigcode"), ("mlp.dense_4h_to_h", "bloom"),
        ("output.dense", "bert deberta deberta-v2 roberta"), ("fc2", "bart opt phi"), ("fc_out", "gptj"),
        ("dense_4h_to_h", "RefinedWeb RefinedWebModel falcon gpt_neox"), ("c_proj", "gpt_neo"),
        ("down_proj", "gemma gemma2 gemma3_text llama llama4 mistral qwen2 qwen3"), ("w2", "mixtral"),
      ], modelType)
  }

  /// Source: `TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING`.
  static func lnTuning(modelType: String) -> ModuleRule? {
    rule(
      in: [
        ("input_layernorm post_attention_layernorm norm", "gemma llama mistral"),
        ("input_layernorm post_attention_layernorm ln_f", "bloom falcon"),
        ("multi_modal_projector input_layernorm post_attention_layernorm norm embed_tokens lm_head", "llava"),
        ("layer_norm final_layer_norm", "mt5 t5"),
        ("self_attn_layer_norm encoder_attn_layer_norm final_layer_norm", "bart"), ("ln_1 ln_2 ln_f", "gpt2"),
        ("layernorm LayerNorm final_layer_norm self_attn_layer_norm", "blip-2"), ("ln_1 ln_f", "gptj"),
        ("input_layernorm final_layernorm", "phi"),
        (
          "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm norm",
          "gemma2 gemma3_text"
        ), ("post_attention_layernorm", "qwen2 qwen3"),
      ], modelType)
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
