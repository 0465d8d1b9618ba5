/// How the names in a checkpoint become the names in the model, as transformers 5 renames them when it loads.
///
/// Source: transformers/conversion_mapping.py, the `WeightRenaming` entries of each model type.
struct Renaming: Sendable {
  /// One substitution.
  private enum Step: Sendable {
    /// At the beginning of the name, unless one of the exceptions follows.
    case beginning(String, becomes: String, unlessFollowedBy: [String] = [])
    /// Wherever it stands.
    case part(String, becomes: String)
  }

  /// Applied one after the other.
  private let steps: [Step]

  /// True if no name changes.
  var isEmpty: Bool { steps.isEmpty }

  /// The name in the model of a tensor in the file. A name that is the model's already stays as it is.
  func modelName(_ fileName: String) -> String {
    var name = fileName
    for step in steps {
      switch step {
      case .beginning(let old, let new, let exceptions):
        guard name.hasPrefix(old) else { continue }
        let rest = name.dropFirst(old.count)
        if !exceptions.contains(where: { rest.hasPrefix($0) }) { name = new + rest }
      case .part(let old, let new): name = name.replacing(old, with: new)
      }
    }
    return name
  }

  static let none = Renaming(steps: [])

  /// Llava and its kin: the language model stood beside the towers, with a head of its own.
  static let languageModelInside = Renaming(steps: [
    .beginning("language_model.lm_head.", becomes: "lm_head."),
    .beginning("language_model.model.", becomes: "model.language_model."),
    .beginning("vision_tower.", becomes: "model.vision_tower."),
    .beginning("vision_model.", becomes: "model.vision_model."),
    .beginning("multi_modal_projector.", becomes: "model.multi_modal_projector."),
    .beginning("image_newline", becomes: "model.image_newline"),
  ])

  /// Qwen2-VL: the language model's parts stood where the whole model's do now.
  static let languageModelOutside = Renaming(steps: [
    .beginning("visual.", becomes: "model.visual."),
    .beginning("model.", becomes: "model.language_model.", unlessFollowedBy: ["language_model.", "visual."]),
  ])

  static let sparseBlock = Renaming(steps: [.part(".block_sparse_moe.", becomes: ".mlp.")])

  static let graniteExperts = Renaming(steps: [
    .part("block_sparse_moe.input_linear.weight", becomes: "block_sparse_moe.experts.gate_up_proj"),
    .part("block_sparse_moe.output_linear.weight", becomes: "block_sparse_moe.experts.down_proj"),
    .part("block_sparse_moe.router.layer.weight", becomes: "block_sparse_moe.router.weight"),
  ])

  static let visionTransformer = Renaming(steps: [
    .part("encoder.layer.", becomes: "layers."),
    .part("attention.attention.query.", becomes: "attention.q_proj."),
    .part("attention.attention.key.", becomes: "attention.k_proj."),
    .part("attention.attention.value.", becomes: "attention.v_proj."),
    .part("attention.output.dense.", becomes: "attention.o_proj."),
    .part("intermediate.dense.", becomes: "mlp.fc1."),
    .part("output.dense.", becomes: "mlp.fc2."),
  ])

  static let dino = Renaming(steps: [
    .part("attention.attention.query.", becomes: "attention.q_proj."),
    .part("attention.attention.key.", becomes: "attention.k_proj."),
    .part("attention.attention.value.", becomes: "attention.v_proj."),
    .part("attention.output.dense.", becomes: "attention.o_proj."),
    .part("mlp.weights_out.", becomes: "mlp.down_proj."),
  ])

  static let swin = Renaming(steps: [
    .part("attention.self.query.", becomes: "attention.q_proj."),
    .part("attention.self.key.", becomes: "attention.k_proj."),
    .part("attention.self.value.", becomes: "attention.v_proj."),
    .part("attention.output.dense.", becomes: "attention.o_proj."),
    .part("intermediate.dense.", becomes: "mlp.fc1."),
    .part("output.dense.", becomes: "mlp.fc2."),
  ])
}
