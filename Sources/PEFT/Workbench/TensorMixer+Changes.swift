internal import TensorMath

extension TensorMixer {
  /// What is kept of one change.
  private enum Choice {
    case all
    case nothing
    /// So many of the greatest magnitudes.
    case greatest(Int)
    /// Those with these numbers in rising order of their magnitudes.
    case band(Range<Int>)
    /// Those that draws choose, from that state on.
    case drawn(Float, TorchGenerator)
    /// As `drawn`, with densities around the first number, by as much as the second.
    case ranked(Double, Double, TorchGenerator)

    var isPart: Bool {
      switch self {
      case .all, .nothing: false
      case .greatest, .band, .drawn, .ranked: true
      }
    }
  }

  func mixChanges(_ rule: ChangeMix, _ generator: TorchGenerator, _ read: Reader, _ write: Writer) throws {
    let choices = choices(rule, generator)
    let bands = try bands(choices, read)
    var factors = zip(rule.weights, choices).map { weight, choice -> Double in
      if case .nothing = choice { 0 } else { weight }
    }
    if rule.rescales {
      var sums = choices.map { _ in (all: 0.0, kept: 0.0) }
      try forEachChoice(choices, bands, read) { block, _ in
        for (input, choice) in choices.enumerated() where choice.isPart { block.addMagnitudes(input, to: &sums[input]) }
      }
      for (input, sum) in sums.enumerated() where sum.all >= 1e-7 && sum.kept >= 1e-7 {
        factors[input] *= sum.all / sum.kept
      }
    }
    let final = MixingBlock.ChangeRule(
      factors: factors, weights: rule.weights, elects: rule.elects, normalizes: rule.normalizes, scale: rule.scale)
    try forEachChoice(choices, bands, read) { block, first in
      block.mix(final)
      try write(block, first)
    }
  }

  private func choices(_ rule: ChangeMix, _ start: TorchGenerator) -> [Choice] {
    var generator = start
    func drawing() -> TorchGenerator {
      defer { generator.skip(words: count) }
      return generator
    }
    return rule.pruning.map { pruning in
      switch pruning {
      case .none: return .all
      case .magnitude(let density):
        guard density < 1 else { return .all }
        guard density > 0 else { return .nothing }
        return .greatest(max(1, Int(density * Double(count))))
      case .outliers(let density, let gamma):
        guard density < 1 else { return .all }
        let kept = Int(density * Double(count))
        let first = max(0, count - kept - Int(gamma * Double(count)))
        return kept > 0 ? .band(first..<first + kept) : .nothing
      case .random(let density): return density < 1 ? .drawn(density, drawing()) : .all
      case .ranked(let density, let epsilon):
        guard density < 1 else { return .all }
        return density > 0 ? .ranked(density, epsilon, drawing()) : .nothing
      }
    }
  }

  /// The bounds of the choices that go by magnitude, in two passes.
  private func bands(_ choices: [Choice], _ read: Reader) throws -> [MagnitudeBand?] {
    let places = choices.map { choice -> [Int]? in
      switch choice {
      case .greatest(let kept): [count - kept]
      case .band(let places): [places.lowerBound, places.upperBound - 1]
      default: nil
      }
    }
    guard places.contains(where: { $0 != nil }) else { return choices.map { _ in nil } }
    var counts = places.map { $0 == nil ? nil : MagnitudeCounts() }
    func pass() throws {
      try forEachBlock(read: read) { block, _ in
        for input in counts.indices where counts[input] != nil { block.count(input, in: &counts[input]!) }
      }
    }
    try pass()
    for (input, places) in places.enumerated() { if let places { counts[input]?.count(around: places) } }
    try pass()
    return zip(choices, counts).map { choice, counts in
      switch choice {
      case .greatest(let kept): counts?.greatest(kept, of: count)
      case .band(let places): counts?.band(places)
      default: nil
      }
    }
  }

  /// A pass over blocks in which the choices are marked.
  private func forEachChoice(
    _ choices: [Choice], _ bands: [MagnitudeBand?], _ read: Reader,
    _ body: (inout MixingBlock, _ first: Int) throws -> Void
  ) throws {
    var (choices, bands) = (choices, bands)
    let ranks = choices.contains { if case .ranked = $0 { true } else { false } }
    // Ranks are along the second axis of a stretch for each index of the first; a tensor of one axis is one stretch.
    let unit = ranks ? (shape.count > 1 ? count / max(1, shape[0]) : count) : 1
    let rowLength = shape.count > 1 ? shape[1] : count
    try forEachBlock(unit: unit, read: read) { block, first in
      for input in choices.indices {
        switch choices[input] {
        case .all, .nothing: break
        case .greatest, .band:
          if var band = bands[input] {
            block.keep(input, in: &band)
            bands[input] = band
          }
        case .drawn(let density, var generator):
          block.keep(input, density: density, from: &generator)
          choices[input] = .drawn(density, generator)
        case .ranked(let density, let epsilon, var generator):
          let densities = Self.densities(block, input, unit: unit, rowLength: rowLength, density, epsilon)
          block.keep(input, density: 0, densities: densities, from: &generator)
          choices[input] = .ranked(density, epsilon, generator)
        }
      }
      try body(&block, first)
    }
  }

  /// The probability of each element of a block, rounded as mergekit's arithmetic in f32 rounds it. Of equal magnitudes the first in
  /// memory's order ranks lower; a row of one element has the density itself.
  private static func densities(
    _ block: MixingBlock, _ input: Int, unit: Int, rowLength: Int, _ density: Double, _ epsilon: Double
  ) -> [Float] {
    var densities = [Float](repeating: Float(density), count: block.count)
    guard rowLength > 1 else { return densities }
    let step = unit / rowLength
    let (least, range) = (Float(density - epsilon), Float(epsilon))
    for start in stride(from: 0, to: block.count, by: unit) {
      for row in start..<start + step {
        var keys = block.magnitudeKeys(input, from: row, step: step, count: rowLength)
        keys.sort()
        for (rank, key) in keys.enumerated() {
          let share = Float(rank) / Float(rowLength - 1)
          densities[row + Int(key & 0xFFFF_FFFF) * step] = least + share * 2 * range
        }
      }
    }
    return densities
  }
}
