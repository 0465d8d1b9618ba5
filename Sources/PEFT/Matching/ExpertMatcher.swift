internal import TensorFiles

/// An update, and the tensor of the base that it belongs to.
struct MatchedUpdate {
  let tensor: String
  let update: LoRAUpdate
}

/// Says how the LoRA of experts that share a tensor, or a parameter, changes the tensors of the base.
struct ExpertMatcher {
  private let part: MatchedAdapter
  private let scaling: LoRAScaling

  init(_ part: MatchedAdapter, _ scaling: LoRAScaling) {
    (self.part, self.scaling) = (part, scaling)
  }

  /// The LoRA of a parameter that holds all experts of a layer. Nil if the module is none such.
  func updates(of module: Adapter.Module) throws(AdapterError) -> [MatchedUpdate]? {
    let adapter = part.adapter
    let (container, depth) = ParameterWrapping.unwrapped(module.path)
    let targeted = adapter.config.targetedParameters(in: container)
    guard !targeted.isEmpty, depth > 0 || !targeted.contains("weight") else { return nil }
    var parameters: [ExpertParameter] = []
    for name in ParameterWrapping.inOrder(targeted) {
      if let found = try parameter("\(container).\(name)") { parameters.append(found) }
    }
    let wrappers = ParameterWrapping.count(of: container, in: adapter)
    guard !parameters.isEmpty else { return nil }
    guard parameters.count == wrappers, depth < wrappers else {
      throw .configContradiction(
        path: adapter.configPath,
        reason: "target_parameters names \(parameters.count) parameter\(parameters.count == 1 ? "" : "s") of "
          + "'\(container)', but the adapter holds \(wrappers).")
    }
    return try updates(of: module, as: parameters[wrappers - 1 - depth])
  }

  private func parameter(_ path: String) throws(AdapterError) -> ExpertParameter? {
    try ExpertParameter(path: path, base: part.base.model, resolver: part.base.resolver)
  }

  private func updates(
    of module: Adapter.Module, as parameter: ExpertParameter
  ) throws(AdapterError) -> [MatchedUpdate] {
    let base = part.base
    let values = try scaling.values(for: parameter.path)
    let (a, b) = (module.a.shape, module.b.shape)
    let rows = checkedProduct(values.rank, parameter.expertCount)
    guard let rows, a.count == 2, b.count == 2, a[0] == rows, b[1] == rows else {
      throw .rankMismatch(
        path: part.file.path, module: module.path, expectedRank: rows ?? values.rank, shapeA: a, shapeB: b)
    }
    guard let swapped = parameter.isSwapped(a, b, modelType: base.model.modelType, config: part.config) else {
      throw .shapeMismatch(
        base: base.path, tensor: parameter.matrices.first?.tensor.name ?? parameter.path,
        found: [parameter.rows, parameter.columns], expected: [b[0], a[1]])
    }
    return try parameter.matrices.map { matrix throws(AdapterError) in
      try part.requireComputable(matrix.tensor)
      let update = parameter.update(
        matrix, file: part.file.file, a: module.a, b: module.b, rank: values.rank, scale: values.scale * part.weight,
        swapped: swapped)
      return MatchedUpdate(tensor: matrix.tensor.name, update: update)
    }
  }

  /// The LoRA of one expert's own matrix, as adapters of transformers 4 have it, on a base that holds all experts in one
  /// tensor. Nil if the module is none such.
  func fusedUpdate(of module: Adapter.Module) throws(AdapterError) -> MatchedUpdate? {
    let parts = module.path.parts().map(String.init)
    guard parts.count > 2, let name = parts.last, let expert = Int(parts[parts.count - 2]) else { return nil }
    let container = parts.dropLast(2).joined(separator: ".")
    let half = ["w1": 0, "gate_proj": 0, "w3": 1, "up_proj": 1][name]
    guard half != nil || name == "w2" || name == "down_proj",
      let parameter = try parameter("\(container).\(half == nil ? "down_proj" : "gate_up_proj")"),
      expert >= 0, expert < parameter.expertCount, let entry = parameter.matrices.first?.tensor, entry.shape.count == 3
    else { return nil }
    let values = try scaling.values(for: module.path)
    let rows = half == nil ? parameter.rows : parameter.rows / 2
    let (a, b) = (module.a.shape, module.b.shape)
    guard a == [values.rank, parameter.columns], b == [rows, values.rank] else {
      throw .shapeMismatch(
        base: part.base.path, tensor: entry.name, found: [rows, parameter.columns], expected: [b[0], a.last ?? 0])
    }
    try part.requireComputable(entry)
    let file = part.file.file
    let term = LoRAUpdate.Term(
      left: FactorView(file, module.b, rows: rows, columns: values.rank),
      right: FactorView(file, module.a, rows: values.rank, columns: parameter.columns),
      scale: values.scale * part.weight)
    let update = LoRAUpdate(
      terms: [term], firstRow: expert * parameter.rows + (half ?? 0) * rows, rows: rows, columns: parameter.columns,
      isTransposed: false)
    return MatchedUpdate(tensor: entry.name, update: update)
  }
}
