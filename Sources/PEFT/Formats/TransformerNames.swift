/// Modules of Flux's and SD3's transformers: the makers' names and diffusers'. Projections that the makers fuse are several
/// modules in diffusers.
///
/// Source: sd-scripts networks/convert_flux_lora.py; diffusers/loaders/lora_conversion_utils.py; diffusers
/// scripts/convert_sd3_to_diffusers.py.
enum TransformerNames {
  /// A module in the makers' names.
  struct Fused: Equatable {
    /// The makers' path.
    let path: String
    /// diffusers' paths, in the order of the rows.
    let parts: [String]
    /// Rows of each part; the last has what is left. Nil where all have the same.
    let rows: Rows
    /// True if the two halves of the rows are exchanged.
    let swapsHalves: Bool

    enum Rows: Equatable {
      case equal
      /// All parts but the last have as many rows as the input has features.
      case likeInput
    }

    init(_ path: String, _ parts: [String], rows: Rows = .equal, swapsHalves: Bool = false) {
      self.path = path
      self.parts = parts
      self.rows = rows
      self.swapsHalves = swapsHalves
    }
  }

  private static let queryKeyValue = ["to_q", "to_k", "to_v"]
  private static let addedQueryKeyValue = ["add_q_proj", "add_k_proj", "add_v_proj"]

  private static let fluxDouble: [Fused] = [
    Fused("img_attn.qkv", queryKeyValue.map { "attn.\($0)" }),
    Fused("txt_attn.qkv", addedQueryKeyValue.map { "attn.\($0)" }),
    Fused("img_attn.proj", ["attn.to_out.0"]), Fused("txt_attn.proj", ["attn.to_add_out"]),
    Fused("img_mlp.0", ["ff.net.0.proj"]), Fused("img_mlp.2", ["ff.net.2"]),
    Fused("txt_mlp.0", ["ff_context.net.0.proj"]), Fused("txt_mlp.2", ["ff_context.net.2"]),
    Fused("img_mod.lin", ["norm1.linear"]), Fused("txt_mod.lin", ["norm1_context.linear"]),
  ]
  private static let fluxSingle: [Fused] = [
    Fused("linear1", queryKeyValue.map { "attn.\($0)" } + ["proj_mlp"], rows: .likeInput),
    Fused("linear2", ["proj_out"]),
    Fused("modulation.lin", ["norm.linear"]),
  ]
  private static let fluxOuter: [Fused] = [
    Fused("img_in", ["x_embedder"]), Fused("txt_in", ["context_embedder"]),
    Fused("time_in.in_layer", ["time_text_embed.timestep_embedder.linear_1"]),
    Fused("time_in.out_layer", ["time_text_embed.timestep_embedder.linear_2"]),
    Fused("vector_in.in_layer", ["time_text_embed.text_embedder.linear_1"]),
    Fused("vector_in.out_layer", ["time_text_embed.text_embedder.linear_2"]),
    Fused("guidance_in.in_layer", ["time_text_embed.guidance_embedder.linear_1"]),
    Fused("guidance_in.out_layer", ["time_text_embed.guidance_embedder.linear_2"]),
    Fused("final_layer.linear", ["proj_out"]),
    Fused("final_layer.adaLN_modulation.1", ["norm_out.linear"], swapsHalves: true),
  ]
  /// XLabs' names within a block.
  private static let xlabsDouble: [Fused] = [
    Fused("processor.qkv_lora1", queryKeyValue.map { "attn.\($0)" }), Fused("processor.proj_lora1", ["attn.to_out.0"]),
    Fused("processor.qkv_lora2", addedQueryKeyValue.map { "attn.\($0)" }),
    Fused("processor.proj_lora2", ["attn.to_add_out"]),
  ]
  private static let xlabsSingle: [Fused] = [
    Fused("processor.qkv_lora", queryKeyValue.map { "attn.\($0)" }), Fused("processor.proj_lora", ["proj_out"]),
  ]
  private static let sd3Joint: [Fused] = [
    Fused("x_block.attn.qkv", queryKeyValue.map { "attn.\($0)" }),
    Fused("context_block.attn.qkv", addedQueryKeyValue.map { "attn.\($0)" }),
    Fused("x_block.attn.proj", ["attn.to_out.0"]), Fused("context_block.attn.proj", ["attn.to_add_out"]),
    Fused("x_block.attn2.qkv", queryKeyValue.map { "attn2.\($0)" }), Fused("x_block.attn2.proj", ["attn2.to_out.0"]),
    Fused("x_block.mlp.fc1", ["ff.net.0.proj"]), Fused("x_block.mlp.fc2", ["ff.net.2"]),
    Fused("context_block.mlp.fc1", ["ff_context.net.0.proj"]), Fused("context_block.mlp.fc2", ["ff_context.net.2"]),
    Fused("x_block.adaLN_modulation.1", ["norm1.linear"]),
    Fused("context_block.adaLN_modulation.1", ["norm1_context.linear"]),
  ]
  private static let sd3Outer: [Fused] = [
    Fused("x_embedder.proj", ["pos_embed.proj"]), Fused("context_embedder", ["context_embedder"]),
    Fused("t_embedder.mlp.0", ["time_text_embed.timestep_embedder.linear_1"]),
    Fused("t_embedder.mlp.2", ["time_text_embed.timestep_embedder.linear_2"]),
    Fused("y_embedder.mlp.0", ["time_text_embed.text_embedder.linear_1"]),
    Fused("y_embedder.mlp.2", ["time_text_embed.text_embedder.linear_2"]),
    Fused("final_layer.linear", ["proj_out"]),
    Fused("final_layer.adaLN_modulation.1", ["norm_out.linear"], swapsHalves: true),
  ]

