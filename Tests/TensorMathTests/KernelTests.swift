import CKernels
import Glibc
import TensorFiles
import TensorMath
import TestSupport
import Testing

@Suite struct ConversionTests {
  @Test func everyHalfWidensAsDefined() {
    let halves = (0...UInt16.max).map { $0 }
    for (format, reference) in [
      (FloatFormat.f16, kernels_f16_to_f32_reference), (.bf16, kernels_bf16_to_f32_reference),
    ] {
      var floats = [Float](repeating: 0, count: halves.count)
      var span = floats.mutableSpan
      decode(halves.span.bytes, from: format, into: &span)
      for (index, half) in halves.enumerated() {
        #expect(floats[index].bitPattern == reference(half).bitPattern, "\(format) \(half)")
      }
    }
  }

  @Test func everyFiniteHalfHasItsValue() {
    for half in 0...UInt16.max where halfValue(half).isFinite {
      #expect(Double(kernels_f16_to_f32_reference(half)) == halfValue(half))
    }
  }

  @Test func everyHalfSurvivesARoundTrip() {
    for half in 0...UInt16.max {
      let f16 = kernels_f16_to_f32_reference(half)
      let bf16 = kernels_bf16_to_f32_reference(half)
      if !f16.isNaN { #expect(kernels_f32_to_f16_reference(f16) == half) }
      if !bf16.isNaN { #expect(kernels_f32_to_bf16_reference(bf16) == half) }
    }
  }

  @Test func narrowingAgreesWithItsDefinitionAtTiesAndElsewhere() {
    var values: [Float] = []
    // Around every half: the value, the midpoints to its neighbours, and one step beside them.
    for half in stride(from: UInt16(0), to: 0xFFFF, by: 7) {
      for bits in [UInt32(half) << 16, UInt32(half) << 16 | 0x8000, UInt32(half) << 16 | 0x7FFF] {
        values += [Float(bitPattern: bits), Float(bitPattern: bits &+ 1), Float(bitPattern: bits &- 1)]
      }
      let value = kernels_f16_to_f32_reference(half)
      for offset: UInt32 in [0, 0xFFF, 0x1000, 0x1001] { values.append(Float(bitPattern: value.bitPattern &+ offset)) }
    }
    var generator = SeededGenerator(seed: 7)
    for _ in 0..<200_000 { values.append(Float(bitPattern: UInt32(truncatingIfNeeded: generator.next()))) }
    for (format, reference) in [
      (FloatFormat.f16, kernels_f32_to_f16_reference), (.bf16, kernels_f32_to_bf16_reference),
    ] {
      var halves = [UInt16](repeating: 0, count: values.count)
      var span = halves.mutableSpan
      var bytes = span.mutableBytes
      encode(values.span, to: format, into: &bytes)
      for (index, value) in values.enumerated() {
        #expect(halves[index] == reference(value), "\(format) \(value.bitPattern)")
      }
    }
  }
}

@Suite struct LowRankUpdateTests {
  private static func factors(_ rows: Int, _ columns: Int, _ rank: Int) -> (left: [Float], right: [Float]) {
    var generator = TorchGenerator(seed: 3)
    return (
      generator.uniform(count: rows * rank, low: -1, high: 1),
      generator.uniform(count: rank * columns, low: -1, high: 1)
    )
  }

  @Test(
    arguments: [(1, 1, 1), (6, 32, 4), (7, 33, 16), (13, 17, 3), (64, 100, 16), (5, 31, 0), (12, 95, 95)],
    [FloatFormat.bf16, .f16, .f32])
  func theFastLoopReproducesTheDefinitionBitForBit(shape: (Int, Int, Int), format: FloatFormat) {
    let (rows, columns, rank) = shape
    let (left, right) = Self.factors(rows, columns, rank)
    var generator = TorchGenerator(seed: 4)
    let weights = generator.uniform(count: rows * columns, low: -2, high: 2)
    var block = [UInt8](repeating: 0, count: weights.count * format.byteCount)
    do {
      var span = block.mutableSpan
      var bytes = span.mutableBytes
      encode(weights.span, to: format, into: &bytes)
    }
    var expected = block
    let update = LowRankUpdate(left: left, right: right, rows: rows, columns: columns, rank: rank, scale: 0.75)
    do {
      var span = block.mutableSpan
      var bytes = span.mutableBytes
      update.apply(toRowsFrom: 0, of: &bytes, format: format)
    }
    let groups = (rows + 5) / 6
    var packed = [Float](repeating: 0, count: groups * 6 * rank + 1)
    kernels_pack_left(left, rows, rank, rank, 0.75, &packed)
    expected.withUnsafeMutableBytes { w in
      switch format {
      case .bf16:
        kernels_update_bf16_reference(w.bindMemory(to: UInt16.self).baseAddress, rows, columns, packed, right, rank)
      case .f16:
        kernels_update_f16_reference(w.bindMemory(to: UInt16.self).baseAddress, rows, columns, packed, right, rank)
      default:
        kernels_update_f32_reference(w.bindMemory(to: Float.self).baseAddress, rows, columns, packed, right, rank)
      }
    }
    #expect(block == expected)
  }

  @Test func blocksOfRowsGiveTheSameBitsAsTheWhole() {
    let (rows, columns, rank) = (48, 70, 8)
    let (left, right) = Self.factors(rows, columns, rank)
    let update = LowRankUpdate(left: left, right: right, rows: rows, columns: columns, rank: rank, scale: 1)
    var whole = [Float](repeating: 1, count: rows * columns)
    var pieces = whole
    do {
      var span = whole.mutableSpan
      var bytes = span.mutableBytes
      update.apply(toRowsFrom: 0, of: &bytes, format: .f32)
    }
    for first in stride(from: 0, to: rows, by: 12) {
      var piece = Array(pieces[first * columns..<(first + 12) * columns])
      var span = piece.mutableSpan
      var bytes = span.mutableBytes
      update.apply(toRowsFrom: first, of: &bytes, format: .f32)
      pieces.replaceSubrange(first * columns..<(first + 12) * columns, with: piece)
    }
    #expect(whole == pieces)
  }

  @Test(arguments: [95, 96, 200])
  func bothPathsStayWithinTheRoundingOfTheExactProduct(rank: Int) {
    let (rows, columns) = (12, 40)
    let (left, right) = Self.factors(rows, columns, rank)
    let update = LowRankUpdate(left: left, right: right, rows: rows, columns: columns, rank: rank, scale: 0.5)
    var block = [Float](repeating: 0.25, count: rows * columns)
    var span = block.mutableSpan
    var bytes = span.mutableBytes
    update.apply(toRowsFrom: 0, of: &bytes, format: .f32)
    for i in 0..<rows {
      for j in 0..<columns {
        var exact = 0.25
        var magnitude = 0.25
        for k in 0..<rank {
          let term = 0.5 * Double(left[i * rank + k]) * Double(right[k * columns + j])
          exact += term
          magnitude += abs(term)
        }
        #expect(abs(Double(block[i * columns + j]) - exact) <= magnitude * Double(rank + 2) * 0x1p-24)
      }
    }
  }

  @Test func doublePrecisionIsExactToItsOwnRounding() {
    let (rows, columns, rank) = (5, 7, 3)
    let (left, right) = Self.factors(rows, columns, rank)
    let update = LowRankUpdate64(
      left: left.map(Double.init), right: right.map(Double.init), rows: rows, columns: columns, rank: rank, scale: 2)
    var block = [Double](repeating: 1, count: rows * columns)
    var span = block.mutableSpan
    var bytes = span.mutableBytes
    update.apply(toRowsFrom: 0, of: &bytes)
    for i in 0..<rows {
      for j in 0..<columns {
        let exact = (0..<rank).reduce(1.0) { $0 + 2 * Double(left[i * rank + $1]) * Double(right[$1 * columns + j]) }
        #expect(abs(block[i * columns + j] - exact) < 1e-14)
      }
    }
  }
}

/// The kernels of a running model against plain loops in f64.
@Suite struct ModelKernelTests {
  private func random(_ count: Int, _ generator: inout TorchGenerator) -> [Float] {
    generator.uniform(count: count, low: -1, high: 1)
  }

  /// Few tokens and many, odd extents, each format, both layouts; inputs are rounded only where that is asked for.
  @Test(
    arguments: [(1, 37, 65), (3, 8, 128), (4, 130, 33), (5, 70, 33), (13, 33, 1100), (25, 64, 47)], [false, true])
  func projectionsAreTheProducts(shape: (tokens: Int, out: Int, input: Int), roundsInputs: Bool) throws {
    let (tokens, out, input) = shape
    var generator = TorchGenerator(seed: 11)
    let x = Matrix(rows: tokens, columns: input, values: random(tokens * input, &generator))
    for format in [FloatFormat.f32, .f16, .bf16] {
      for transposed in [false, true] {
        let (rows, columns) = transposed ? (input, out) : (out, input)
        var bytes = [UInt8](repeating: 0, count: rows * columns * format.byteCount)
        let values = random(rows * columns, &generator)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        encode(values.span, to: format, into: &raw)
        let w = WeightMatrix(bytes: bytes, rows: rows, columns: columns, format: format)
        let stored = w.values
        let y = w.project(x, transposed: transposed, roundsInputs: roundsInputs)
        // Rounding x to bf16 costs 2⁻⁹ of each term at most.
        let bound =
          roundsInputs && format == .bf16 && !transposed && tokens > 4
          ? Double(input) * 0x1p-9 : 1e-5 * Double(input).squareRoot()
        for t in 0..<tokens {
          for o in 0..<out {
            var sum = 0.0
            for k in 0..<input { sum += Double(stored[transposed ? k * out + o : o * input + k]) * Double(x[t, k]) }
            #expect(abs(sum - Double(y[t, o])) <= bound, "\(format) \(transposed) [\(t), \(o)]")
          }
        }
      }
    }
  }

  /// Heads that share keys, windows, widths with a kernel of their own and without, one query and more than a tile.
  @Test(arguments: [(1, 16, 2), (40, 64, 2), (7, 5, 1), (33, 48, 4)], [nil, 6])
  func attentionIsTheDefinition(shape: (tokens: Int, width: Int, heads: Int), window: Int?) {
    var generator = TorchGenerator(seed: 12)
    let (tokens, width, heads, keyHeads) = (shape.tokens, shape.width, shape.heads, max(1, shape.heads / 2))
    let total = tokens + 9
    var cache = KeyValues(stride: keyHeads * width)
    let (keys, values) = (random(total * keyHeads * width, &generator), random(total * keyHeads * width, &generator))
    cache.append(keys: keys, values: values)
    let queries = Matrix(rows: tokens, columns: heads * width, values: random(tokens * heads * width, &generator))
    let found = cache.attend(queries, width: width, scale: 0.3, window: window)
    for token in 0..<tokens {
      for head in 0..<heads {
        let own = head / (heads / keyHeads) * width
        let last = total - tokens + token + 1
        let first = window.map { max(0, last - $0) } ?? 0
        let weights = (first..<last).map { p -> Double in
          var sum = 0.0
          for d in 0..<width {
            sum += Double(queries[token, head * width + d]) * Double(keys[p * keyHeads * width + own + d])
          }
          return exp(sum * 0.3)
        }
        let all = weights.reduce(0, +)
        for d in 0..<width {
          let sum = zip(first..<last, weights).reduce(0.0) {
            $0 + $1.1 * Double(values[$1.0 * keyHeads * width + own + d])
          }
          #expect(abs(sum / all - Double(found[token, head * width + d])) <= 1e-5)
        }
      }
    }
  }

  @Test func siluIsTheDefinition() {
    let values = (0...4000).map { Float($0 - 2000) / 20 }
    var x = Matrix(rows: 1, columns: values.count, values: values)
    ActivationKernel.silu.apply(to: &x)
    for (value, found) in zip(values, x.values) {
      let wanted = Double(value) / (1 + exp(-Double(value)))
      #expect(abs(Double(found) - wanted) <= 4e-7 * max(abs(wanted), 1e-3))
    }
  }

  /// Every index once, whatever the count.
  @Test(arguments: [0, 1, 2, 17, 10_000])
  func loopsCallEachIndexOnce(count: Int) {
    nonisolated(unsafe) let counts = UnsafeMutablePointer<Int32>.allocate(capacity: max(1, count))
    counts.initialize(repeating: 0, count: max(1, count))
    Parallel.forEach(count) { counts[$0] += 1 }
    #expect((0..<count).allSatisfy { counts[$0] == 1 })
    counts.deallocate()
  }
}

@Suite struct FiniteTests {
  /// The definition: no element's exponent is all ones.
  private func allFiniteByDefinition(_ halves: [UInt16], _ exponent: UInt16) -> Bool {
    halves.allSatisfy { $0 & exponent != exponent }
  }

  @Test func everyHalfIsFiniteOrNotAsDefined() {
    for (format, exponent) in [(FloatFormat.f16, UInt16(0x7C00)), (.bf16, 0x7F80)] {
      for half in 0...UInt16.max {
        let one = [half]
        let found = allFinite(one.span.bytes, format)
        #expect(found == allFiniteByDefinition(one, exponent), "\(half)")
      }
    }
  }

  /// At every place of every length, so that vectors and their tails are covered.
  @Test func oneValueThatIsNotFiniteIsSeenWhereverItIs() {
    func check<Scalar: BinaryFloatingPoint & BitwiseCopyable>(_ type: Scalar.Type, _ format: FloatFormat) {
      for count in [0, 1, 2, 3, 15, 16, 17, 31, 64, 67, 130] {
        var values = (0..<count).map { $0 % 2 == 0 ? Scalar.greatestFiniteMagnitude : -Scalar.leastNonzeroMagnitude }
        let isFinite = allFinite(values.span.bytes, format)
        #expect(isFinite)
        for place in 0..<count {
          for value in [Scalar.infinity, -.infinity, .nan, .signalingNaN] {
            let kept = values[place]
            values[place] = value
            let found = allFinite(values.span.bytes, format)
            #expect(!found, "\(count) \(place)")
            values[place] = kept
          }
        }
      }
    }
    check(Float16.self, .f16)
    check(Float.self, .f32)
    check(Double.self, .f64)
  }
}
