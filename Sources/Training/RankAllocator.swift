internal import PEFT
internal import TensorFiles
internal import TensorMath

/// AdaLoRA's share of training: the pull towards orthogonal factors, and which ranks are kept.
///
/// Source: peft/tuners/adalora/model.py `AdaLoraModel.forward`, `update_and_allocate`; layer.py `RankAllocator`.
final class RankAllocator: TrainedBudget {
  struct Schedule {
    /// Ranks of a module that are left at the end, on average.
    let target: Int
    /// Steps before any rank goes, and steps at the end in which the choice stays.
    let start: Int
    let end: Int
    /// Steps from one choice to the next.
    let interval: Int
    let total: Int
    let beta1: Float
    let beta2: Float
    /// What the distance from orthogonality counts in the loss.
    let orthogonality: Float

    /// How many ranks of all modules are to be left, and whether they are chosen at this step.
    func budget(_ step: Int, all: Int, modules: Int) -> (ranks: Int, chooses: Bool) {
      if step <= start { return (all, false) }
      if step > total - end { return (target * modules, true) }
      let rest = 1 - Double(step - start) / Double(total - end - start)
      let ranks = Double(all - target * modules) * (rest * rest * rest) + Double(target * modules)
      return (ranks.isFinite ? Int(ranks) : all, step % interval == 0)
    }
  }

  /// What a parameter's elements meant for the loss lately, and how much that varied.
  private struct Importance {
    var mean: [Float]
    var spread: [Float]

    init(_ count: Int) {
      mean = [Float](repeating: 0, count: count)
      spread = mean
    }

    mutating func update(_ parameter: TrainedParameter, _ schedule: Schedule) {
      let (values, gradients) = (parameter.value.values, parameter.gradient.values)
      for index in mean.indices {
        let now = abs(values[index] * gradients[index])
        mean[index] = schedule.beta1 * mean[index] + (1 - schedule.beta1) * now
        spread[index] = schedule.beta2 * spread[index] + (1 - schedule.beta2) * abs(now - mean[index])
      }
    }

    var scores: [Float] { zip(mean, spread).map { $0 * $1 } }
  }

  private struct Part {
    let path: String
    let adapter: AdaLoRATraining
    var a: Importance
    var e: Importance
    var b: Importance
    var rank: Int { adapter.e.value.rows }

    /// A score of each rank: of its E, and the means of its row of A and its column of B.
    var scores: [Float] {
      let (first, second) = (a.scores, b.scores)
      let (width, height) = (adapter.a.value.columns, adapter.b.value.rows)
      return e.scores.enumerated().map { index, score in
        let row = first[index * width..<(index + 1) * width].reduce(0, +) / Float(width)
        let column = (0..<height).reduce(Float(0)) { $0 + second[$1 * rank + index] } / Float(height)
        return score + (row + column)
      }
    }
  }

  private let schedule: Schedule
  private let workspace: Workspace
  private var parts: [Part] = []
  /// Whether each rank of each part is kept; nil before the first choice.
  private(set) var kept: [[Bool]]?

  init(_ schedule: Schedule, _ workspace: Workspace) { (self.schedule, self.workspace) = (schedule, workspace) }

  func add(_ adapter: AdaLoRATraining, path: String) {
    parts.append(
      Part(
        path: path, adapter: adapter, a: Importance(adapter.a.value.count), e: Importance(adapter.e.value.count),
        b: Importance(adapter.b.value.count)))
  }

  func loss(addingGradients: Bool) -> Double {
    var sum = 0.0
    let share = schedule.orthogonality / Float(2 * max(1, parts.count))
    for part in parts {
      for (factor, isRows) in [(part.adapter.a, true), (part.adapter.b, false)] {
        let distance = workspace.matrix(part.rank, part.rank)
        distance.setProduct(
          factor.value, transposingFirst: !isRows, factor.value, transposingSecond: isRows)
        for index in 0..<part.rank { distance[index, index] -= 1 }
        let norm = distance.squareSum.squareRoot()
        sum += norm
        guard addingGradients, norm > 0 else { continue }
        let scale = 2 * share / Float(norm)
        if isRows {
          factor.gradient.setProduct(distance, factor.value, scale: scale, adding: true)
        } else {
          factor.gradient.setProduct(factor.value, distance, scale: scale, adding: true)
        }
      }
    }
    return Double(share) * sum
  }

