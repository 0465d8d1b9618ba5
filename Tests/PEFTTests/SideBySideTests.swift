import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Factors put side by side: what is copied, what is multiplied, and what fills the rest.
@Suite struct SideBySideTests {
  private struct Shape {
    let path: String
    let output: Int
    let input: Int
  }

  /// A LoRA in memory whose values are multiples of 1/128 drawn from a seed.
  private func adapter(
    _ shapes: [Shape], rank: Int, alpha: Int, dtype: DType = .bf16, seed: UInt64,
    change: (inout [Float]) -> Void = { _ in }
  ) throws -> StoredAdapter {
    var config = PeftConfig()
    (config.rank, config.alpha) = (rank, .integer(alpha))
    config.targetModules = .names(shapes.map(\.path))
    var generator = SeededGenerator(seed: seed)
    var items: [AdapterSink.Item] = []
    for shape in shapes {
      items.append(.init(name: a(shape.path), dtype: dtype, shape: [rank, shape.input]))
      items.append(.init(name: b(shape.path), dtype: dtype, shape: [shape.output, rank]))
    }
    return try StoredAdapter(config, items, named: "drawn from seed \(seed)") { sink throws(AdapterError) in
      for item in items {
        var values = (0..<item.shape.reduce(1, *)).map { _ in Float(Int(generator.next() >> 56)) / 128 - 1 }
        change(&values)
        try sink.write(values, to: item.name)
      }
    }
  }

  private func a(_ path: String) -> String { "base_model.model.\(path).lora_A.weight" }
  private func b(_ path: String) -> String { "base_model.model.\(path).lora_B.weight" }

