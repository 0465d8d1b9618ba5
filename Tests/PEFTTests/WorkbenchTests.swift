import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Combining, resizing and converting adapters.
@Suite struct WorkbenchTests {
  private let root = Fixtures.path("workbench")

  // MARK: Combining

  /// The weighted sum by PEFT, and the error that is allowed beside the one that is reported.
  @Test(arguments: [nil, RankRule(.fixed(3)), RankRule(.fixed(30)), RankRule(.energy(0.9))], [false, true])
  func aCombinationIsTheWeightedSumToTheErrorThatItReports(rule: RankRule?, isPlain: Bool) async throws {
    let scratch = try ScratchDirectory()
    var options = AdapterCombination.Options()
    (options.rule, options.isPlain) = (rule, isPlain)
    let report = try await AdapterCombination(
      [(StoredAdapter(directory: "\(root)/combine/one"), 1), (StoredAdapter(directory: "\(root)/combine/two"), -0.5)],
      options: options
    ).write(to: scratch("out"))
    let made = try AdapterChanges(scratch("out"))
    let expected = try AdapterChanges.expected("\(root)/combine/expected.safetensors")
    #expect(Set(made.changes.keys) == Set(expected.keys))
    let error = made.error(against: expected)
    #expect(abs(error - report.error) < 1e-7 + 1e-5 * error, "\(error) is not \(report.error)")
    if rule == nil || rule == RankRule(.fixed(30)) { #expect(error < 1e-7) }
    for module in report.modules {
      let single = made.error(against: expected, path: module.path)
      #expect(abs(single - module.error) < 1e-7 + 1e-5 * single, "\(module.path)")
    }
    // The head that only one adapter has is there, byte for byte.
    #expect(made.config.modulesToSave == ["head"])
    let two = try SafetensorsFile(path: "\(root)/combine/two/adapter_model.safetensors")
    let name = "base_model.model.head.weight"
    let (a, b) = (try #require(two[name]), try #require(made.file[name]))
    #expect(try two.file.holdsSameBytes(a.byteRange, b.byteRange, of: made.file.file))
    if isPlain {
      #expect(made.config.rankPattern.entries.isEmpty && made.config.alphaPattern.entries.isEmpty)
      #expect(made.config.alpha?.doubleValue == Double(made.config.rank))
      #expect(made.config.targetModules == .names(["conv", "embed", "down", "mix", "up"]))
    }
  }

  @Test(arguments: [
    "workbench/combine/one", "workbench/combine/two", "merge/llama-dora/adapter", "methods/vera/adapter",
  ])
  func oneAdapterOfWeightOneKeepsItsBytes(directory: String) async throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path(directory)
    _ = try await AdapterCombination([(StoredAdapter(directory: source), 1)]).write(to: scratch("out"))
    try StoredAdapter(directory: source).save(to: scratch("saved"))
    for name in [Adapter.weightsName, PeftConfig.fileName] {
      let (a, b) = (
        try OpenFile.open(reading: scratch("out/\(name)")), try OpenFile.open(reading: scratch("saved/\(name)"))
      )
      #expect(try SHA256.digest(of: a) == SHA256.digest(of: b))
    }
  }

  @Test func theBiasOfLoraBIsScaledAndAddedAsTheFactorsAre() async throws {
    let scratch = try ScratchDirectory()
    _ = try await AdapterCombination([
      (StoredAdapter(directory: "\(root)/combine/three"), 1), (StoredAdapter(directory: "\(root)/combine/four"), -0.5),
    ]).write(to: scratch("out"))
    let made = try AdapterChanges(scratch("out"))
    let expected = try AdapterChanges.expected("\(root)/combine/expected-bias.safetensors")
    #expect(made.config.loraBias)
    for (name, value) in expected where name.hasSuffix(".bias") {
      let path = String(name.dropLast(".bias".count))
      let bias = try made.values("base_model.model.\(path).lora_B.bias").map { $0 * made.scale(path) }
      for (x, y) in zip(bias, value.values) { #expect(abs(x - y) < 1e-6, "\(name)") }
    }
    #expect(made.error(against: expected.filter { !$0.key.hasSuffix(".bias") }) < 1e-7)
  }

  @Test func adaptersThatCancelMakeAZeroOfRankOneWithoutNaN() async throws {
    let scratch = try ScratchDirectory()
    let one = try StoredAdapter(directory: "\(root)/combine/one")
    var options = AdapterCombination.Options()
    options.rule = RankRule(.energy(0.9))
    let report = try await AdapterCombination([(one, 1), (one, -1)], options: options).write(to: scratch("out"))
    #expect(report.error == 0 && report.modules.allSatisfy { $0.rank == 1 })
    let made = try AdapterChanges(scratch("out"))
    #expect(made.changes.values.allSatisfy { $0.values.allSatisfy { $0 == 0 } })
  }

  @Test func aSecondHeadIsRefusedUnlessTheMeanIsAskedFor() async throws {
    let scratch = try ScratchDirectory()
    let two = try StoredAdapter(directory: "\(root)/combine/two")
    let name = "base_model.model.head.weight"
    let other = try StoredAdapter(
      two.config, two.weights.entries.map { .init(name: $0.name, dtype: $0.dtype, shape: $0.shape) }, named: "other"
    ) { sink throws(AdapterError) in
      for entry in two.weights.entries { try sink.copy(entry, of: two.weights, to: entry.name) }
      try sink.write([Float](repeating: 1, count: 48), to: name)
    }
    #expect(throws: AdapterError.self) { try AdapterCombination([(two, 1), (other, 1)]) }
    var options = AdapterCombination.Options()
    options.averagesSaved = true
    _ = try await AdapterCombination([(two, 3), (other, 1)], options: options).write(to: scratch("out"))
    let (made, source) = (try AdapterChanges(scratch("out")), try AdapterChanges("\(root)/combine/two"))
    for (mean, value) in zip(try made.values(name), try source.values(name)) {
      #expect(abs(mean - (0.75 * value + 0.25)) < 1e-6)
    }
  }

  @Test(arguments: ["merge/llama-dora", "variants/llama-pissa", "variants/llama-kasa", "methods/lokr"])
  func whatIsMoreThanFactorsIsRefusedByName(directory: String) throws {
    let stored = try StoredAdapter(directory: Fixtures.path("\(directory)/adapter"))
    let error = #expect(throws: AdapterError.self) { try AdapterCombination([(stored, 1), (stored, 1)]) }
    guard case .optionNeeded(_, let what, _, let option)? = error else {
      Issue.record("\(error as Any)")
      return
    }
    #expect(what.hasPrefix("combining ") && option == .giveBaseForPlainLoRA)
  }

  private static func match(_ base: String, _ adapter: String) throws -> AdapterMatch {
    try AdapterMatch(base: base, adapters: [MergePlan.Input(adapter)])
  }

  @Test(arguments: ["merge/llama-dora", "variants/llama-pissa", "methods/lokr", "methods/oft"])
  func withItsBaseAnAdapterOfAnyMethodIsCombined(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (base, directory) = (Fixtures.path("\(name)/base"), Fixtures.path("\(name)/adapter"))
    let stored = try StoredAdapter(directory: directory)
    var options = AdapterCombination.Options()
    options.base = base
    let report = try await AdapterCombination([(stored, 0.5), (stored, 0.5)], options: options).write(
      to: scratch("out"))
    #expect(report.error < 1e-6)
    let wanted = try Self.match(base, directory).computedTensors(widening: true)
    let found = try Self.match(base, scratch("out")).computedTensors(widening: true)
    let byName = Dictionary(found.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    for tensor in wanted where tensor.dtype == .f32 {
      let (a, b) = (AdapterChanges.floats(tensor.bytes), AdapterChanges.floats(try #require(byName[tensor.name]).bytes))
      let worst = zip(a, b).map { abs($0 - $1) }.max() ?? 0
      #expect(worst <= (a.map(abs).max() ?? 0) * 2e-5, "\(tensor.name): \(worst)")
    }
  }

  /// DoRA and a plain LoRA of one model, by a rule of ranks and by a method: against the sum of the changes that a merge makes.
  @Test(
    arguments: [RankRule(.fixed(40)), RankRule(.energy(1)), nil],
    [nil, CombinationMethod.dare(density: 1, elects: false)])
  func aComputedChangeIsAddedToStoredFactors(rule: RankRule?, method: CombinationMethod?) async throws {
    let scratch = try ScratchDirectory()
    let base = Fixtures.path("merge/llama-dora/base")
    let dora = try StoredAdapter(directory: Fixtures.path("merge/llama-dora/adapter"))
    // The same factors without their magnitudes.
    var config = dora.config
    config.useDoRA = false
    let entries = dora.weights.entries.filter { !$0.name.contains("magnitude") }
    let plain = try StoredAdapter(
      config, entries.map { .init(name: $0.name, dtype: $0.dtype, shape: $0.shape) }, named: "plain"
    ) { sink throws(AdapterError) in
      for entry in entries { try sink.copy(entry, of: dora.weights, to: entry.name) }
    }
    try plain.save(to: scratch("plain"))
    var options = AdapterCombination.Options()
    (options.rule, options.method, options.base) = (rule, method, base)
    guard method == nil || rule != nil else {
      #expect(throws: AdapterError.self) { try AdapterCombination([(dora, 0.5), (plain, -2)], options: options) }
      return
    }
    let report = try await AdapterCombination([(dora, 0.5), (plain, -2)], options: options).write(to: scratch("out"))
    #expect(report.error < 1e-4)
    func changes(_ adapter: String) throws -> [String: [Double]] {
      var found: [String: [Double]] = [:]
      let checkpoint = try Checkpoint(path: base)
      for tensor in try Self.match(base, adapter).computedTensors(widening: true)
      where tensor.dtype == .f32 {
        let location = try #require(checkpoint[tensor.name])
        let before = try AdapterChanges.matrix(checkpoint.shards[location.shard], location.entry).values
        found[tensor.name] = zip(AdapterChanges.floats(tensor.bytes), before).map { Double($0) - $1 }
      }
      return found
    }
    let (first, second, made) = (
      try changes(Fixtures.path("merge/llama-dora/adapter")), try changes(scratch("plain")), try changes(scratch("out"))
    )
    #expect(Set(made.keys) == Set(first.keys) && !made.isEmpty)
    for (name, values) in made {
      let wanted = zip(try #require(first[name]), try #require(second[name])).map { 0.5 * $0 - 2 * $1 }
      let size = wanted.map(abs).max() ?? 0
      let worst = zip(values, wanted).map { abs($0 - $1) }.max() ?? 0
      #expect(worst <= size * 1e-4, "\(name): \(worst) of \(size)")
    }
  }

  // MARK: Resizing

  @Test func ranksAreThoseOfTheRulesAndOfKohyasScriptOneMore() async throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: "\(root)/resize/adapter")
    let json = try JSONValue(contentsOf: "\(root)/resize/ranks.json")
    let rules: [(String, RankRule.Choice)] = [
      ("sv_ratio 4.0", .ratio(4)), ("sv_ratio 40.0", .ratio(40)), ("sv_cumulative 0.7", .cumulative(0.7)),
      ("sv_fro 0.9", .frobenius(0.9)),
    ]
    for (name, choice) in rules {
      let kohya = try await AdapterResize(stored, rule: RankRule(choice, limit: 5, countsAsKohya: true))
        .write(to: scratch("kohya-\(name)"))
      let plain = try await AdapterResize(stored, rule: RankRule(choice, limit: 5)).write(to: scratch("plain-\(name)"))
      for (module, exact) in zip(kohya.modules, plain.modules) {
        let wanted = try #require(json[module.path]?[name]?.integerValue)
        #expect(module.rank == wanted, "\(name) of \(module.path)")
        #expect(exact.rank == wanted - 1 || (wanted == 5 && exact.rank == 5), "\(name) of \(module.path)")
      }
    }
  }

  @Test func aResizedAdapterIsTheBestApproximationAndReportsItsError() async throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: "\(root)/resize/adapter")
    let json = try JSONValue(contentsOf: "\(root)/resize/ranks.json")
    let report = try await AdapterResize(stored, rule: RankRule(.fixed(2))).write(to: scratch("out"))
    let (made, source) = (try AdapterChanges(scratch("out")), try AdapterChanges("\(root)/resize/adapter"))
    for module in report.modules {
      #expect(module.rank == 2)
      let values = try #require(json[module.path]?["values"]?.elements).map { value -> Double in
        if case .number(let number) = value { number } else { .nan }
      }
      let squares = values.reduce(0) { $0 + $1 * $1 }
      let best = (values.dropFirst(2).reduce(0) { $0 + $1 * $1 } / squares).squareRoot()
      #expect(abs(made.error(against: source.changes, path: module.path) - best) < 1e-6)
      #expect(abs(module.error - best) < 1e-6)
      #expect(abs(made.scale(module.path) - source.scale(module.path)) < 1e-12)
    }
    #expect(abs(made.error(against: source.changes) - report.error) < 1e-6)
  }

  @Test(arguments: ["workbench/combine/one", "workbench/combine/two", "variants/qwen3-moe-patterns/adapter"])
  func aGreaterRankAddsZerosAndLosesNothing(directory: String) async throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: Fixtures.path(directory))
    let report = try await AdapterResize(stored, rule: RankRule(.fixed(11))).write(to: scratch("out"))
    #expect(report.error == 0)
    let (made, source) = (try AdapterChanges(scratch("out")), try AdapterChanges(Fixtures.path(directory)))
    #expect(made.error(against: source.changes) < 1e-12 && !made.changes.isEmpty)
  }

  @Test(arguments: ["qwen3-moe-all-linear", "gpt-oss-experts", "qwen3-moe-patterns"])
  func expertsAreResizedAndCombinedEachForItself(name: String) async throws {
    let scratch = try ScratchDirectory()
    let directory = Fixtures.path("variants/\(name)/adapter")
    let stored = try StoredAdapter(directory: directory)
    let source = try AdapterChanges(directory)
    let report = try await AdapterResize(stored, rule: RankRule(.fixed(1))).write(to: scratch("small"))
    let small = try AdapterChanges(scratch("small"))
    #expect(abs(small.error(against: source.changes) - report.error) < 1e-6)
    #expect(report.error > 0 && report.error < 1)
    _ = try await AdapterCombination([(stored, 0.75), (stored, 0.25)]).write(to: scratch("sum"))
    #expect(try AdapterChanges(scratch("sum")).error(against: source.changes) < 1e-6)
  }

  @Test func theFactorsOfALoRAThatWaitsForTokensAreResized() async throws {
    let scratch = try ScratchDirectory()
    let directory = "\(root)/resize/adapter"
    var config = try PeftConfig.load(directory: directory)
    config.aloraInvocationTokens = .array([.integer(5), .integer(7)])
    let stored = StoredAdapter(config, weights: try Adapter.openWeights(directory), named: "waiting")
    let report = try await AdapterResize(stored, rule: RankRule(.fixed(2))).write(to: scratch("out"))
    let plain = try await AdapterResize(StoredAdapter(directory: directory), rule: RankRule(.fixed(2)))
      .write(to: scratch("plain"))
    #expect(report.error == plain.error && report.error > 0)
    #expect(try PeftConfig.load(directory: scratch("out")).aloraInvocationTokens == config.aloraInvocationTokens)
    #expect(
      try contents(scratch("out/adapter_model.safetensors")) == contents(scratch("plain/adapter_model.safetensors")))
    // Merging it stays impossible.
    #expect(throws: AdapterError.self) { try Adapter(directory: scratch("out")) }
  }

  @Test(arguments: ["kohya-sd1", "kohya-sdxl", "kohya-flux"])
  func aFileOfKohyasIsResizedAsWhatItIs(name: String) async throws {
    let scratch = try ScratchDirectory()
    let path = Fixtures.path("dialects/\(name)/foreign.safetensors")
    let parts = try StoredAdapter.all(at: path)
    #expect(!parts.isEmpty && parts.allSatisfy { $0.component != nil })
    let rule = RankRule(.ratio(3), limit: 2, countsAsKohya: true)
    let resizes = try parts.map { ($0.component ?? "", try AdapterResize($0.adapter, rule: rule)) }
    let report = try await AdapterResize.write(resizes, from: path, to: scratch("out"))
    var modules = 0
    for (component, adapter) in parts {
      let component = try #require(component)
      try adapter.save(to: scratch("whole-\(component)"))
      let source = try AdapterChanges(scratch("whole-\(component)"))
      let made = try AdapterChanges(scratch("out/\(component)"))
      for module in report.modules where module.path.hasPrefix("\(component).") {
        let path = String(module.path.dropFirst(component.count + 1))
        let error = made.error(against: source.changes, path: path)
        #expect(abs(error - module.error) < 1e-6, "\(path): \(error), \(module.error)")
        #expect(module.rank <= 2 && abs(made.scale(path) - source.scale(path)) < 1e-9)
        modules += 1
      }
    }
    #expect(modules == report.modules.count && modules > 0)
  }

  // MARK: Converting

  @Test func aLoHaBecomesALoRAOfTheRanksThatPEFTGivesIt() async throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: "\(root)/convert/adapter")
    let json = try JSONValue(contentsOf: "\(root)/convert/ranks.json")
    let expected = try AdapterChanges.expected("\(root)/convert/expected.safetensors")
    for share in ["0.5", "0.9", "0.99"] {
      let report = try await LoRAConversion(stored, rule: RankRule(.energy(Double(share)!))).write(to: scratch(share))
      for module in report.modules { #expect(module.rank == json[share]?[module.path]?.integerValue) }
      #expect(abs(try AdapterChanges(scratch(share)).error(against: expected) - report.error) < 1e-6)
    }
    _ = try await LoRAConversion(stored).write(to: scratch("whole"))
    #expect(try AdapterChanges(scratch("whole")).error(against: expected) < 1e-6)
  }

  /// Every fixture of a method that a merge changes weights with.
  private static var convertible: [String] {
    get throws {
      let methods = try FileSystem.names(in: Fixtures.path("methods")).map { "methods/\($0)" }
      let variants = ["llama-pissa", "llama-olora", "llama-kasa", "gpt2-pissa", "llama-block-diagonal"].map {
        "variants/\($0)"
      }
      let merges = ["llama-dora", "gpt2-dora", "llama-embedding-dora", "resnet-convolution-dora", "llama-lora-bias"].map
      {
        "merge/\($0)"
      }
      return (methods + variants + merges).sorted()
    }
  }

  /// The conversion of all ranks; nil for what no LoRA holds, which is refused by name.
  private static func conversion(of stored: StoredAdapter, base: String) throws -> LoRAConversion? {
    do {
      return try LoRAConversion(stored, base: base, rule: RankRule(.energy(1)))
    } catch {
      guard case .notPossible = error else { throw error }
      return nil
    }
  }

  @Test func aLoRAOfAnyMethodMergesToWhatTheMethodMergesTo() async throws {
    let scratch = try ScratchDirectory()
    var converted = 0
    for name in try Self.convertible {
      let (base, adapter) = (Fixtures.path("\(name)/base"), Fixtures.path("\(name)/adapter"))
      guard FileSystem.kind(base) == .directory, let stored = try? StoredAdapter(directory: adapter),
        let match = try? Self.match(base, adapter)
      else { continue }
      guard let conversion = try Self.conversion(of: stored, base: base) else { continue }
      let out = scratch("out-\(converted)")
      let report = try await conversion.write(to: out)
      #expect(report.error < 0.01, "\(name)")
      let wanted = try match.computedTensors(widening: true)
      let found = try Self.match(base, out).computedTensors(widening: true)
      #expect(Set(wanted.map(\.name)) == Set(found.map(\.name)), "\(name)")
      let byName = Dictionary(found.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
      for tensor in wanted where tensor.dtype == .f32 {
        let other = try #require(byName[tensor.name], "\(name)")
        let (a, b) = (AdapterChanges.floats(tensor.bytes), AdapterChanges.floats(other.bytes))
        let size = a.map(abs).max() ?? 0
        // Adapters in a half dtype give factors in it.
        let isHalf = stored.weights.entries.contains { $0.dtype == .bf16 || $0.dtype == .f16 }
        let worst = zip(a, b).map { abs($0 - $1) }.max() ?? 0
        #expect(worst <= size * (isHalf ? 2e-2 : 2e-5), "\(tensor.name) of \(name): \(worst) of \(size)")
      }
      converted += 1
    }
    #expect(converted > 60, "\(converted)")
  }

  @Test func aChangeThatDependsOnTheWeightNeedsTheBaseAndAnyRankNeedsARule() throws {
    let oft = try StoredAdapter(directory: Fixtures.path("methods/oft/adapter"))
    #expect(throws: AdapterError.self) { try LoRAConversion(oft, rule: RankRule(.fixed(4))) }
    #expect(throws: AdapterError.self) { try LoRAConversion(oft, base: Fixtures.path("methods/oft/base")) }
    let dora = try StoredAdapter(directory: Fixtures.path("merge/llama-dora/adapter"))
    #expect(throws: AdapterError.self) { try LoRAConversion(dora, rule: RankRule(.fixed(4))) }
    let tokens = try StoredAdapter(directory: Fixtures.path("methods/trainable-tokens/adapter"))
    #expect(throws: AdapterError.self) {
      try LoRAConversion(tokens, base: Fixtures.path("methods/trainable-tokens/base"), rule: RankRule(.fixed(4)))
    }
  }
}
