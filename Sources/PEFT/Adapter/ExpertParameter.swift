internal import TensorFiles

/// A parameter of a layer's experts that carries a LoRA: `target_parameters`, and where its matrices lie in the base.
///
/// transformers 5 holds the experts of a layer as one tensor a parameter, `[experts, out, in]`; checkpoints hold it so, or
/// have a matrix for each expert, with gate and up apart.
/// Source: peft/tuners/lora/layer.py `ParamWrapper`; transformers/conversion_mapping.py.
struct ExpertParameter {
  /// A matrix of the base: rows of a stored tensor, or all of it.
  struct Matrix {
    let tensor: TensorEntry
    /// Where its rows begin in the tensor, seen as one matrix.
    let firstRow: Int
    let rows: Int
    let columns: Int
    let expert: Int
    /// Its first row in the parameter's matrix of that expert.
    let parameterRow: Int
  }

  /// The parameter's path in the model: `model.layers.0.mlp.experts.gate_up_proj`.
  let path: String
  let expertCount: Int
  /// The parameter's matrix for one expert, as stored.
  let rows: Int
  let columns: Int
  let matrices: [Matrix]

  /// Names of one expert's matrices in a checkpoint, by the parameter's name: gate before up.
  private static let separateNames: [String: [[String]]] = [
    "gate_up_proj": [["w1", "w3"], ["gate_proj", "up_proj"]], "down_proj": [["w2"], ["down_proj"]],
  ]

  /// Finds the parameter in the base; nil if the base has no such tensors or they do not belong together.
  init?(path: String, base: BaseModel, resolver: NameResolver) throws(AdapterError) {
    self.path = path
    if let name = try resolver.resolve(path), let entry = base.checkpoint[name]?.entry, entry.shape.count == 3 {
      (expertCount, rows, columns) = (entry.shape[0], entry.shape[1], entry.shape[2])
      let (rows, columns) = (rows, columns)
      matrices = (0..<expertCount).map { expert in
        Matrix(
          tensor: entry, firstRow: expert * rows, rows: rows, columns: columns, expert: expert, parameterRow: 0)
      }
      return
    }
    let container = path.parts().dropLast().joined(separator: ".")
    for names in Self.separateNames[lastPart(path)] ?? [] {
      var matrices: [Matrix] = []
      var expert = 0
      var isWhole = true
      experts: while isWhole {
        var row = 0
        for name in names {
          guard let found = try resolver.resolve("\(container).\(expert).\(name).weight"),
            let entry = base.checkpoint[found]?.entry, entry.shape.count == 2
          else {
            isWhole = false
            if row > 0 { return nil }
            break experts
          }
          matrices.append(
            Matrix(
              tensor: entry, firstRow: 0, rows: entry.shape[0], columns: entry.shape[1], expert: expert,
              parameterRow: row))
          row += entry.shape[0]
        }
        expert += 1
      }
      guard let first = matrices.first else { continue }
      let height = matrices.filter { $0.expert == 0 }.reduce(0) { $0 + $1.rows }
      guard matrices.allSatisfy({ $0.columns == first.columns }),
        matrices.reduce(0, { $0 + $1.rows }) == height * expert
      else { return nil }
      (expertCount, rows, columns) = (expert, height, first.columns)
      self.matrices = matrices
      return
    }
    return nil
  }

  /// Whether the factors fit the stored matrices as A `[r, columns]` and B `[rows, r]`, or the other way round, with
  /// ΔW = (B·A)ᵀ; nil if neither fits.
  ///
  /// The widths decide. Where a matrix is square, the layout does that PEFT had: until 0.19.0 always "in" first, in 0.19.0
  /// so but for types that transformers holds transposed, since 0.19.1 for these types only.
  func isSwapped(_ a: [Int], _ b: [Int], modelType: String?, config: PeftConfig) -> Bool? {
    let fits = a[1] == columns && b[0] == rows
    let fitsSwapped = a[1] == rows && b[0] == columns
    if fits != fitsSwapped { return fitsSwapped }
    guard fits else { return nil }
    let isTransposed = modelType == "gpt_oss"
    return config.precedes(0, 19) || (config.precedes(0, 19, 1) ? !isTransposed : isTransposed)
  }

  /// The LoRA of one expert's matrix.
  ///
  /// A holds the experts below each other, row e·r + k; B interleaved, column k·experts + e.
  func update(
    _ matrix: Matrix, file: OpenFile, a: TensorEntry, b: TensorEntry, rank: Int, scale: Double, swapped: Bool
  ) -> LoRAUpdate {
    let (width, height) = (a.shape[1], b.shape[0])
    let factorA = FactorView(
      file, a, rows: rank, columns: width, offset: matrix.expert * rank * width, rowStride: width, columnStride: 1)
    let factorB = FactorView(
      file, b, rows: height, columns: rank, offset: matrix.expert, rowStride: rank * expertCount,
      columnStride: expertCount)
    let (left, right) = swapped ? (factorA.transposed, factorB.transposed) : (factorB, factorA)
    let term = LoRAUpdate.Term(
      left: left.rows(matrix.parameterRow..<matrix.parameterRow + matrix.rows), right: right, scale: scale)
    return LoRAUpdate(
      terms: [term], firstRow: matrix.firstRow, rows: matrix.rows, columns: matrix.columns, isTransposed: swapped)
  }
}

extension PeftConfig {
  /// Names of parameters in `target_parameters` that lie in the module of that path, such as `gate_up_proj` in
  /// `…mlp.experts`. Source: peft/tuners/tuners_utils.py `BaseTuner._inject_parameters`.
  func targetedParameters(in module: String) -> [String] { parameterTargets.names(in: module) }
}
