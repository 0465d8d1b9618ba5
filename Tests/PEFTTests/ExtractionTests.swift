import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import PEFT

/// Extracting a LoRA from two models.
@Suite struct ExtractionTests {
  private let root = Fixtures.path("extraction")

  private static let everything: AdapterExtraction.Options = {
    var options = AdapterExtraction.Options()
    (options.savesEmbeddings, options.savesNorms, options.savesBiases) = (true, true, true)
    return options
  }()

  private func extract(
    _ name: String, to output: String, rule: RankRule, options: AdapterExtraction.Options = .init()
  ) async throws -> ExtractionReport {
    try await AdapterExtraction(
      base: "\(root)/\(name)/base", tuned: "\(root)/\(name)/tuned", rule: rule, options: options
    )
    .write(to: output)
  }

  /// ‖merged - tuned‖/‖tuned - base‖ over all tensors of the tuned model.
  private func measured(base: String, merged: String, tuned: String) throws -> Double {
    let (base, merged, tuned) = (try BaseModel(path: base), try BaseModel(path: merged), try BaseModel(path: tuned))
    func values(_ name: String, _ model: BaseModel) throws -> [Double] {
      let stored =
        model.checkpoint[name] == nil ? model.storedName(name) ?? model.tiedName(name) : name
      guard let stored, let place = model.checkpoint[stored], place.entry.dtype.format != nil else { return [] }
      return try AdapterChanges.matrix(model.checkpoint.shards[place.shard], place.entry).values
    }
    var (lost, squares) = (0.0, 0.0)
    for name in tuned.checkpoint.names {
      let (old, made, wanted) = (try values(name, base), try values(name, merged), try values(name, tuned))
      for (index, value) in wanted.enumerated() {
        let before = index < old.count ? old[index] : 0
        let result = index < made.count ? made[index] : 0
        lost += (result - value) * (result - value)
        squares += (value - before) * (value - before)
      }
    }
    return (lost / squares).squareRoot()
  }