  private func bytes(_ file: SafetensorsFile, _ name: String) throws -> [UInt8] {
    try file.file.bytes(try #require(file[name], "\(name)").byteRange)
  }

  /// The rows of lora_B of several files next to each other, then zeros.
  private func joined(_ files: [SafetensorsFile], _ path: String, rows: Int, width: Int) throws -> [UInt8] {
    let parts = try files.map { try bytes($0, b(path)) }
    return (0..<rows).flatMap { row in
      let filled = parts.flatMap { part in
        part[part.count / rows * row..<part.count / rows * (row + 1)]
      }
      return filled + [UInt8](repeating: 0, count: width - filled.count)
    }
  }

  @Test(arguments: [DType.bf16, .f16, .f32, .f64], [1, 3])
  func factorsOfEqualScaleAreCopiedByteForByte(dtype: DType, workers: Int) async throws {
    let scratch = try ScratchDirectory()
    // The first is longer than what is put together at once.
    let shapes = [Shape(path: "long", output: 70_001, input: 5), Shape(path: "short", output: 7, input: 300)]
    let one = try adapter(shapes, rank: 8, alpha: 16, dtype: dtype, seed: 1)
    let two = try adapter(shapes + [Shape(path: "more", output: 3, input: 4)], rank: 3, alpha: 6, dtype: dtype, seed: 2)
    let report = try await AdapterCombination([(one, 1), (two, 1)]).write(to: scratch("out"), workers: workers)
    #expect(report.error == 0 && report.modules.map(\.path) == ["long", "more", "short"])
    let made = try SafetensorsFile(path: scratch("out/adapter_model.safetensors"))
    for shape in shapes {
      #expect(
        try bytes(made, a(shape.path)) == bytes(one.weights, a(shape.path)) + bytes(two.weights, a(shape.path)))
      let width = 11 * dtype.bitCount / 8
      #expect(
        try bytes(made, b(shape.path))
          == joined([one.weights, two.weights], shape.path, rows: shape.output, width: width))
    }
    #expect(try bytes(made, b("more")) == bytes(two.weights, b("more")))
  }

  @Test func aPowerOfTwoMultipliesHalfFactorsExactlyAndFillsRanksWithZeros() async throws {
    let scratch = try ScratchDirectory()
    let shapes = (0..<4).map { Shape(path: "m\($0)", output: 5 + 30 * $0, input: 9) }
    let one = try adapter(shapes, rank: 5, alpha: 5, seed: 3)
    let two = try adapter(Array(shapes.dropLast()), rank: 2, alpha: 4, seed: 4)
    var options = AdapterCombination.Options()
    options.isPlain = true
    let report = try await AdapterCombination([(one, 1), (two, -0.25)], options: options).write(to: scratch("out"))
    #expect(report.error == 0 && report.modules.allSatisfy { $0.squares == nil })
    let made = try AdapterChanges(scratch("out"))
    #expect(made.file.entries.allSatisfy { $0.dtype == .bf16 })
    try one.save(to: scratch("one"))
    try two.save(to: scratch("two"))
    let (first, second) = (try AdapterChanges(scratch("one")).changes, try AdapterChanges(scratch("two")).changes)
    for (path, change) in made.changes {
      let wanted = try #require(first[path])
      for index in wanted.values.indices {
        #expect(change.values[index] == wanted.values[index] - 0.25 * (second[path]?.values[index] ?? 0))
      }
    }
    // What only one adapter has is filled up.
    #expect(
      try bytes(made.file, b("m3")) == joined([one.weights], "m3", rows: 95, width: 14))
  }

  @Test func whatAHalfDtypeCannotHoldIsWrittenInF32AndTheErrorIsTheOneReported() async throws {
    let scratch = try ScratchDirectory()
    let shapes = [Shape(path: "m", output: 40, input: 30)]
    let (one, two) = (try adapter(shapes, rank: 2, alpha: 2, seed: 5), try adapter(shapes, rank: 3, alpha: 3, seed: 6))
    let report = try await AdapterCombination([(one, 1), (two, 0.3)]).write(to: scratch("out"))
    let made = try AdapterChanges(scratch("out"))
    #expect(made.file.entries.allSatisfy { $0.dtype == .f32 })
    try one.save(to: scratch("one"))
    try two.save(to: scratch("two"))
    var wanted = try AdapterChanges(scratch("one")).changes
    let second = try #require(try AdapterChanges(scratch("two")).changes["m"])
    for index in second.values.indices { wanted["m"]?.values[index] += 0.3 * second.values[index] }
    let error = made.error(against: wanted)
    #expect(error > 0 && error < 1e-7 && abs(error - report.error) < 1e-3 * error, "\(error), \(report.error)")
  }

  @Test func aPowerOfTwoThatLeavesF16sRangeIsReported() async throws {
    let scratch = try ScratchDirectory()
    let shapes = [Shape(path: "m", output: 4, input: 3)]
    // Half of the least f16 is nothing.
    let one = try adapter(shapes, rank: 1, alpha: 1, dtype: .f16, seed: 7) { $0 = $0.map { _ in 0x1p-24 } }
    let report = try await AdapterCombination([(one, 1), (one, 0.5)]).write(to: scratch("out"))
    // 1 + 1/2 became 1.
    #expect(abs(report.error - 1.0 / 3) < 1e-6)
    #expect(report.modules.allSatisfy { $0.squares != nil })
  }

  @Test(arguments: [1.0, 0.3])
  func valuesThatAreNoNumbersAreRefusedWhereTheyAreMultiplied(weight: Double) async throws {
    let scratch = try ScratchDirectory()
    let shapes = [Shape(path: "m", output: 4, input: 3)]
    let one = try adapter(shapes, rank: 1, alpha: 2, seed: 8)
    let two = try adapter(shapes, rank: 1, alpha: 1, seed: 9) { $0[1] = .infinity }
    await #expect(throws: AdapterError.self) {
      try await AdapterCombination([(one, weight), (two, 0.7)]).write(to: scratch("out"))
    }
    #expect(FileSystem.kind(scratch("out")) == nil)
  }
}
