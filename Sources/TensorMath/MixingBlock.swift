internal import CKernels

/// A stretch of several tensors of one shape, in f32, and what is made of it: the part of a mix that is computed at once.
///
/// Slots 0 to `inputs` - 1 are what is mixed; with a base, a last slot holds it, and a change is an input minus the base. Without one a
/// change is the input itself. Precision: sums in f64, rounded once to f32.
public struct MixingBlock: Sendable {
  public let inputs: Int
  public let hasBase: Bool
  /// Elements that a slot has room for.
  public let capacity: Int
  /// Elements in use. Traps beyond the capacity.
  public var count = 0 {
    didSet { precondition(count >= 0 && count <= capacity, "the block is too small") }
  }
  private var values: [Float]
  private var kept: [UInt8]
  private var chosen: [UInt8]
  private var output: [Float]

  public init(inputs: Int, hasBase: Bool, capacity: Int) {
    precondition(inputs > 0 && capacity > 0, "an empty block")
    self.inputs = inputs
    self.hasBase = hasBase
    self.capacity = capacity
    values = [Float](repeating: 0, count: (inputs + (hasBase ? 1 : 0)) * capacity)
    kept = [UInt8](repeating: 0, count: inputs * capacity)
    chosen = [UInt8](repeating: 0, count: inputs)
    output = [Float](repeating: 0, count: capacity)
  }

  /// Widens stored elements into a slot; the base's slot is `inputs`. Traps unless there are `count`.
  public mutating func set(_ slot: Int, _ bytes: RawSpan, _ format: FloatFormat) {
    precondition(slot >= 0 && slot * capacity < values.count, "no such slot")
    precondition(bytes.byteCount == count * format.byteCount, "elements do not fit")
    let (first, count) = (slot * capacity, count)
    // Soundness: the slot has room for `count`, which the bytes hold.
    values.withUnsafeMutableBufferPointer { to in
      bytes.withUnsafeBytes { from in
        guard let from = from.baseAddress, let to = to.baseAddress else { return }
        decode(from, from: format, into: to + first, count)
      }
    }
  }

  /// Takes elements into a slot. Traps unless there are `count`.
  public mutating func set(_ slot: Int, _ elements: some RandomAccessCollection<Float>) {
    precondition(slot >= 0 && slot * capacity < values.count && elements.count == count, "elements do not fit")
    for (index, value) in zip(slot * capacity..<slot * capacity + count, elements) { values[index] = value }
  }

  /// What the last sum or mix gave: `count` elements.
  public var result: ArraySlice<Float> { output[..<count] }

  /// The result rounded to a format. Traps unless there is room for exactly `count` elements.
  public func encodeResult(to format: FloatFormat, into bytes: inout MutableRawSpan) {
    encode(output.span.extracting(0..<count), to: format, into: &bytes)
  }

  // MARK: Sums

  /// result = base · baseFactor + Σ factors[i] · input i, for some of the elements. Traps on a base's factor without a base.
  public mutating func sum(_ factors: [Double], base: Double = 0, over range: Range<Int>? = nil) {
    let range = range ?? 0..<count
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "elements lie outside")
    precondition(factors.count == inputs && (hasBase || base == 0), "factors do not fit")
    let all = hasBase ? factors + [base] : factors
    let capacity = capacity
    // Soundness: each slot and the output have room for the range.
    output.withUnsafeMutableBufferPointer { to in
      values.withUnsafeBufferPointer { from in
        guard let from = from.baseAddress, let to = to.baseAddress else { return }
        kernels_mix_sum(from + range.lowerBound, capacity, all.count, all, range.count, to + range.lowerBound)
      }
    }
  }

  /// As `sum`, with factors of its own for each column: element j belongs to column (first + j) % columns.
  public mutating func sum(_ factors: [[Double]], base: [Double]?, first: Int) {
    let columns = factors.first?.count ?? 1
    for index in 0..<count {
      let column = (first + index) % columns
      var sum = base.map { $0[column] * Double(values[inputs * capacity + index]) } ?? 0
      for input in 0..<inputs { sum += factors[input][column] * Double(values[input * capacity + index]) }
      output[index] = Float(sum)
    }
  }

  /// The sum of the products of two inputs' changes, for some of the elements; without the base if `raw`.
  public func product(_ first: Int, _ second: Int, over range: Range<Int>? = nil, raw: Bool = false) -> Double {
    let range = range ?? 0..<count
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "elements lie outside")
    // Soundness: the range lies in every slot.
    return values.withUnsafeBufferPointer { values in
      guard let all = values.baseAddress else { return 0 }
      let from = all + range.lowerBound
      return kernels_change_product(
        hasBase && !raw ? from + inputs * capacity : nil, from + first * capacity, from + second * capacity, range.count
      )
    }
  }

  /// Adds the products of two inputs' changes to the sums of their columns; see the `sum` of columns.
  public func addProducts(_ one: Int, _ two: Int, to sums: inout [Double], first: Int) {
    for index in 0..<count {
      let base = hasBase ? Double(values[inputs * capacity + index]) : 0
      sums[(first + index) % sums.count] +=
        (Double(values[one * capacity + index]) - base) * (Double(values[two * capacity + index]) - base)
    }
  }
}

// MARK: Changes

