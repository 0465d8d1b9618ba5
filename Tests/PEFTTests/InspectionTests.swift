import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import PEFT

/// Numbers of changes against numpy's, which Fixtures/scripts/make_inspection_fixtures.py takes from PEFT's merges in f64.
@Suite struct InspectionTests {
  static let spectra = (try? JSONValue(contentsOf: Fixtures.path("inspection/spectra.json")))?.members ?? []
  static let comparisons = (try? JSONValue(contentsOf: Fixtures.path("inspection/comparisons.json")))?.elements ?? []

  private func number(_ value: JSONValue?) -> Double { value.flatMap { Double($0.compactText) } ?? .nan }

  @Test func thereAreCases() { #expect(Self.spectra.count == 20 && Self.comparisons.count == 8) }

  @Test(arguments: spectra.map(\.key))
  func singularValuesAndEffectiveRanksAreThoseThatNumPyFindsInPEFTsMerge(name: String) async throws {
    let known = try #require(Self.spectra.first { $0.key == name }?.value)
    let root = Fixtures.path(name)
    let rows = try await ModuleStatistics(
      directory: "\(root)/adapter", base: known["base"] == .bool(true) ? "\(root)/base" : nil
    ).rows
    let modules = try #require(known["modules"]?.members)
    var seen = 0
    for row in rows {
      let expected = try #require(modules.first { $0.key == row.path || $0.key == experts(row.path, modules) }?.value)
      seen += 1
      let values = try #require(expected["values"]?.elements).map(number)
      let largest = values[0]
      // numpy has one value for each of the lesser extent's directions, a product one for each of its ranks.
      #expect(row.singularValues.count <= values.count && row.singularValues.count > 0, "\(row.path)")
      for (index, value) in values.enumerated() {
        let ours = index < row.singularValues.count ? row.singularValues[index] : 0
        #expect(abs(ours - value) <= 1e-6 * largest, "\(row.path) \(index)")
      }
      #expect(abs((row.norm ?? .nan) - number(expected["norm"])) <= 1e-6 * number(expected["norm"]), "\(row.path)")
      let rank = number(expected["effective_rank"])
      #expect(abs(row.effectiveRank - rank) <= 1e-4 * rank, "\(row.path) \(row.effectiveRank) \(rank)")
    }
    #expect(seen == modules.count)
  }

  /// A LoRA on experts is named by the wrapper that PEFT puts around its parameter.
  private func experts(_ path: String, _ modules: [JSONValue.Member]) -> String? {
    guard path.contains(".experts") else { return nil }
    let outer = path.replacing(".base_layer", with: "")
    return path.hasSuffix(".base_layer") ? "\(outer).gate_up_proj" : "\(outer).down_proj"
  }

  @Test(arguments: comparisons.indices)
  func twoAdaptersAreAsAlikeAsNumPyFindsThem(index: Int) async throws {
    let known = Self.comparisons[index]
    func path(_ key: String) -> String? { known[key]?.stringValue.map(Fixtures.path) }
    let found = try await AdapterComparison(
      try #require(path("first")), try #require(path("second")), base: path("base"))
    let modules = try #require(known["modules"]?.members)
    #expect(found.rows.map(\.path).sorted() == modules.map(\.key).sorted() && found.undeterminedCount == 0)
    for row in found.rows {
      let expected = try #require(modules.first { $0.key == row.path }?.value)
      #expect(abs((row.cosine ?? .nan) - number(expected["cosine"])) < 1e-6, "\(row.path)")
      let difference = number(expected["relative_difference"])
      #expect(abs((row.relativeDifference ?? .nan) - difference) < 1e-6 * difference, "\(row.path)")
      for (overlap, key) in [(row.columns, "columns"), (row.rows, "rows")] {
        #expect(abs((overlap?.value ?? .nan) - number(expected[key]?["value"])) < 1e-6, "\(row.path) \(key)")
        #expect(abs((overlap?.chance ?? .nan) - number(expected[key]?["chance"])) < 1e-9, "\(row.path) \(key)")
      }
    }
    func names(_ key: String) -> [String] { known[key]?.elements?.compactMap(\.stringValue) ?? [] }
    #expect(found.onlyInFirst.sorted() == names("only_first") && found.onlyInSecond.sorted() == names("only_second"))
    #expect(abs((found.cosine ?? .nan) - number(known["cosine"])) < 1e-6)
    let difference = number(known["relative_difference"])
    #expect(abs((found.relativeDifference ?? .nan) - difference) < 1e-6 * difference)
  }

  @Test(arguments: [1.0, -1.0])
  func anAdapterIsOneWithItselfAndOppositeToItsNegative(sign: Double) async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv/adapter")
    try copyDirectory(source, to: scratch("other"))
    var config = try JSONValue(contentsOf: "\(source)/adapter_config.json")
    let alpha = number(config["lora_alpha"])
    config["lora_alpha"] = .number(sign * alpha)
    try overwrite(scratch("other/adapter_config.json"), config.compactText)
    let found = try await AdapterComparison(source, scratch("other"))
    #expect(!found.rows.isEmpty && found.onlyInFirst.isEmpty && found.onlyInSecond.isEmpty)
    for row in found.rows {
      #expect(abs((row.cosine ?? .nan) - sign) < 1e-12)
      #expect(abs((row.relativeDifference ?? .nan) - (1 - sign)) < 1e-12)
      #expect(abs((row.columns?.value ?? .nan) - 1) < 1e-12 && abs((row.rows?.value ?? .nan) - 1) < 1e-12)
    }
    #expect(abs((found.cosine ?? .nan) - sign) < 1e-12)
  }

  /// DoRA's change is a part of the weight.
  @Test func whatOnlyTheBaseTellsIsNotComparedWithoutIt() async throws {
    let (dora, lora) = (Fixtures.path("merge/llama-dora/adapter"), Fixtures.path("merge/llama-f32-qv/adapter"))
    let alone = try await AdapterComparison(dora, lora)
    #expect(alone.undeterminedCount == alone.rows.count && !alone.rows.isEmpty && alone.cosine == nil)
    let whole = try await AdapterComparison(dora, lora, base: Fixtures.path("merge/llama-dora/base"))
    #expect(whole.undeterminedCount == 0 && whole.cosine != nil && whole.rows.allSatisfy { $0.cosine != nil })
  }

  @Test func changesOfOtherExtentsAreNotCompared() async throws {
    let found = try await AdapterComparison(
      Fixtures.path("merge/llama-bf16-all-linear/adapter"), Fixtures.path("merge/llama-f64/adapter"))
    for row in found.rows { #expect((row.cosine == nil) == (row.columns == nil), "\(row.path)") }
    let delta = ModuleDelta(blocks: [.dense(Matrix(rows: 2, columns: 3))])
    #expect(delta.comparison(with: ModuleDelta(blocks: [.dense(Matrix(rows: 3, columns: 2))])) == nil)
    #expect(delta.comparison(with: ModuleDelta(blocks: [])) == nil)
  }

  @Test func aChangeOfZerosHasNoDirectionsAndNoCosine() async throws {
    let untrained = Fixtures.path("untrained/lora")
    let found = try await AdapterComparison(untrained, untrained)
    #expect(!found.rows.isEmpty && found.cosine == nil && found.relativeDifference == nil)
    for row in found.rows { #expect(row.cosine == nil && row.columns == nil && row.rows == nil) }
  }

  /// Products of factors with themselves would drown what is below 1e-8 of the largest.
  @Test func smallSingularValuesAreExact() throws {
    let left = Matrix(rows: 3, columns: 2, values: [1, 0, 0, 1e-12, 0, 0])
    let right = Matrix(rows: 2, columns: 4, values: [3, 0, 0, 0, 0, 0, 5, 0])
    let values = try #require(ModuleDelta(blocks: [.product(left: left, right: right)]).spectrum()?.values)
    #expect(values.count == 2 && abs(values[0] - 3) < 1e-14 && abs(values[1] - 5e-12) < 1e-26)
    let near = Matrix(rows: 2, columns: 4, values: [3, 0, 0, 0, 0, 0, 5, 1e-3])
    let found = try #require(
      ModuleDelta(blocks: [.product(left: left, right: right)])
        .comparison(with: ModuleDelta(blocks: [.product(left: left, right: near)])))
    #expect(abs(found.differenceSquares.squareRoot() - 1e-15) < 1e-24)
  }

  /// A square of the rank would be a hundred gigabytes.
  @Test func aRankBeyondTheWeightsExtentsTakesNoMemory() async throws {
    let rank = 100_000
    let scratch = try ScratchDirectory()
    let names = ["base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"]
    let layout = try SafetensorsLayout(
      path: "adapter_model.safetensors",
      items: zip(names, [[rank, 2], [1, rank]]).map { SafetensorsLayout.Item(name: $0, dtype: .f32, shape: $1) })
    try FileSystem.makeDirectory(scratch("adapter"))
    let file = try layout.create(at: scratch("adapter/adapter_model.safetensors"))
    for entry in layout.entries {
      try file.write([Float](repeating: 1, count: entry.elementCount).span.bytes, at: entry.byteRange.lowerBound)
    }
    try overwrite(
      scratch("adapter/adapter_config.json"),
      #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": \#(rank), "target_modules": ["q_proj"]}"#)
    let rows = try await ModuleStatistics(directory: scratch("adapter")).rows
    // Each of the two elements of ΔW is the rank.
    #expect(rows.count == 1 && rows[0].singularValues.count == 1)
    #expect(abs((rows[0].norm ?? 0) - Double(rank) * 2.0.squareRoot()) < 1e-6)
  }

  @Test func aVerdictSaysWhatAnAdapterIsAndWhy() async throws {
    func verdict(_ name: String, base: String? = nil) async throws -> AdapterVerdict {
      AdapterVerdict(
        statistics: try await ModuleStatistics(directory: Fixtures.path(name), base: base.map(Fixtures.path)),
        validation: try Validation(path: Fixtures.path(name)))
    }
    for name in ["merge/llama-f32-qv/adapter", "methods/loha/adapter", "methods/ia3/adapter"] {
      #expect(try await verdict(name).kind == .healthy, "\(name)")
    }
    for name in ["untrained/lora", "untrained/ia3", "untrained/oft"] {
      let found = try await verdict(name)
      #expect(found.kind == .untrained && found.reasons[0].contains("None of 4 modules"), "\(name) \(found)")
    }
    let open = try await verdict("methods/prompt-tuning/adapter")
    #expect(open.kind == .undecided && open.reasons[0].contains("only the base tells"))
    let pissa = try await verdict("untrained/pissa", base: "merge/llama-bias-all/base")
    #expect(pissa.kind == .untrained)
  }

  @Test func aVerdictOfBrokenNamesTheReason() async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv/adapter")
    try copyDirectory(source, to: scratch("adapter"))
    let path = scratch("adapter/adapter_model.safetensors")
    let file = try SafetensorsFile(path: path)
    let good = try contents(path)
    func poisoned(_ value: Float, where isPoisoned: (TensorEntry) -> Bool) -> [UInt8] {
      var bytes = good
      for entry in file.entries where isPoisoned(entry) {
        for start in stride(from: entry.byteRange.lowerBound, to: entry.byteRange.upperBound, by: 4) {
          for (index, byte) in withUnsafeBytes(of: value, { Array($0) }).enumerated() { bytes[start + index] = byte }
        }
      }
      return bytes
    }
    func verdict() async throws -> AdapterVerdict {
      AdapterVerdict(
        statistics: try await ModuleStatistics(directory: scratch("adapter")),
        validation: try Validation(path: scratch("adapter")))
    }
    try overwrite(path, poisoned(.nan) { $0.name.contains("layers.0.self_attn.q_proj.lora_A") })
    let broken = try await verdict()
    #expect(broken.kind == .broken && broken.reasons[0].contains("'model.layers.0.self_attn.q_proj'"))
    try overwrite(path, poisoned(0) { $0.name.contains("layers.0.") && $0.name.contains("lora_B") })
    let partly = try await verdict()
    #expect(partly.kind == .partlyUntrained && partly.reasons[0].contains("2 of 4 modules"))
    try overwrite(path, good)
    let misfit = AdapterVerdict(
      statistics: try await ModuleStatistics(directory: scratch("adapter")),
      validation: try Validation(path: scratch("adapter")), mismatch: "no q_proj.")
    #expect(misfit.kind == .broken && misfit.reasons == ["It does not fit the base: no q_proj."])
    var config = try JSONValue(contentsOf: "\(source)/adapter_config.json")
    config["r"] = .integer(3)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let validation = try Validation(path: scratch("adapter"))
    let rank = AdapterVerdict(statistics: nil, validation: validation)
    #expect(rank.kind == .broken && rank.reasons[0].contains("the configuration says 3"))
  }
}