  /// Cases in f32 in which every change can be measured in the merged model.
  @Test(
    arguments: [
      "llama", "llama-tied", "llama-untied", "llama-grown", "qwen2", "gpt2", "resnet", "mixtral", "classifier",
    ],
    [RankRule(.fixed(3)), RankRule(.energy(0.8), limit: 7), RankRule(.fixed(1000))])
  func mergingGivesTheFineTunedModelBackToTheErrorThatIsPrinted(name: String, rule: RankRule) async throws {
    for options in [AdapterExtraction.Options(), Self.everything] {
      let scratch = try ScratchDirectory()
      let report = try await extract(name, to: scratch("out"), rule: rule, options: options)
      let plan = try MergePlan(base: "\(root)/\(name)/base", adapter: scratch("out"))
      _ = try await Merger(plan).run(to: scratch("merged"))
      let error = try measured(
        base: "\(root)/\(name)/base", merged: scratch("merged"), tuned: "\(root)/\(name)/tuned")
      #expect(abs(error - report.error) < 3e-7 + 1e-5 * error, "\(name) \(rule): \(error) is not \(report.error)")
      let isWhole = rule.isFixed && rule != RankRule(.fixed(3)) && options.savesNorms
      if isWhole { #expect(error < 1e-6, "\(name): \(error)") }
      #expect(report.others.allSatisfy { $0.isSaved == (options.saves($0.kind)) })
    }
  }

  @Test func ranksAndSingularValuesAreNumPys() async throws {
    let values = try JSONValue(contentsOf: "\(root)/llama/singular.json")
    let ranks = try JSONValue(contentsOf: "\(root)/llama/ranks.json")
    for share in [0.5, 0.9] {
      let scratch = try ScratchDirectory()
      let report = try await extract("llama", to: scratch("out"), rule: RankRule(.energy(share)))
      #expect(report.modules.count == 14 && report.unchanged == 0)
      for module in report.modules {
        #expect(ranks["\(share)"]?[module.path]?.integerValue == module.rank, "\(module.path)")
        let all = (values[module.path]?.elements ?? []).compactMap {
          if case .number(let value) = $0 { value } else { nil }
        }
        #expect(
          abs(module.greatest - all[0]) < 1e-6 * all[0] && abs(module.least - all[module.rank - 1]) < 1e-6 * all[0])
        let lost = all.dropFirst(module.rank).reduce(0) { $0 + $1 * $1 } / all.reduce(0) { $0 + $1 * $1 }
        #expect(abs(module.error - lost.squareRoot()) < 1e-6, "\(module.path)")
      }
      // Every target has its own rank and alpha, and PEFT's leaf names suffice.
      let config = try PeftConfig.load(directory: scratch("out"))
      let scaling = try LoRAScaling(config, path: "")
      for module in report.modules {
        let found = try scaling.values(for: module.path)
        #expect(found.rank == module.rank && found.scale == 1)
      }
      #expect(config.taskType == "CAUSAL_LM" && config.modulesToSave == nil && config.bias == "none")
      #expect(
        config.targetModules
          == .names(["down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj"])
          || config.targetModules?.description.contains("q_proj") == true)
    }
  }

  @Test func theProductsAreThoseOfMergekit() async throws {
    let scratch = try ScratchDirectory()
    _ = try await extract("llama", to: scratch("out"), rule: RankRule(.fixed(4)))
    let (made, wanted) = (try AdapterChanges(scratch("out")), try AdapterChanges("\(root)/llama/mergekit"))
    #expect(made.changes.count == 14 && made.error(against: wanted.changes) < 1e-5)
  }

  @Test func theRoundingOfHalvesIsLeftOutAndEqualWeightsToo() async throws {
    let scratch = try ScratchDirectory()
    let report = try await extract("llama-rounded", to: scratch("out"), rule: RankRule(.energy(1)))
    #expect(
      report.modules.map(\.path) == ["mlp.down_proj", "mlp.up_proj", "self_attn.q_proj"].map { "model.layers.0.\($0)" })
    for module in report.modules {
      #expect(
        module.rank == 3 && module.signalRank == 3 && module.least > module.floor && module.floor > 0,
        "\(module.path): \(module.rank), \(module.least) \(module.floor)")
    }
    #expect(report.others.isEmpty && report.unchanged == 9)
    let fixed = try await extract("llama-rounded", to: scratch("fixed"), rule: RankRule(.fixed(8)))
    #expect(fixed.modules.allSatisfy { $0.rank == 8 && $0.signalRank == 3 })
  }

  @Test func aVocabularyThatHasGrownIsStoredOnRequestAndElseReported() async throws {
    let scratch = try ScratchDirectory()
    let report = try await extract("llama-grown", to: scratch("out"), rule: RankRule(.fixed(2)))
    let left = report.others.filter { $0.kind == .embedding || $0.kind == .head }
    #expect(left.map(\.name) == ["lm_head.weight", "model.embed_tokens.weight"] && left.allSatisfy { !$0.isSaved })
    #expect(report.notes.count == 2 && report.notes[0].contains("36 rows, 32 in the base"))
    _ = try await extract("llama-grown", to: scratch("full"), rule: RankRule(.fixed(2)), options: Self.everything)
    let file = try Adapter.openWeights(scratch("full"))
    #expect(file["base_model.model.lm_head.weight"]?.shape == [36, 16])
    #expect(try PeftConfig.load(directory: scratch("full")).ensureWeightTying == false)
  }

  @Test func aTiedHeadIsTakenOnceAndStoredUnderBothNames() async throws {
    let scratch = try ScratchDirectory()
    let report = try await extract(
      "llama-tied", to: scratch("out"), rule: RankRule(.fixed(2)), options: Self.everything)
    #expect(report.others.count { $0.kind == .embedding || $0.kind == .head } == 1)
    let config = try PeftConfig.load(directory: scratch("out"))
    #expect(config.ensureWeightTying && config.modulesToSave?.contains("lm_head") == true)
    let file = try Adapter.openWeights(scratch("out"))
    let (one, two) = (
      try #require(file["base_model.model.lm_head.weight"]),
      try #require(file["base_model.model.model.embed_tokens.weight"])
    )
    #expect(try file.file.holdsSameBytes(one.byteRange, two.byteRange))
  }

  @Test func expertsBecomeTargetParametersOfOneRank() async throws {
    let scratch = try ScratchDirectory()
    let report = try await extract("mixtral", to: scratch("out"), rule: RankRule(.energy(0.8)))
    let config = try PeftConfig.load(directory: scratch("out"))
    #expect(
      config.targetParameters == ["gate_up_proj", "down_proj"].map { "model.layers.0.mlp.experts.\($0)" })
    let ranks = Dictionary(uniqueKeysWithValues: report.modules.map { ($0.path, $0.rank) })
    let (inner, outer) = (
      ranks["model.layers.0.mlp.experts.gate_up_proj"] ?? 0, ranks["model.layers.0.mlp.experts.down_proj"] ?? 0
    )
    let file = try Adapter.openWeights(scratch("out"))
    let stem = "base_model.model.model.layers.0.mlp.experts"
    #expect(inner > 0 && file["\(stem).base_layer.lora_A.weight"]?.shape == [3 * inner, 16])
    #expect(outer > 0 && file["\(stem).lora_A.weight"]?.shape == [3 * outer, 24])
  }

  // MARK: Other dense changes

  @Test(arguments: [(160, 210), (210, 160)], [1, -0.5])
  func aDenseChangeLosesByItsLeadingDirectionsWhatItLosesByAllOfThem(shape: (Int, Int), factor: Double) throws {
    var generator = TorchGenerator(seed: 6)
    func draws(_ rows: Int, _ columns: Int) -> Matrix<Double> {
      Matrix(
        rows: rows, columns: columns,
        values: generator.normal(count: rows * columns, mean: 0, deviation: 1).map { Double($0) })
    }
    var dense = draws(shape.0, 9).times(draws(9, shape.1))
    dense.add(draws(shape.0, shape.1), scale: 0.3)
    var change = FactoredChange(output: shape.0, input: shape.1, products: [])
    change.factor = factor
    let matrix = dense
    change.products = [.dense { () throws(AdapterError) in matrix }]
    let (b, a) = try change.factors()
    let whole = try #require(LowRankReduction(b: b, a: a) { $0.count })
    for rule in [RankRule(.fixed(5)), RankRule(.energy(0.8)), RankRule(.ratio(3)), RankRule(.frobenius(0.9), limit: 4)]
    {
      let found = try #require(try change.reduction(by: rule) { $0.count })
      let rank = try #require(found.chosenRank)
      #expect(rank == rule.rank(of: whole.singularValues, extent: change.extent), "\(rule)")
      let (least, lost) = (whole.lostSquares(rank: rank).squareRoot(), found.lostSquares(rank: rank).squareRoot())
      #expect(
        lost >= least * (1 - 1e-7) && lost <= least * (1 + LeadingDecomposition.accuracy), "\(rule): \(lost / least)")
      #expect(abs(found.squares / whole.squares - 1) < 1e-9)
      // What is reported is what the factors leave.
      let exact = found.factors(b, a, rank: rank)
      var rest = b.times(a)
      rest.add(exact.b, times: exact.a, scale: -1)
      let measured = rest.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(abs(measured / lost - 1) < 1e-6)
    }
  }

  // MARK: Refusals

  /// A copy of a case's tuned model with its tensors or its configuration changed.
  private func changed(
    _ scratch: ScratchDirectory, _ name: String = "llama", config: (inout JSONValue) -> Void = { _ in },
    tensors: ([AdapterSink.Item]) -> [AdapterSink.Item] = { $0 }
  ) throws -> String {
    let source = "\(root)/\(name)/tuned"
    try FileSystem.makeDirectory(scratch("changed"))
    var settings = try JSONValue(contentsOf: "\(source)/config.json")
    config(&settings)
    try OpenFile.create(scratch("changed/config.json")).write(settings.compactText)
    let file = try SafetensorsFile(path: "\(source)/model.safetensors")
    let items = tensors(file.entries.map { .init(name: $0.name, dtype: $0.dtype, shape: $0.shape) })
    let sink = try AdapterSink(at: scratch("changed/model.safetensors"), items)
    for item in items {
      if let entry = file[item.name], entry.shape == item.shape { try sink.copy(entry, of: file, to: item.name) }
    }
    return scratch("changed")
  }

  private func refusal(_ base: String, _ tuned: String, _ output: String) async -> String? {
    do {
      _ = try await AdapterExtraction(base: base, tuned: tuned, rule: RankRule(.fixed(2))).write(to: output)
      return nil
    } catch { return "\(error)" }
  }

  @Test func whatIsNoPairIsRefusedByName() async throws {
    let base = "\(root)/llama/base"
    func expect(_ words: [String], _ make: (ScratchDirectory) throws -> String) async throws {
      let scratch = try ScratchDirectory()
      let message = await refusal(base, try make(scratch), scratch("out"))
      for word in words { #expect(message?.contains(word) == true, "\(word): \(message ?? "nothing")") }
      #expect(FileSystem.kind(scratch("out")) == nil)
    }
    try await expect(["of type qwen2", "of type llama"]) { _ in "\(root)/qwen2/tuned" }
    try await expect(["does not differ"]) { _ in base }
    try await expect(["lacks 'model.layers.1.mlp.up_proj.weight'"]) {
      try changed($0, tensors: { $0.filter { $0.name != "model.layers.1.mlp.up_proj.weight" } })
    }
    try await expect(["holds 'model.layers.2.mlp.up_proj.weight'"]) {
      try changed(
        $0, tensors: { $0 + [.init(name: "model.layers.2.mlp.up_proj.weight", dtype: .f32, shape: [2, 2])] })
    }
    try await expect(["'model.layers.0.mlp.up_proj.weight' has shape [24, 8]"]) {
      try changed(
        $0,
        tensors: { items in
          items.map {
            $0.name == "model.layers.0.mlp.up_proj.weight" ? .init(name: $0.name, dtype: $0.dtype, shape: [24, 8]) : $0
          }
        })
    }
    try await expect(["quantized", "gptq"]) {
      try changed($0, config: { $0["quantization_config"] = .object([.init("quant_method", .string("gptq"))]) })
    }
  }

  @Test func valuesThatAreNotFiniteAreRefusedByName() async throws {
    let scratch = try ScratchDirectory()
    let path = try changed(scratch)
    let file = try SafetensorsFile(path: "\(path)/model.safetensors")
    let entry = try #require(file["model.layers.0.mlp.up_proj.weight"])
    let writer = try OpenFile.open(updating: "\(path)/model.safetensors")
    let values: [Float] = [.nan]
    try writer.write(values.span.bytes, at: entry.byteRange.lowerBound + 8)
    let message = await refusal("\(root)/llama/base", path, scratch("out"))
    #expect(message?.contains("model.layers.0.mlp.up_proj") == true && message?.contains("not a number") == true)
  }
}
