internal import TensorFiles

extension MergePlanMaker {
  /// Parameters of experts in the order in which transformers registers them: PEFT wraps the last one outermost.
  private static let registrationOrder = ["gate_up_proj", "down_proj"]

  /// Adds the LoRA of a parameter that holds all experts of a layer. False if the module is none such.
  mutating func addExperts(
    _ module: Adapter.Module, _ resolver: NameResolver, _ scaling: LoRAScaling
  ) throws(AdapterError) -> Bool {
    let (container, depth) = Self.unwrapped(module.path)
    let targeted = adapter.config.targetedParameters(in: container)
    guard !targeted.isEmpty, depth > 0 || !targeted.contains("weight") else { return false }
    var parameters: [ExpertParameter] = []
    for name in targeted.sorted(by: { Self.rank($0) < Self.rank($1) }) {
      if let found = try ExpertParameter(path: "\(container).\(name)", base: base, resolver: resolver) {
        parameters.append(found)
      }
    }
    let wrappers = adapter.modules.filter { Self.unwrapped($0.path).path.isExactly(container) }.count
    guard !parameters.isEmpty else { return false }
    guard parameters.count == wrappers, depth < wrappers else {
      throw .configContradiction(
        path: adapter.configPath,
        reason: "target_parameters names \(parameters.count) parameter\(parameters.count == 1 ? "" : "s") of "
          + "'\(container)', but the adapter holds \(wrappers).")
    }
    try add(module, as: parameters[wrappers - 1 - depth], scaling)
    return true
  }

  private mutating func add(
    _ module: Adapter.Module, as parameter: ExpertParameter, _ scaling: LoRAScaling
  ) throws(AdapterError) {
    let values = try scaling.values(for: parameter.path)
    let (a, b) = (module.a.shape, module.b.shape)
    let rows = checkedProduct(values.rank, parameter.expertCount)
    guard let rows, a.count == 2, b.count == 2, a[0] == rows, b[1] == rows else {
      throw .rankMismatch(
        path: adapter.file.path, module: module.path, expectedRank: rows ?? values.rank, shapeA: a, shapeB: b)
    }
    guard
      let swapped = parameter.isSwapped(a, b, modelType: base.modelType, config: adapter.config)
    else {
      throw .shapeMismatch(
        base: base.path, tensor: parameter.matrices.first?.tensor.name ?? parameter.path,
        found: [parameter.rows, parameter.columns], expected: [b[0], a[1]])
    }
    for matrix in parameter.matrices {
      guard matrix.tensor.dtype.isComputable else {
        throw .baseDType(base: base.path, tensor: matrix.tensor.name, dtype: matrix.tensor.dtype)
      }
      let update = parameter.update(
        matrix, file: adapter.file.file, a: module.a, b: module.b, rank: values.rank,
        scale: values.scale * adapterWeight, swapped: swapped)
      try add(update, to: matrix.tensor.name, of: module)
    }
  }

  /// Adds the LoRA of one expert's own matrix, as adapters of transformers 4 have it, to a base that holds all experts in
  /// one tensor. False if the module is none such.
  mutating func addExpertOfFusedTensor(
    _ module: Adapter.Module, _ resolver: NameResolver, _ scaling: LoRAScaling
  ) throws(AdapterError) -> Bool {
    let parts = module.path.parts().map(String.init)
    guard parts.count > 2, let name = parts.last, let expert = Int(parts[parts.count - 2]) else { return false }
    let container = parts.dropLast(2).joined(separator: ".")
    let half = ["w1": 0, "gate_proj": 0, "w3": 1, "up_proj": 1][name]
    guard half != nil || name == "w2" || name == "down_proj",
      let parameter = try ExpertParameter(
        path: "\(container).\(half == nil ? "down_proj" : "gate_up_proj")", base: base, resolver: resolver),
      expert >= 0, expert < parameter.expertCount, let entry = parameter.matrices.first?.tensor, entry.shape.count == 3
    else { return false }
    let values = try scaling.values(for: module.path)
    let rows = half == nil ? parameter.rows : parameter.rows / 2
    let (a, b) = (module.a.shape, module.b.shape)
    guard a == [values.rank, parameter.columns], b == [rows, values.rank] else {
      throw .shapeMismatch(
        base: base.path, tensor: entry.name, found: [rows, parameter.columns], expected: [b[0], a.last ?? 0])
    }
    guard entry.dtype.isComputable else {
      throw .baseDType(base: base.path, tensor: entry.name, dtype: entry.dtype)
    }
    let file = adapter.file.file
    let term = LoRAUpdate.Term(
      left: FactorView(file, module.b, rows: rows, columns: values.rank),
      right: FactorView(file, module.a, rows: values.rank, columns: parameter.columns),
      scale: values.scale * adapterWeight)
    let update = LoRAUpdate(
      terms: [term], firstRow: expert * parameter.rows + (half ?? 0) * rows, rows: rows, columns: parameter.columns,
      isTransposed: false)
    try add(update, to: entry.name, of: module)
    return true
  }

  /// The path without `.base_layer` at its end, and how many there were.
  static func unwrapped(_ path: String) -> (path: String, depth: Int) {
    var (path, depth) = (path, 0)
    while path.hasSuffix(".base_layer") {
      path.removeLast(".base_layer".count)
      depth += 1
    }
    return (path, depth)
  }

  /// Where a parameter stands in that order; parameters of other names follow in the order in which they are targeted.
  static func rank(_ parameter: String) -> Int {
    registrationOrder.firstIndex(of: parameter) ?? registrationOrder.count
  }
}