  func finish(step: Int) {
    let last = schedule.total - schedule.end
    if step > last {
      if let kept { mask(kept) }
      return
    }
    if step < last {
      for index in parts.indices {
        let adapter = parts[index].adapter
        parts[index].a.update(adapter.a, schedule)
        parts[index].e.update(adapter.e, schedule)
        parts[index].b.update(adapter.b, schedule)
      }
    }
    let all = parts.reduce(0) { $0 + $1.rank }
    let (budget, chooses) = schedule.budget(step, all: all, modules: parts.count)
    guard chooses || step == last, budget < all else { return }
    let scores = parts.map(\.scores)
    let threshold = scores.joined().sorted()[all - max(0, budget) - 1]
    let choice = scores.map { $0.map { !($0 <= threshold) } }
    kept = choice
    mask(choice)
  }

  private func mask(_ kept: [[Bool]]) {
    for (part, ranks) in zip(parts, kept) {
      for (index, isKept) in ranks.enumerated() where !isKept { part.adapter.e.value[index, 0] = 0 }
    }
  }

  // MARK: Saving

  /// The averages of each parameter, and which ranks are kept.
  var state: [(name: String, values: [Float])] {
    parts.enumerated().flatMap { index, part -> [(name: String, values: [Float])] in
      let stem = "rank_allocator.\(part.path)"
      let averages = [("lora_A", part.a), ("lora_E", part.e), ("lora_B", part.b)].flatMap { name, importance in
        [("\(stem).\(name).exp_avg_ipt", importance.mean), ("\(stem).\(name).exp_avg_unc", importance.spread)]
      }
      guard let kept else { return averages }
      return averages + [("\(stem).kept", kept[index].map { $0 ? 1 : 0 })]
    }
  }

  func restore(_ state: [String: [Float]]) -> Bool {
    let hasKept = parts.first.map { state["rank_allocator.\($0.path).kept"] != nil } ?? false
    var (restored, kept) = (parts, [[Bool]]())
    for index in parts.indices {
      let stem = "rank_allocator.\(parts[index].path)"
      for (name, place) in [("lora_A", \Part.a), ("lora_E", \Part.e), ("lora_B", \Part.b)] {
        let count = parts[index][keyPath: place].mean.count
        guard let mean = state["\(stem).\(name).exp_avg_ipt"], let spread = state["\(stem).\(name).exp_avg_unc"],
          mean.count == count, spread.count == count
        else { return false }
        restored[index][keyPath: place].mean = mean
        restored[index][keyPath: place].spread = spread
      }
      guard hasKept else { continue }
      guard let ranks = state["\(stem).kept"], ranks.count == parts[index].rank else { return false }
      kept.append(ranks.map { $0 != 0 })
    }
    parts = restored
    self.kept = hasKept ? kept : nil
    return true
  }

  /// The ranks that are kept. Source: `AdaLoraModel.resize_state_dict_by_rank_pattern`.
  func saved(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float]) {
    guard let kept,
      let index = parts.firstIndex(where: { name.hasPrefix("\(AdapterReader.stem($0.path)).lora_") })
    else { return (shape, values) }
    let ranks = kept[index].indices.filter { kept[index][$0] }
    let width = shape[1]
    if name.hasSuffix("lora_B") {
      return (
        [shape[0], ranks.count], (0..<shape[0]).flatMap { row in ranks.map { values[row * width + $0] } }
      )
    }
    return ([ranks.count, width], ranks.flatMap { values[$0 * width..<($0 + 1) * width] })
  }

  func saved(_ config: PeftConfig) -> PeftConfig {
    guard let kept else { return config }
    var changed = config
    changed.settings["rank_pattern"] = .object(
      zip(parts, kept).map { part, ranks in
        JSONValue.Member("\(part.path).lora_E", .array(ranks.map { .bool($0) }))
      })
    return changed
  }
}