extension MixingBlock {
  /// How the changes are mixed; see `mix`.
  public struct ChangeRule: Sendable, Equatable {
    /// What a change is multiplied by.
    public var factors: [Double]
    /// What a change counts in the divisor.
    public var weights: [Double]
    /// True to take only changes whose sign is that of the sum of all.
    public var elects: Bool
    /// True to divide by the weights of what is taken, unless they sum to less than 1e-8.
    public var normalizes: Bool
    /// What the mix is multiplied by.
    public var scale: Double

    public init(factors: [Double], weights: [Double], elects: Bool, normalizes: Bool, scale: Double) {
      self.factors = factors
      self.weights = weights
      self.elects = elects
      self.normalizes = normalizes
      self.scale = scale
    }
  }

  /// result = base + scale · Σ factors[i] · change i, over what is kept and agrees with the election.
  ///
  /// Edge: a change of zero has no sign and agrees with none; a sum of zero elects the positive sign.
  public mutating func mix(_ rule: ChangeRule) {
    precondition(rule.factors.count == inputs && rule.weights.count == inputs, "factors do not fit")
    let (capacity, inputs, hasBase, count) = (capacity, inputs, hasBase, count)
    // Soundness: every pointer is to a slot with room for `count`; the kernel writes the output only.
    output.withUnsafeMutableBufferPointer { to in
      values.withUnsafeBufferPointer { values in
        kept.withUnsafeBufferPointer { kept in
          chosen.withUnsafeBufferPointer { chosen in
            rule.factors.withUnsafeBufferPointer { factors in
              rule.weights.withUnsafeBufferPointer { weights in
                guard let from = values.baseAddress, let to = to.baseAddress else { return }
                var mix = kernels_changes(
                  base: hasBase ? from + inputs * capacity : nil, x: from, keep: kept.baseAddress,
                  chosen: chosen.baseAddress, factors: factors.baseAddress, weights: weights.baseAddress,
                  stride: capacity, inputs: inputs, scale: rule.scale, elects: rule.elects ? 1 : 0,
                  normalizes: rule.normalizes ? 1 : 0)
                kernels_mix_changes(&mix, count, to)
              }
            }
          }
        }
      }
    }
  }

  /// Keeps all of an input's changes again.
  public mutating func keepAll(_ input: Int) { chosen[input] = 0 }

  /// Keeps the changes of an input that the draws of a generator choose: each with the density, or with one of its own.
  public mutating func keep(
    _ input: Int, density: Float, densities: [Float]? = nil, from generator: inout TorchGenerator
  ) {
    let (capacity, count) = (capacity, count)
    chosen[input] = 1
    // Soundness: the input's bytes have room for `count`.
    kept.withUnsafeMutableBufferPointer { kept in
      guard let to = kept.baseAddress else { return }
      generator.keep(count, density: density, densities: densities, into: to + input * capacity)
    }
  }

  /// Keeps the changes of an input whose magnitude lies in the band.
  public mutating func keep(_ input: Int, in band: inout MagnitudeBand) {
    let (capacity, inputs, hasBase, count) = (capacity, inputs, hasBase, count)
    chosen[input] = 1
    // Soundness: slots and bytes have room for `count`.
    kept.withUnsafeMutableBufferPointer { kept in
      values.withUnsafeBufferPointer { values in
        guard let from = values.baseAddress, let to = kept.baseAddress else { return }
        kernels_keep_band(
          hasBase ? from + inputs * capacity : nil, from + input * capacity, count, &band.bounds, to + input * capacity)
      }
    }
  }

  /// Adds up the magnitudes of an input's changes, and of those that are kept. Traps if none were chosen.
  public func addMagnitudes(_ input: Int, to sums: inout (all: Double, kept: Double)) {
    precondition(chosen[input] == 1, "nothing was chosen")
    // Soundness: slots and bytes have room for `count`.
    values.withUnsafeBufferPointer { values in
      kept.withUnsafeBufferPointer { kept in
        guard let from = values.baseAddress, let keep = kept.baseAddress else { return }
        kernels_magnitude_sums(
          hasBase ? from + inputs * capacity : nil, from + input * capacity, keep + input * capacity, count, &sums.all,
          &sums.kept)
      }
    }
  }

  /// Counts an input's magnitudes; see `MagnitudeCounts`.
  public func count(_ input: Int, in counts: inout MagnitudeCounts) {
    // Soundness: slots have room for `count`.
    values.withUnsafeBufferPointer { values in
      guard let from = values.baseAddress else { return }
      counts.add(hasBase ? from + inputs * capacity : nil, from + input * capacity, count)
    }
  }

  /// Some of an input's magnitudes with their places: the bits of the magnitude in the upper half, the place in the lower, so that
  /// sorting them ranks the changes, equal ones in memory's order. Traps outside of the elements.
  public func magnitudeKeys(_ input: Int, from first: Int, step: Int, count keys: Int) -> [UInt64] {
    precondition(first >= 0 && keys > 0 && first + (keys - 1) * step < count, "elements lie outside")
    return (0..<keys).map { place in
      let index = first + place * step
      let change = values[input * capacity + index] - (hasBase ? values[inputs * capacity + index] : 0)
      return UInt64(change.bitPattern & 0x7FFF_FFFF) << 32 | UInt64(place)
    }
  }

  /// True if every slot holds a finite number there.
  public func isFinite(at index: Int) -> Bool {
    stride(from: index, to: values.count, by: capacity).allSatisfy { values[$0].isFinite }
  }
}