  private struct Block {
    let maker: String
    let diffusers: String
    let modules: [Fused]
  }

  private static func table(_ model: ImageModel) -> (blocks: [Block], outer: [Fused]) {
    model == .sd3
      ? ([Block(maker: "joint_blocks", diffusers: "transformer_blocks", modules: sd3Joint)], sd3Outer)
      : (
        [
          Block(maker: "double_blocks", diffusers: "transformer_blocks", modules: fluxDouble),
          Block(maker: "single_blocks", diffusers: "single_transformer_blocks", modules: fluxSingle),
          Block(maker: "double_blocks", diffusers: "transformer_blocks", modules: xlabsDouble),
          Block(maker: "single_blocks", diffusers: "single_transformer_blocks", modules: xlabsSingle),
        ], fluxOuter
      )
  }

  /// What a module in the makers' names is; nil if it is none of the model's.
  static func fused(maker path: String, _ model: ImageModel) -> Fused? {
    let (blocks, outer) = table(model)
    if let found = outer.first(where: { $0.path == path }) { return found }
    for block in blocks {
      guard let (index, rest) = place(path, in: block.maker),
        let found = block.modules.first(where: { $0.path == rest })
      else { continue }
      return Fused(
        path, found.parts.map { "\(block.diffusers).\(index).\($0)" }, rows: found.rows, swapsHalves: found.swapsHalves)
    }
    return nil
  }

  /// The module in the makers' names that one in diffusers' is, or is a part of; nil if it is none of the model's.
  static func fused(diffusers path: String, _ model: ImageModel) -> Fused? {
    let (blocks, outer) = table(model)
    if let found = outer.first(where: { $0.parts == [path] }) { return found }
    for block in blocks {
      guard let (index, rest) = place(path, in: block.diffusers),
        let found = block.modules.first(where: { $0.parts.contains(rest) && !$0.path.hasPrefix("processor.") })
      else { continue }
      return Fused(
        "\(block.maker).\(index).\(found.path)", found.parts.map { "\(block.diffusers).\(index).\($0)" },
        rows: found.rows,
        swapsHalves: found.swapsHalves)
    }
    return nil
  }

  /// True if a path is in the makers' names of Flux or SD3.
  static func model(maker path: String) -> ImageModel? {
    if path.hasPrefix("joint_blocks.") { return .sd3 }
    return path.hasPrefix("double_blocks.") || path.hasPrefix("single_blocks.") ? .flux : nil
  }

  private static func place(_ path: String, in blocks: String) -> (Int, String)? {
    guard path.hasPrefix("\(blocks).") else { return nil }
    let parts = path.dropFirst(blocks.count + 1).split(separator: ".", maxSplits: 1)
    guard parts.count == 2, let index = Int(parts[0]), index >= 0 else { return nil }
    return (index, String(parts[1]))
  }
}
