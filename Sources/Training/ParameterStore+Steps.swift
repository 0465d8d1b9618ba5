internal import TensorFiles
internal import TensorMath

extension ParameterStore {
  /// Scales all gradients so that their norm is at most `limit`; without a limit, 0 or less, nothing changes. The norm before.
  ///
  /// Source: torch `clip_grad_norm_`: a norm for each parameter, then theirs.
  public func clipGradients(to limit: Double) -> Double {
    let squares = entries.map { entry in
      Float(LentMatrix(gradients, from: entry.offset, rows: 1, columns: entry.count).squareSum.squareRoot())
    }
    let norm = Float(squares.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot())
    if limit > 0 && norm.isFinite { gradients.scale(by: min(1, Float(limit) / (norm + 1e-6))) }
    return Double(norm)
  }

  /// The first parameter with a gradient that is not finite.
  var firstNotFinite: String? {
    entries.first { entry in
      !LentMatrix(gradients, from: entry.offset, rows: 1, columns: entry.count).squareSum.isFinite
    }?.name
  }

  /// One step of the optimizer for every parameter that has a gradient.
  ///
  /// - Parameter leftOut: parameters without one: torch passes them over, decay and count of steps too.
  /// - Parameter rate: a parameter's learning rate.
  func update(_ optimizer: AdamW, decay: Double, leftOut: Set<ExactName> = [], rate: (Entry) -> Double) {
    for (index, entry) in entries.enumerated() where !leftOut.contains(entry.name) {
      counts[index] += 1
      let part = { (all: LentMatrix) in LentMatrix(all, from: entry.offset, rows: 1, columns: entry.count) }
      optimizer.update(
        part(values), gradient: part(gradients), first: part(first), second: part(second), step: counts[index],
        rate: rate(entry), decay: entry.decays ? decay : 0)
    }
  }
}

extension TrainingArguments {
  /// A parameter's greatest rate: the one of all, or with LoRA+ its own.
  ///
  /// Source: peft/optimizers/loraplus.py `create_loraplus_optimizer`.
  func greatestRate(of entry: ParameterStore.Entry) -> Double {
    guard let ratio = loraPlusRatio else { return learningRate }
    if entry.name.contains("lora_embedding_") { return loraPlusEmbeddingRate }
    return entry.name.contains("lora_B") || entry.shape.count == 1 ? learningRate * ratio : learningRate
  }
}
