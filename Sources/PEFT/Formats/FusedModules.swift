internal import TensorFiles

/// Splits the LoRA of a projection that is fused into those of its parts, and joins them again.
///
/// Joined, lora_A has the parts' rows one below the other, and lora_B a block for each part, zeros elsewhere. Both ways are
/// exact.
/// Source: sd-scripts networks/convert_flux_lora.py `convert_to_ai_toolkit_cat`, `convert_to_sd_scripts_cat`.
enum FusedModules {
  /// - Parameter module: its path is the makers'. Throws `.foreignContent` for other factors than LoRA's, or rows that the parts cannot
  ///   have, and what reading lora_B throws.
  static func split(
    _ module: CarriedModule, _ fused: TransformerNames.Fused, path file: String
  ) throws(AdapterError) -> [CarriedModule] {
    guard fused.parts.count > 1 || fused.swapsHalves else {
      var renamed = module
      renamed.path = fused.parts[0]
      return [renamed]
    }
    guard let a = module[.a], let b = module[.b], a.shape.count == 2, b.shape.count == 2,
      module.tensors.keys.allSatisfy({ [LoRARole.a, .b, .magnitude].map(\.ending).contains($0) })
    else {
      throw .foreignContent(
        path: file, reason: "'\(module.path)' is several modules of diffusers, and only LoRA's factors can be divided")
    }
    if fused.swapsHalves {
      var swapped = module
      swapped.path = fused.parts[0]
      for role: LoRARole in [.b, .magnitude] { swapped[role] = try module[role]?.halvesSwapped(module.path, file) }
      return [swapped]
    }
    guard let sizes = sizes(fused, rows: b.shape[0], input: a.shape[1]) else {
      throw .foreignContent(
        path: file, reason: "'\(module.path)' has \(b.shape[0]) rows, which its \(fused.parts.count) parts cannot have")
    }
    let chunks = try chunks(b, sizes)
    var modules: [CarriedModule] = []
    var row = 0
    for (index, part) in fused.parts.enumerated() {
      let rows = row..<row + sizes[index]
      row = rows.upperBound
      let chunk = chunks.map { $0[index] }
      if let chunk, chunk.isEmpty { continue }
      var tensors = [
        LoRARole.a.ending: chunk.map { a.rows($0) } ?? a,
        LoRARole.b.ending: chunk.map { b.rows(rows).columns($0) } ?? b.rows(rows),
      ]
      if let magnitude = module[.magnitude] { tensors[LoRARole.magnitude.ending] = magnitude.rows(rows) }
      let rank = chunk?.count ?? module.rank
      modules.append(
        CarriedModule(
          path: part, tensors: tensors, rank: rank, alpha: module.scale * Double(rank), scale: module.scale))
    }
    return modules
  }

  private static func sizes(_ fused: TransformerNames.Fused, rows: Int, input: Int) -> [Int]? {
    let count = fused.parts.count
    switch fused.rows {
    case .equal: return rows % count == 0 && rows > 0 ? [Int](repeating: rows / count, count: count) : nil
    case .likeInput:
      let last = rows - (count - 1) * input
      return last > 0 ? [Int](repeating: input, count: count - 1) + [last] : nil
    }
  }

  /// The columns of lora_B that each part uses, where they are a block of its own: what `join` wrote. Parts that use none
  /// are empty. Nil where parts share columns.
  private static func chunks(_ b: MadeTensor, _ sizes: [Int]) throws(AdapterError) -> [Range<Int>]? {
    let rank = b.shape[1]
    let bytes = try b.bytes()
    let size = b.elementBytes
    var used = [[Bool]](repeating: [Bool](repeating: false, count: rank), count: sizes.count)
    var row = 0
    for (part, count) in sizes.enumerated() {
      for index in row * rank..<(row + count) * rank
      where bytes[index * size..<(index + 1) * size].contains(where: { $0 != 0 }) {
        used[part][index % rank] = true
      }
      row += count
    }
    func isBlock(_ part: Int, _ range: Range<Int>) -> Bool {
      (0..<rank).allSatisfy { !used[part][$0] || range.contains($0) }
    }
    let filled = sizes.indices.filter { used[$0].contains(true) }
    for parts in [Array(sizes.indices), filled] where parts.count > 0 && rank % parts.count == 0 {
      let each = rank / parts.count
      guard !filled.isEmpty, parts.count > 1 || sizes.count == 1 || filled.count < sizes.count else { continue }
      let ranges = parts.indices.map { $0 * each..<($0 + 1) * each }
      guard zip(parts, ranges).allSatisfy({ isBlock($0, $1) }) else { continue }
      var result = [Range<Int>](repeating: 0..<0, count: sizes.count)
      for (part, range) in zip(parts, ranges) { result[part] = range }
      return result
    }
    return nil
  }

