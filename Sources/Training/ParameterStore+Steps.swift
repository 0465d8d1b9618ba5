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

  /// One step of the optimizer for every parameter.
  func update(_ optimizer: AdamW, step: Int, rate: Double, decay: Double) {
    for entry in entries {
      let part = { (all: LentMatrix) in LentMatrix(all, from: entry.offset, rows: 1, columns: entry.count) }
      optimizer.update(
        part(values), gradient: part(gradients), first: part(first), second: part(second), step: step, rate: rate,
        decay: entry.decays ? decay : 0)
    }
  }
}
