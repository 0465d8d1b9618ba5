/// Modules of SDXL's UNet: Stability's names, which kohya's files have, and diffusers'.
///
/// Blocks have two layers below and three above; each layer is a block of its own in Stability's count.
/// Source: diffusers/loaders/lora_conversion_utils.py `_maybe_map_sgm_blocks_to_diffusers`, `_convert_unet_lora_key`.
enum SDXLNames {
  private static let inner: [(stability: String, diffusers: String)] = [
    ("in_layers.2", "conv1"), ("out_layers.3", "conv2"), ("emb_layers.1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
  ]
  private static let outer: [(stability: String, diffusers: String)] = [
    ("input_blocks.0.0", "conv_in"), ("out.2", "conv_out"), ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"), ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
  ]
  private static let middle = [("0", "resnets.0"), ("1", "attentions.0"), ("2", "resnets.1")]

  /// diffusers' path; nil for what is no module of the UNet in Stability's names.
  static func diffusers(_ path: String) -> String? {
    if let known = outer.first(where: { $0.stability == path }) { return known.diffusers }
    let parts = path.split(separator: ".").map(String.init)
    guard parts.count >= 3, let first = parts.first else { return nil }
    func rest(_ count: Int) -> String {
      let rest = parts.dropFirst(count).joined(separator: ".")
      return inner.first { $0.stability == rest }?.diffusers ?? rest
    }
    if first == "middle_block" {
      return middle.first { $0.0 == parts[1] }.map { "mid_block.\($0.1).\(rest(2))" }
    }
    guard parts.count >= 4, let index = Int(parts[1]), let place = Int(parts[2]) else { return nil }
    switch (first, place) {
    case ("input_blocks", 0) where index > 0 && parts[3] == "op":
      return "down_blocks.\((index - 1) / 3).downsamplers.0.conv"
    case ("input_blocks", 0...1) where index > 0:
      return "down_blocks.\((index - 1) / 3).\(place == 0 ? "resnets" : "attentions").\((index - 1) % 3).\(rest(3))"
    case ("output_blocks", 1...2) where parts[3] == "conv": return "up_blocks.\(index / 3).upsamplers.0.conv"
    case ("output_blocks", 0...1):
      return "up_blocks.\(index / 3).\(place == 0 ? "resnets" : "attentions").\(index % 3).\(rest(3))"
    default: return nil
    }
  }

  /// Stability's path; nil for what is no module of SDXL's UNet.
  static func stability(_ path: String) -> String? {
    if let known = outer.first(where: { $0.diffusers == path }) { return known.stability }
    let parts = path.split(separator: ".").map(String.init)
    func rest(_ count: Int) -> String {
      let rest = parts.dropFirst(count).joined(separator: ".")
      return inner.first { $0.diffusers == rest }?.stability ?? rest
    }
    if parts.first == "mid_block" {
      return middle.first { path.hasPrefix("mid_block.\($0.1).") }.map { "middle_block.\($0.0).\(rest(3))" }
    }
    guard parts.count >= 5, let block = Int(parts[1]), let layer = Int(parts[3]), block < 3, layer < 3 else {
      return nil
    }
    switch (parts[0], parts[2]) {
    case ("down_blocks", "resnets"): return "input_blocks.\(1 + 3 * block + layer).0.\(rest(4))"
    case ("down_blocks", "attentions"): return "input_blocks.\(1 + 3 * block + layer).1.\(rest(4))"
    case ("down_blocks", "downsamplers"): return "input_blocks.\(3 + 3 * block).0.op"
    case ("up_blocks", "resnets"): return "output_blocks.\(3 * block + layer).0.\(rest(4))"
    case ("up_blocks", "attentions"): return "output_blocks.\(3 * block + layer).1.\(rest(4))"
    // After the last layer of a block; all but the last block have attention.
    case ("up_blocks", "upsamplers"): return "output_blocks.\(3 * block + 2).\(block < 2 ? 2 : 1).conv"
    default: return nil
    }
  }

  /// True if a path of a UNet in diffusers' names can only be SDXL's, false if only another's, nil if both have it.
  static func isOnlySDXL(_ path: String) -> Bool? {
    if path.hasPrefix("add_embedding") { return true }
    let isOther = [
      "down_blocks.0.attentions", "down_blocks.3", "up_blocks.3", "down_blocks.2.downsamplers",
      "up_blocks.2.attentions",
      "up_blocks.2.upsamplers",
    ]
    if isOther.contains(where: { path.hasPrefix("\($0).") }) { return false }
    if path.hasPrefix("up_blocks.0.attentions.") { return true }
    let parts = path.split(separator: ".")
    if let index = parts.firstIndex(of: "transformer_blocks"), index + 1 < parts.count,
      let depth = Int(parts[index + 1])
    {
      return depth > 0 ? true : nil
    }
    return nil
  }
}
