internal import TensorMath

/// The gradients of a step: those of its batches, each computed from zero, added in the batches' order.
///
/// With several ranks, batch i of the step is rank i mod R's, as accelerate deals them. Each rank owns a stretch of the
/// parameters, gets every batch's gradient there, adds them in the batches' order, and gives the sum to all. So the bits are
/// those of one program that computes all batches. Bytes that a rank sends in a step, for M of gradients and a batches of its
/// own: (a + 1)·M·(R - 1)/R, for a = 1 those of any all-reduce.
final class StepGradients {
  private let model: TrainableModel
  private let ranks: any Ranks
  private var draws: DrawCount?

  init(_ model: TrainableModel, ranks: any Ranks) {
    self.model = model
    self.ranks = ranks
  }

  /// Leaves the sum in the parameters' gradients, on every rank, and the generator behind the last batch. The summed loss.
  ///
  /// Throws `.contradiction` where several ranks cannot foretell each other's draws.
  func add(_ batches: [TokenBatch], share: Double, smoothing: Double) throws(TrainingError) -> Double {
    if ranks.isAlone { return addAlone(batches, share: share, smoothing: smoothing) }
    let draws: DrawCount
    if let known = self.draws { draws = known } else { draws = try DrawCount(model) }
    self.draws = draws
    model.beginStep()
    let gradients = model.parameters.gradients
    // The same for all: parts have one length.
    let part = (gradients.count + ranks.count - 1) / ranks.count
    let padding = [Float](repeating: 0, count: part * ranks.count - gradients.count)
    var sum: [Float] = []
    var losses: [Double] = []
    for first in stride(from: 0, to: batches.count, by: ranks.count) {
      let round = batches[first..<min(first + ranks.count, batches.count)]
      gradients.clear()
      for (rank, batch) in round.enumerated() {
        guard rank == ranks.rank else {
          model.generator.skip(words: draws.words(of: batch))
          continue
        }
        var foretold = model.generator
        foretold.skip(words: draws.words(of: batch))
        losses.append(model.addGradients(of: batch, share: share, smoothing: smoothing))
        precondition(model.generator == foretold, "a batch drew other numbers than its extents foretell")
      }
      let parts = ranks.exchange(gradients.values + padding)
      for rank in 0..<round.count {
        let other = parts[rank * part..<(rank + 1) * part]
        if sum.isEmpty {
          sum = Array(other)
        } else {
          for (place, value) in zip(sum.indices, other) { sum[place] += value }
        }
      }
    }
    gradients.copy(Array(ranks.gather(sum).prefix(gradients.count)))
    let all = ranks.gather(losses)
    return batches.indices.reduce(0.0) { $0 + all[$1 % ranks.count][$1 / ranks.count] }
  }

  private func addAlone(_ batches: [TokenBatch], share: Double, smoothing: Double) -> Double {
    let gradients = model.parameters.gradients
    model.beginStep()
    gradients.clear()
    guard batches.count > 1 else {
      return batches.reduce(0) { $0 + model.addGradients(of: $1, share: share, smoothing: smoothing) }
    }
    let sum = model.workspace.matrix(1, gradients.count)
    var loss = 0.0
    for (index, batch) in batches.enumerated() {
      if index > 0 { gradients.clear() }
      loss += model.addGradients(of: batch, share: share, smoothing: smoothing)
      if index == 0 { sum.copy(gradients) } else { sum.add(gradients) }
    }
    gradients.copy(sum)
    return loss
  }
}
