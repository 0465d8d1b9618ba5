/// The name of a tensor in a file of a LoRA for an image model: whose spelling it is, the module, and what the tensor is to it.
struct ImageKey: Sendable {
  /// What a tensor is to its module.
  enum Role: Hashable, Sendable {
    case alpha, core, magnitude
    /// PEFT's own name of it.
    case factor(String)
  }

  /// diffusers' name of the part of the pipeline.
  let component: String
  /// diffusers' path, or the makers' where one module of theirs is several there.
  let path: String
  let role: Role
  /// Nil where the path is diffusers'.
  let maker: ImageModel?

  private static let endings: [(ending: String, role: Role)] =
    [
      (".lora_down.weight", .factor(LoRARole.a.ending)), (".lora_up.weight", .factor(LoRARole.b.ending)),
      (".lora_mid.weight", .core), (".alpha", .alpha), (".dora_scale", .magnitude),
      (".lora_magnitude_vector.weight", .magnitude), (".lora_magnitude_vector", .magnitude),
      (".lora_A.default.weight", .factor(LoRARole.a.ending)), (".lora_B.default.weight", .factor(LoRARole.b.ending)),
      (".lora_A.weight", .factor(LoRARole.a.ending)), (".lora_B.weight", .factor(LoRARole.b.ending)),
      (".lora_B.bias", .factor(LoRARole.bias.ending)), (".lora_linear_layer.down.weight", .factor(LoRARole.a.ending)),
      (".lora_linear_layer.up.weight", .factor(LoRARole.b.ending)), (".lora.down.weight", .factor(LoRARole.a.ending)),
      (".lora.up.weight", .factor(LoRARole.b.ending)), ("_lora.down.weight", .factor(LoRARole.a.ending)),
      ("_lora.up.weight", .factor(LoRARole.b.ending)),
    ]
    + ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"].map { (".\($0)", .factor($0)) }
    + ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"].map {
      (".\($0)", .factor($0))
    }

  /// What kohya's and others' flat names begin with.
  static let flatPrefixes: [(prefix: String, component: String?)] = [
    ("lora_unet_", nil), ("lora_transformer_", "transformer"), ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"), ("lora_te_", "text_encoder"), ("lycoris_", nil),
  ]

  private static let dottedPrefixes: [(prefix: String, component: String?)] = [
    ("model.diffusion_model.", nil), ("diffusion_model.", nil), ("unet.", "unet"), ("transformer.", "transformer"),
    ("text_encoder_3.", "text_encoder_3"), ("text_encoder_2.", "text_encoder_2"), ("text_encoder.", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"), ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"), ("base_model.model.", nil),
  ]

  /// Nil for a name that is none of a LoRA for an image model, or whose words are not known.
  init?(_ name: String) {
    guard let (stem, role) = Self.split(name) else { return nil }
    self.role = role
    var dotted: String
    var stated: String?
    if let flat = Self.flatPrefixes.first(where: { stem.hasPrefix($0.prefix) }) {
      guard let path = FlatNames.path(String(stem.dropFirst(flat.prefix.count))) else { return nil }
      (dotted, stated) = (path, flat.component)
    } else if let known = Self.dottedPrefixes.first(where: { stem.hasPrefix($0.prefix) }) {
      (dotted, stated) = (String(stem.dropFirst(known.prefix.count)), known.component)
      // An inner part of a transformer, not the part of the pipeline.
      if known.component == nil, dotted.hasPrefix("transformer.") {
        dotted = String(dotted.dropFirst("transformer.".count))
      }
    } else {
      dotted = stem
    }
    if dotted.contains(".processor."), TransformerNames.model(maker: dotted) == nil {
      dotted = dotted.replacing(".processor.", with: ".")
    }
    // The old name of the output projection had no number.
    if dotted.hasSuffix(".to_out") { dotted += ".0" }
    if let found = SDXLNames.diffusers(dotted), stated == nil {
      (component, path, maker) = ("unet", found, nil)
    } else {
      guard let found = stated ?? Self.component(of: dotted) else { return nil }
      // T5 is Flux's second encoder and SD3's third.
      component = found == "text_encoder_2" && dotted.hasPrefix("encoder.block.") ? "text_encoder_3" : found
      path = dotted
      maker = found == "transformer" ? TransformerNames.model(maker: dotted) : nil
    }
  }

  private static func split(_ name: String) -> (stem: String, role: Role)? {
    // XLabs' names end as diffusers' old ones do, but have the whole word before.
    if name.hasPrefix("double_blocks.") || name.hasPrefix("single_blocks."), name.contains(".processor.") {
      for (ending, role) in [(".down.weight", LoRARole.a), (".up.weight", .b)] where name.hasSuffix(ending) {
        return (String(name.dropLast(ending.count)), .factor(role.ending))
      }
      return nil
    }
    guard let found = endings.first(where: { name.hasSuffix($0.ending) }) else { return nil }
    return (String(name.dropLast(found.ending.count)), found.role)
  }

  /// The part of a pipeline that a path in diffusers' or the makers' names lies in.
  static func component(of path: String) -> String? {
    let first = path.prefix { $0 != "." }
    switch first {
    case "down_blocks", "up_blocks", "mid_block", "conv_in", "conv_out", "time_embedding", "add_embedding":
      return "unet"
    case "transformer_blocks", "single_transformer_blocks", "double_blocks", "single_blocks", "joint_blocks",
      "x_embedder",
      "context_embedder", "time_text_embed", "norm_out", "proj_out", "img_in", "txt_in", "time_in", "vector_in",
      "guidance_in", "final_layer", "pos_embed", "t_embedder", "y_embedder":
      return "transformer"
    case "text_model", "text_projection": return "text_encoder"
    case "encoder", "shared": return "text_encoder_3"
    default: return nil
    }
  }
}