  /// The LoRA of a fused projection of those of its parts; parts that are missing have rows of zeros.
  ///
  /// - Parameter modules: by their paths; not empty.
  /// Throws `.foreignContent` where the rows of a missing part are not known, or one part alone has magnitudes.
  static func join(
    _ modules: [ExactName: CarriedModule], _ fused: TransformerNames.Fused, path file: String
  ) throws(AdapterError) -> CarriedModule? {
    let parts = fused.parts.map { modules[ExactName($0)] }
    guard let first = parts.compactMap({ $0 }).first else { return nil }
    if fused.parts.count == 1 {
      var module = first
      module.path = fused.path
      guard fused.swapsHalves else { return module }
      for role: LoRARole in [.b, .magnitude] { module[role] = try first[role]?.halvesSwapped(first.path, file) }
      return module
    }
    guard let firstA = first[.a], let firstB = first[.b] else { return nil }
    let scale = CarriedAdapter.mostFrequent(parts.compactMap { $0?.scale }.filter { $0 != 0 }) ?? 1
    let rank = parts.reduce(0) { $0 + ($1?.rank ?? 0) }
    let input = firstA.shape[1]
    var (rows, blocks, magnitudes): ([MadeTensor], [MadeTensor], [MadeTensor]) = ([], [], [])
    var before = 0
    for (index, part) in parts.enumerated() {
      guard let part = part?.folded(to: scale), let a = part[.a], let b = part[.b] else {
        guard let size = rowCount(fused, missing: index, parts, input: input) else {
          throw .foreignContent(
            path: file,
            reason:
              "'\(fused.path)' is one module there, and of '\(fused.parts[index])', which has no LoRA, the rows are not "
              + "known")
        }
        blocks.append(MadeTensor(zeros: [size, rank], firstB.dtype))
        continue
      }
      rows.append(a)
      blocks.append(b.padded(columns: rank, before: before))
      before += part.rank
      if let magnitude = part[.magnitude] { magnitudes.append(magnitude) }
    }
    guard magnitudes.isEmpty || magnitudes.count == fused.parts.count else {
      throw .foreignContent(
        path: file, reason: "'\(fused.path)' is one module there, and only some of its parts have magnitudes")
    }
    var tensors = [LoRARole.a.ending: MadeTensor.joined(rows), LoRARole.b.ending: MadeTensor.joined(blocks)]
    if !magnitudes.isEmpty { tensors[LoRARole.magnitude.ending] = .joined(magnitudes) }
    return CarriedModule(
      path: fused.path, tensors: tensors, rank: rank, alpha: scale * Double(rank), scale: scale)
  }

  private static func rowCount(
    _ fused: TransformerNames.Fused, missing index: Int, _ parts: [CarriedModule?], input: Int
  ) -> Int? {
    switch fused.rows {
    case .equal: parts.compactMap { $0?[.b]?.shape.first }.first
    // Flux's hidden features of a single block go four times into its inner layer.
    case .likeInput: index < fused.parts.count - 1 ? input : input * 4
    }
  }
}

extension MadeTensor {
  /// The second half of the first extent before the first. Throws `.foreignContent` for an odd number.
  fileprivate func halvesSwapped(_ module: String, _ path: String) throws(AdapterError) -> MadeTensor {
    guard shape[0] % 2 == 0 else {
      throw .foreignContent(path: path, reason: "'\(module)' has \(shape[0]) rows, which are no two halves")
    }
    let half = shape[0] / 2
    return .joined([rows(half..<shape[0]), rows(0..<half)])
  }
}
